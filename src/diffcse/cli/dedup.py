"""diffcse dedup: a text without its near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffcse.cli.common import COLUMN, DEVICE, MAX_TOKENS, MODEL, PROMPT, PROMPT_NAME, TEXT_FILE, TRUST, loader, notes
from diffcse.errors import UserError


def dedup(
    file: Annotated[
        str,
        typer.Argument(help=f"{TEXT_FILE}.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the kept lines.", show_default=False)],
    report: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines: each dropped line, the kept one it repeats, their cosine. Default: OUTPUT.report.jsonl."
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Cosine similarity from which a line repeats another, 0 to 1.")
    ] = 0.9,
    model: MODEL = None,
    prompt_name: PROMPT_NAME = None,
    prompt: PROMPT = None,
    max_tokens: MAX_TOKENS = None,
    column: COLUMN = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Keep each line that is not too similar to one kept before it; blank lines are left out.

    Exact: every line is compared with all that are kept, and their vectors are held in memory.
    """
    if not 0 < threshold <= 1:
        raise UserError("--threshold", "above 0 and at most 1", threshold, "use 0.9")
    from diffcse.encoding.encode import EncodeSettings
    from diffcse.encoding.prompts import resolve_prompt
    from diffcse.progress import counting, make_console, say
    from diffcse.search.dedup import dedup_file

    console = make_console()
    listing = report or Path(f"{output}.report.jsonl")
    with counting(console, "dedup") as show:
        counts = dedup_file(
            file,
            output,
            listing,
            loader(model, device, trust_remote_code),
            threshold=threshold,
            settings=EncodeSettings(max_tokens=max_tokens, normalize=True),
            column=column,
            overwrite=overwrite,
            prompt=lambda encoder: resolve_prompt(encoder, None, prompt_name, prompt),
            on_progress=show,
        )
    text = f"{output}: kept {counts.kept:,} lines, dropped {counts.dropped:,} with a cosine of {threshold} or more"
    say(console, "; ".join([text, f"{listing} says which", *notes(counts)]))
