"""Near-duplicates: lines whose vector is too similar to that of a line kept before.

Legend: `n` lines of a block, `N` kept lines, `H` hidden.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from diffcse.encoding.backends import width_of
from diffcse.encoding.bulk import Progress, check_place
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.encoding.tokenise import as_sentences
from diffcse.errors import UserError
from diffcse.files import disk_errors, exclusive, fsync, json_line
from diffcse.text.standard_input import STDIN
from diffcse.text.stream import Texts, open_texts, repaired
from diffcse.vectors import Vectors

_BLOCK = 1024
_COLUMNS = 16_384
_ROUNDING = 1e-6  # equal texts of different chunks, and unit vectors times themselves, miss 1 by a few float32 steps


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a line is kept.

    Attributes:
        line: its number.
        repeats: number of the kept line that it repeats; None if it is kept.
        cosine: their similarity; 0 if it is kept.
    """

    line: int
    repeats: int | None = None
    cosine: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DedupCounts:
    """What became of a file's lines.

    Attributes:
        kept: lines that were written.
        dropped: lines that repeat one of those.
        truncated: lines of which only the beginning was compared, cut at the token limit.
        blank: lines left out.
        unknown: lines of mostly unknown words, of which only equal ones repeat each other.
        repaired: lines with bytes that are not UTF-8, written with a replacement character for each.
    """

    kept: int = 0
    dropped: int = 0
    truncated: int = 0
    blank: int = 0
    unknown: int = 0
    repaired: int = 0


class Kept:
    """The lines kept so far; each new one is compared with all of them.

    Args:
        width: H.
        threshold: cosine similarity from which a line repeats another.
    """

    def __init__(self, width: int, threshold: float) -> None:
        self.threshold, self.count = threshold, 0
        self.vectors: Vectors = np.empty((_BLOCK, width), dtype=np.float32)
        self.lines = np.empty(_BLOCK, dtype=np.int64)

    def judge(self, vectors: Vectors, lines: Sequence[int]) -> Iterator[Verdict]:
        """A verdict on each of the next lines, in order.

        Args:
            vectors: unit vectors (n, H).
            lines: their n numbers.
        """
        for start in range(0, len(vectors), _BLOCK):
            yield from self._judge_block(vectors[start : start + _BLOCK], lines[start : start + _BLOCK])

    def _judge_block(self, block: Vectors, lines: Sequence[int]) -> Iterator[Verdict]:
        old = self.count
        nearest, cosines = _nearest(block, self.vectors[:old])
        within = block @ block.T
        fresh: list[int] = []  # places in the block of the lines that it adds
        for place, line in enumerate(lines):
            best, cosine = int(nearest[place]), float(cosines[place])
            if fresh:
                here = int(np.argmax(within[place, fresh]))
                if within[place, fresh[here]] > cosine:
                    best, cosine = old + here, float(within[place, fresh[here]])
            if cosine >= self.threshold - _ROUNDING:
                yield Verdict(line=line, repeats=int(self.lines[best]), cosine=cosine)
            else:
                self._keep(block[place], line)
                fresh.append(place)
                yield Verdict(line=line)

    def _keep(self, vector: Vectors, line: int) -> None:
        if self.count == len(self.lines):
            self.vectors = np.concatenate([self.vectors, np.empty_like(self.vectors)])
            self.lines = np.concatenate([self.lines, np.empty_like(self.lines)])
        self.vectors[self.count], self.lines[self.count] = vector, line
        self.count += 1


