"""What the command line keeps the libraries from saying; a program that imports diffcse decides for itself."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """No progress bars and no notes of transformers and datasets: the verbs show their own progress."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported, which the next lines do
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
