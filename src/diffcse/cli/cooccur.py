"""diffcse cooccur: a start for training from counting alone, in minutes on one core."""

from __future__ import annotations

from typing import Any

from diffcse.cli.common import COLUMN
from diffcse.cli.options import CACHE, MODEL_FOLDER, SOURCES, with_fields, without_none
from diffcse.pretraining.config import CooccurConfig


def cooccur(
    sources: SOURCES,
    output: MODEL_FOLDER,
    column: COLUMN = None,
    cache: CACHE = None,
    **options: Any,
) -> None:
    """Make an encoder to start from out of word co-occurrence in plain text; no labels, minutes on one core."""
    config = CooccurConfig(**without_none(options))
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.pretraining.word_vector_start import cooccur as run
    from diffcse.pretraining.word_vector_start import fitting_tokenizer
    from diffcse.progress import make_console, say
    from diffcse.text.dataset import read_texts
    from diffcse.training.run_folder import check_place

    check_place(output)
    quiet_libraries()
    fitting_tokenizer(config)  # refused before the text is read
    console = make_console()
    rows, read = read_texts(sources, columns=[column] if column else None, cache_dir=cache)
    say(console, read.summary())
    result = run(rows["text0"], output, config, console=console)
    held_out = result.held_out
    halves = (
        f"half of a held-out sentence finds the other half of {held_out.sentences:,} in {100 * held_out.share:.1f}%"
    )
    say(console, f"{result.tokens:,} tokens{'; ' + halves if held_out.sentences else ''}\nmodel in {output}")


with_fields(cooccur, {"Counting and size": CooccurConfig})
