"""Options and displays that the verbs which use a model share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffcse.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def _present(device: str | None) -> str | None:
    """The device, if this machine has it; checked while the options are read, before any text is."""
    if device is not None:
        from diffcse.encoding.backends import as_device

        as_device(device)
    return device


TEXT_FILE = "Text (one sentence per line), csv, tsv, jsonl, json or parquet, packed (gz, bz2, xz, zst) or not"
MODEL = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder or Hub name of the encoder. Default: the one in the package."),
]
COLUMN = Annotated[str | None, typer.Option(help="Column of a table that holds the text.")]
MAX_TOKENS = Annotated[
    int | None,
    typer.Option(help="Longest text (tokens); longer ones are cut. Default: the model's own limit."),
]
DIMS = Annotated[
    int | None,
    typer.Option(help="Keep only the first numbers of each vector, for models trained for it (Matryoshka)."),
]
WORKERS = Annotated[
    int | None,
    typer.Option(
        help="Processes that encode at once, each with one core or GPU; any number writes the same bytes. Default: "
        "this process with all its threads."
    ),
]
ENGINE = Annotated[
    Literal["local", "ray"],
    typer.Option(help="This machine, or the workers of a Ray cluster, by default one per GPU, or one per core."),
]
ADDRESS = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster. Default: one on this machine, for this run.")
]
DEVICE = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: cpu, cuda, cuda:1, mps, xpu. Default: a GPU if there is one.", callback=_present
    ),
]
PROMPT_NAME = Annotated[
    str | None,
    typer.Option(help="One of the model's own prompts, by name. Default: its prompt for queries or documents, if any."),
]
PROMPT = Annotated[
    str | None,
    typer.Option(help="Words in front of every text, in place of the model's own prompt; '' for none at all."),
]
TRUST = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model; read that code first.")
]


def loader(
    model: str | None, device: str | None, trust_remote_code: bool = False, pooler: str | None = None
) -> Callable[[], SentenceTransformer]:
    """What loads the model when it is time; the device is checked now.

    Args:
        model: folder or Hub name, None for the bundled one.
        device: name of a torch device, None for the usual one.
        trust_remote_code: run code that comes with the model.
        pooler: how token vectors become a sentence vector; None for the model's own way.
    """
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.encoding.backends import as_device
    from diffcse.persistence.load import load_encoder

    quiet_libraries()
    target = as_device(device)
    return lambda: load_encoder(model, pooler=pooler, trust_remote_code=trust_remote_code).to(target)


def check_file(option: str, path: Path | None, ends: tuple[str, ...] = ()) -> None:
    """Refuse a place for a file of results before the work is done, not after it.

    Args:
        option: that names the file.
        path: as given; None for no such file.
        ends: of a name, where they say the format.
    """
    if path is None:
        return
    what = f"{option} {path}"
    if path.is_dir():
        raise UserError(what, "a file", "a folder", "name a file in it")
    if not path.parent.is_dir():
        raise UserError(what, "in an existing folder", "no such folder", "make the folder first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(what, "in a folder that you may write to", "no permission", "choose another place")
    if ends and path.suffix not in ends:
        raise UserError(what, f"a file ending in {' or '.join(ends)}", path.suffix or "no ending", "change its ending")


def warn_unknown(unknown: int, total: int) -> None:
    """Say that the cosines of some texts mean nothing."""
    text = f"{unknown:,} of {total:,} texts are mostly words that this model does not know and cannot tell apart"
    typer.echo(text, err=True)


def summary(counts: Any) -> str:
    """What a bulk run read, in one line.

    >>> from types import SimpleNamespace
    >>> summary(SimpleNamespace(rows=1200, truncated=3, blank=0, repaired=1, unknown=0))
    '1,200 texts; cut 3 at the token limit; replaced bytes that are not UTF-8 in 1'
    """
    return "; ".join([f"{counts.rows:,} texts", *notes(counts)])


def notes(counts: Any) -> list[str]:
    """What a run met in its texts and a user should know."""
    met = (
        (counts.truncated, "cut {:,} at the token limit"),
        (counts.blank, "{:,} blank"),
        (counts.unknown, "{:,} of mostly unknown words, which this model cannot tell apart"),
        (counts.repaired, "replaced bytes that are not UTF-8 in {:,}"),
    )
    return [note.format(number) for number, note in met if number]


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Write what --json asks for, atomically."""
    from diffcse import files

    with files.disk_errors(f"--json {path}", "choose another place"):
        files.write_json(path, content)


def bulk_engine(
    engine: str, address: str | None, workers: int | None, model: str | None, trust_remote_code: bool
) -> Any:
    """What encodes: this process, several on this machine, or the workers of a Ray cluster.

    Raises:
        UserError: options that do not go together.
        MissingExtra: Ray is not installed.
    """
    if engine == "ray":
        from diffcse.encoding.ray_workers import Cluster, import_ray

        import_ray()
        return Cluster(address=address, workers=workers, model=model, trust_remote_code=trust_remote_code)
    if address is not None:
        raise UserError("--address", "used with --engine ray", "--engine local", "add --engine ray")
    if workers is not None:
        from diffcse.encoding.workers import Workers

        return Workers(workers=workers)
    from diffcse.encoding.parts import in_this_process

    return in_this_process
