"""The bytes of a text file as UTF-8, whatever packs them and whatever Unicode encoding their mark says.

Every reader of text begins here, so that packed files, byte order marks and damage are met in one way. Bytes that are
no text in the file's encoding stay bytes that are not UTF-8; `decode` makes lone surrogates of them, which no good
text holds, so that what reads further can count them.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from diffcse.errors import UserError

LONGEST_LINE = 64 * 2**20
"""Bytes; a longer row of .csv or .jsonl is a mistake, such as a quote that is never closed."""
CHUNK = 2**20
_HEAD = 8192

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins as the mark of UTF-16 does, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NOT_TEXT = {
    b"\x1f\x8b": ("gzip data", "end its name in .gz"),
    b"BZh": ("bzip2 data", "end its name in .bz2"),
    b"\xfd7zXZ\0": ("xz data", "end its name in .xz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "end its name in .zst"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"%PDF-": ("a PDF file", "convert it to text first: pdftotext FILE"),
}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True)
class File:
    """A file on the disk."""

    path: Path

    @property
    def name(self) -> str:
        """As the user gave it."""
        return str(self.path)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Changes when the content does; cheap to make."""
        stat = self.path.stat()
        return str(self.path.absolute()), stat.st_size, stat.st_mtime_ns

    def head(self) -> bytes:
        """The first 8 KiB, unpacked."""
        with unpacked(self.path) as file:
            return file.read(_HEAD)


def suffix_of(path: Path) -> str:
    """The end of a file's name in small letters, without the .gz, .bz2, .xz or .zst of a packed file.

    >>> suffix_of(Path("a/b.TXT.gz"))
    '.txt'
    """
    return (path.with_suffix("") if is_packed(path) else path).suffix.lower()


def is_packed(path: Path) -> bool:
    """Whether the name's end says that the file is packed."""
    return path.suffix.lower() in _PACKINGS


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The text of a file as UTF-8 bytes without a mark."""
    with unpacked(path) as file:
        yield utf8(file, str(path))


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; whatever goes wrong while they are read becomes one line."""
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            unpack = _PACKINGS.get(path.suffix.lower())
            yield stack.enter_context(io.BufferedReader(unpack(raw), CHUNK)) if unpack else raw
    except PermissionError as error:
        raise UserError(str(path), "a file that you may read", "no permission", "change its permissions") from error
    except (*_DAMAGED, OSError, pa.ArrowException) as error:
        if isinstance(error, UserError):
            raise
        kind = _KINDS.get(path.suffix.lower())
        if kind and isinstance(error, (*_DAMAGED, OSError)) and getattr(error, "errno", None) is None:
            raise UserError(str(path), f"a whole {kind} file", error, "download it or pack it again") from error
        raise UserError(str(path), "a whole file that can be read", error, "download it or make it again") from error


def utf8(file: BinaryIO, name: str) -> BinaryIO:
    """A stream of text as UTF-8 without its byte order mark.

    Args:
        file: at its beginning.
        name: for the error.

    Raises:
        UserError: what the first bytes show is no text.
    """
    buffered = file if hasattr(file, "peek") else io.BufferedReader(file)  # type: ignore[type-var]
    head: bytes = buffered.peek(6)[:6]
    for magic, (got, do) in _NOT_TEXT.items():
        if head.startswith(magic):
            raise UserError(name, "text", got, do)
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return io.BufferedReader(_Transcoded(buffered, encoding), CHUNK)
    if head.startswith(codecs.BOM_UTF8):
        buffered.read(len(codecs.BOM_UTF8))
    return buffered  # type: ignore[return-value]


def lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """Lines with their ends; of a longer line, the first `longest` bytes."""
    while line := file.readline(longest):
        if len(line) == longest and not line.endswith(b"\n"):
            while (rest := file.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
        yield line


def whole_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Lines with their ends.

    Raises:
        UserError: a line that no table has.
    """
    for number, line in enumerate(lines(file, LONGEST_LINE), 1):
        if len(line) == LONGEST_LINE:
            rule = f"shorter than {LONGEST_LINE // 2**20} MiB"
            raise UserError(f"{name} line {number}", rule, "a longer one", "check that the file has line breaks")
        yield line


def is_utf8(text: str) -> bool:
    """Whether a string can be written; one with a lone surrogate cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def decode(raw: bytes) -> str:
    """Text; a byte that is not UTF-8 becomes a lone surrogate."""
    return raw.decode("utf-8", "surrogateescape")


class _Transcoded(io.RawIOBase):
    """A text in another encoding as UTF-8; what cannot be decoded becomes a byte that is not UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self.file, self.ready = file, b""
        self.decoder = codecs.getincrementaldecoder(encoding)("diffcse-damaged")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next; the number of bytes, 0 at the end."""
        ended = False
        while not self.ready and not ended:
            raw = self.file.read(len(buffer))
            ended = not raw
            self.ready = self.decoder.decode(raw, final=ended).encode("utf-8", "surrogateescape")
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _damaged(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error("diffcse-damaged", _damaged)


class _Zstandard(io.RawIOBase):
    """Zstandard frames, one after the other; unlike the library's own stream, it does not accept a truncated file."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            do = "pip install zstandard, or unpack the file: zstd -d FILE"
            raise UserError("a .zst file", "read with the package zstandard", "no such package", do) from error
        self.file, self.ready, self.rest, self.inside = file, b"", b"", False
        self.new, self.error = zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self.frame = self.new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next; the number of bytes, 0 at the end."""
        while not self.ready:
            raw = self.rest or self.file.read(CHUNK)
            if not raw:
                if self.inside:
                    raise EOFError("the file ends inside a frame")
                return 0
            try:
                self.ready = self.frame.decompress(raw)
            except self.error as error:
                raise EOFError(str(error)) from error
            self.inside, self.rest = not self.frame.eof, self.frame.unused_data
            self.frame = self.new() if self.frame.eof else self.frame
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


_PACKINGS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _Zstandard,
}
_KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
