"""Standard input: read once as it comes, or kept in a file for whoever reads twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO

from diffcse.errors import UserError
from diffcse.files import digest
from diffcse.text.opening import utf8
from diffcse.text.sources import TextFile
from diffcse.text.tables import Numbered

STDIN = "-"
"""The name of standard input on the command line."""


class Pipe(TextFile):
    """Plain text that can be read only once.

    What is left of descriptor 0 is read, under its number: `/dev/stdin` would start a file again, with the lines that
    somebody has already read, and cannot be opened where standard input is a socket.
    """

    name = "standard input"

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with open(0, "rb", closefd=False) as file:
                yield utf8(file, self.name)
        except OSError as error:
            raise UserError(self.name, "open for reading", error.strerror, "pipe a text in, or name a file") from error

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """Each line as a row of one."""
        try:
            yield from super().rows(columns, longest)
        except UserError as error:
            if not str(error.got).endswith(" data"):
                raise
            do = "unpack it first: gunzip -c FILE.gz | diffcse ..."
            raise UserError(self.name, error.rule, error.got, do) from error


@contextmanager
def spooled(names: Sequence[str | Path]) -> Iterator[Sequence[str | Path | TextFile]]:
    """The names, with a file in place of standard input, for caches and whoever reads twice."""
    if STDIN not in names:
        yield names
        return
    with NamedTemporaryFile(suffix=".txt") as copy:
        with Pipe(Path(STDIN))._opened() as pipe:
            shutil.copyfileobj(pipe, copy)
        copy.flush()
        yield [_Spool(Path(copy.name)) if name == STDIN else name for name in names]


class _Spool(TextFile):
    name = "standard input"

    @property
    def identity(self) -> tuple[Any, ...]:
        """The content, since the file's name is another one each time."""
        return (digest(self.path),)
