"""What the command line keeps the libraries from saying; a program that imports diffcse decides for itself."""

from __future__ import annotations


def quiet_libraries() -> None:
    """No progress bars and no notes of transformers and datasets: the verbs show their own progress."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
