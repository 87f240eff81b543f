"""Put a trained model into the package as its default encoder: half precision, with how it and its start were made.

python experiments/bundle.py runs/seeds/diffcse-cooccur-0 --start runs/start
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from diffcse.persistence.save import save_folder
from diffcse.resources import DEFAULT_ENCODER

RESOURCES = Path(__file__).parents[1] / "src" / "diffcse" / "resources"
TEXT = """
## Text

A million sentences of English Wikipedia (dumps of 2014 to 2021, CC BY-SA), without the sentences of the evaluation
sets. No labels were trained on; STS-B dev chose the step, STS-B dev and SICK's trial and train sets the settings. The
weights are in half precision. Results with several seeds: docs/experiments.md.
"""


def main() -> None:
    """Write the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a finished run")
    parser.add_argument("--start", type=Path, required=True, help="folder that the run started from")
    parser.add_argument("--folder", type=Path, default=RESOURCES / DEFAULT_ENCODER)
    args = parser.parse_args()
    model = SentenceTransformer(str(args.model), device="cpu", model_kwargs={"dtype": torch.float16})
    card = (args.model / "README.md").read_text(encoding="utf-8").replace(f"`{args.start}`", "the one described below")
    card = card.replace(f'"encoder": "{args.start}"', '"encoder": "start"').replace(f"base_model: {args.start}\n", "")
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    readme = card.replace("\n## Citation", TEXT + start_section(args.start) + "\n## Citation")
    save_folder(model, args.folder, {"README.md": readme.encode()})
    (args.folder / "model.safetensors").chmod(0o644)


def start_section(start: Path) -> str:
    """The body of the start's own card, one level down."""
    body = (start / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
    text = body.split("# Sentence encoder from word co-occurrence\n", 1)[1]
    return f"\n## The start\n{text}"


if __name__ == "__main__":
    main()