def dedup_file(
    source: str,
    output: Path,
    report: Path,
    load: Callable[[], SentenceTransformer],
    *,
    threshold: float,
    settings: EncodeSettings,
    column: str | None = None,
    overwrite: bool = False,
    prompt: Callable[[SentenceTransformer], str] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> DedupCounts:
    """Write the kept lines and a report of the dropped ones; both files appear complete, at the end.

    Args:
        source: as for `diffcse.text.stream.open_texts`, but not standard input, whose length is not known.
        output: one kept text a line.
        report: one JSON object a dropped text, with line numbers from 1.
        load: gives the model; called once everything else has been checked.
        threshold: cosine similarity from which a line repeats another.
        settings: limits and precision; must normalize.
        column: as for `diffcse.text.stream.open_texts`.
        overwrite: replace existing files.
        prompt: gives the words in front of every text once the model is loaded; None for the settings' prompt.
        on_progress: called with the lines done and all.

    Returns:
        How many lines were kept and dropped, and what was met in them.

    Raises:
        UserError: bad input or output.
    """
    if source == STDIN:
        raise UserError("input", "a file", "standard input", "save it to a file first")
    if output == report:
        raise UserError("--report", "another file than the output", report, "remove it")
    check_place(output, overwrite=overwrite, source=source)
    check_place(report, overwrite=overwrite or _may_have_written(output, report), source=source)
    texts = open_texts(source, column=column)
    total = texts.count()
    model = load()
    if prompt is not None:
        settings = replace(settings, prompt=prompt(model))
    counts: Counter[str] = Counter()
    with (
        _published(output) as kept_file,
        _published(report) as report_file,
    ):  # in place last: the output
        _note(output).write_text(str(report.resolve()), encoding="utf-8")
        for text, verdict in _judged(texts, model, threshold, settings, counts):
            if verdict.repeats is None:
                counts["kept"] += 1
                kept_file.write(" ".join(text.split("\n")) + "\n")
            else:
                counts["dropped"] += 1
                row = {"line": verdict.line, "repeats": verdict.repeats, "cosine": verdict.cosine, "text": text}
                report_file.write(json_line(row) + "\n")
            on_progress(verdict.line, total)
    return DedupCounts(**counts)


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A text that repeats another.

    Attributes:
        row: its place among the texts, from 0.
        text: itself.
        twin: place of the kept text that it repeats.
        score: their cosine similarity.
    """

    row: int
    text: str
    twin: int
    score: float


class Deduplicated:
    """What `deduplicate` gives.

    Args:
        texts: N of them.
        vectors: their unit vectors (N, H).
        unknown: (N,), True for texts of mostly unknown tokens, which repeat equal texts only.
        threshold: cosine similarity from which a text repeats another.

    Attributes:
        threshold: as given.
        kept_rows: places of the kept texts, in order.
        dropped: the others, in order.
    """

    def __init__(self, texts: list[str], vectors: Vectors, unknown: NDArray[np.bool_], threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise UserError("threshold", "above 0 and at most 1", threshold, "use 0.9")
        self.texts, self.threshold = texts, threshold
        self._vectors, self._unknown = vectors, unknown
        judge = Judge(vectors.shape[1], threshold)
        verdicts = list(judge(list(range(len(texts))), texts, vectors, unknown))
        self.kept_rows = [verdict.line for verdict in verdicts if verdict.repeats is None]
        self.dropped = [
            Duplicate(row=verdict.line, text=texts[verdict.line], twin=verdict.repeats, score=verdict.cosine)
            for verdict in verdicts
            if verdict.repeats is not None
        ]

    @property
    def kept(self) -> list[str]:
        """The kept texts, in order."""
        return [self.texts[row] for row in self.kept_rows]

    def rethreshold(self, threshold: float) -> Deduplicated:
        """The same texts judged at another threshold, without encoding them again."""
        return Deduplicated(self.texts, self._vectors, self._unknown, threshold)


def deduplicate(
    texts: Iterable[str], threshold: float = 0.9, *, encoder: Encoder | SentenceTransformer | str | Path | None = None
) -> Deduplicated:
    """Keep each text that is not too similar to one kept before it; exact, with all vectors in memory.

    Args:
        texts: a list, tuple, array or column.
        threshold: cosine similarity from which a text repeats another, above 0 and at most 1.
        encoder: a model, or what `Encoder` takes; None for the bundled one.

    Raises:
        UserError: something that is not text, or a threshold out of range.
    """
    sentences = as_sentences(texts, "texts")
    model = encoder if isinstance(encoder, Encoder) else Encoder(encoder)
    encoded = model.run(sentences, settings=replace(model.settings, normalize=True))
    return Deduplicated(sentences, encoded.vectors, encoded.unknown, threshold)


class Judge:
    """Verdicts on texts with their vectors, chunk by chunk.

    Args:
        width: H.
        threshold: cosine similarity from which a text repeats another.
    """

    def __init__(self, width: int, threshold: float) -> None:
        self._kept = Kept(width, threshold)
        self._unreadable: dict[bytes, int] = {}  # digest of a text of mostly unknown tokens: its first line

    def __call__(
        self, lines: Sequence[int], texts: Sequence[str], vectors: Vectors, unknown: NDArray[np.bool_]
    ) -> Iterator[Verdict]:
        """A verdict on each of n texts, in order."""
        # Different texts of unknown tokens have the same vector, so only their texts can tell them apart.
        known = ~unknown
        verdicts = self._kept.judge(vectors[known], [line for line, k in zip(lines, known, strict=True) if k])
        for line, text, readable in zip(lines, texts, known, strict=True):
            yield next(verdicts) if readable else _same_text(line, text, self._unreadable)


def _judged(
    texts: Texts, model: SentenceTransformer, threshold: float, settings: EncodeSettings, counts: Counter[str]
) -> Iterator[tuple[str, Verdict]]:
    """Every text that is not blank, with its verdict; what else was met is added to `counts`."""
    waiting: deque[tuple[int, str]] = deque()

    def stream() -> Iterator[str]:
        """What is encoded; each text waits for its vector."""
        for line, raw in enumerate(texts, 1):
            if raw.strip():
                waiting.append((line, repaired(raw)))
                counts["repaired"] += waiting[-1][1] != raw
                yield waiting[-1][1]
            else:
                counts["blank"] += 1

    judge = Judge(width_of(model), threshold)
    for chunk in Encoder(model, settings=settings).chunks(stream()):
        lines, group = zip(*(waiting.popleft() for _ in chunk.vectors), strict=True)
        counts.update(truncated=chunk.truncated, unknown=int(chunk.unknown.sum()))
        yield from zip(group, judge(lines, group, chunk.vectors, chunk.unknown), strict=True)


def _same_text(line: int, text: str, seen: dict[bytes, int]) -> Verdict:
    """The verdict on a text whose vector says nothing: it repeats an equal text only."""
    first = seen.setdefault(hashlib.blake2b(text.encode(), digest_size=16).digest(), line)
    return Verdict(line=line) if first == line else Verdict(line=line, repeats=first, cosine=1.0)


def _nearest(block: Vectors, stored: Vectors) -> tuple[NDArray[np.int64], Vectors]:
    """Row and inner product of the nearest stored vector of each of a block's; -inf where none is stored."""
    rows, best = np.zeros(len(block), dtype=np.int64), np.full(len(block), -np.inf, dtype=np.float32)
    for start in range(0, len(stored), _COLUMNS):
        products = block @ stored[start : start + _COLUMNS].T
        here = products.argmax(axis=1)
        value = products[np.arange(len(block)), here]
        better = value > best
        rows[better], best[better] = start + here[better], value[better]
    return rows, best


def _note(output: Path) -> Path:
    return _part(output) / "report"


def _may_have_written(output: Path, report: Path) -> bool:
    """Whether a run that was killed before its end may have put this very report in place."""
    return _note(output).is_file() and _note(output).read_text(encoding="utf-8") == str(report.resolve())


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


@contextmanager
def _published(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name when it is complete; what a kill left of it before is overwritten."""
    work, do = _part(path), "make room or permission and try again"
    with disk_errors(f"{path}", do):
        work.mkdir(exist_ok=True)
    with exclusive(work / "lock", f"{work}"):
        lines = work / "lines"
        try:
            with disk_errors(f"{path}", do):
                with lines.open("w", encoding="utf-8", newline="\n") as file:
                    yield file
                fsync(lines)
                lines.replace(path)
                fsync(path.absolute().parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
