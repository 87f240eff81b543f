"""From text to token ids: two memory-mapped Arrow tables, each written once into a cache (`diffcse.text.cache`)."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import tokenizers
from transformers import PreTrainedTokenizerBase

from diffcse.errors import UserError
from diffcse.files import digest
from diffcse.settings import as_names
from diffcse.text.cache import batches, cached, write_arrow
from diffcse.text.opening import is_utf8
from diffcse.text.sources import Source, TextFile, find_sources
from diffcse.text.standard_input import spooled
from diffcse.text.tables import NUL, Row, no_text

_NLI = ("sent0", "sent1", "hard_neg")  # the columns of SimCSE's file of natural language inference pairs


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What became of the rows that were read; a row with several faults counts once, as the first of them."""

    files: int
    """Files, or Hub datasets, that were read."""
    columns: int = 1
    """Text columns: 1 (sentences), 2 (pairs) or 3 (pairs with a hard negative)."""
    kept: int = 0
    """Rows in the dataset."""
    empty: int = 0
    """Rows dropped because a column is missing or blank."""
    not_utf8: int = 0
    """Rows dropped because a column is not UTF-8."""
    cut: int = 0
    """Rows kept with a text cut at `max_characters`."""
    nul: int = 0
    """Rows kept without the NUL characters that they held."""

    def summary(self) -> str:
        """The report in one line.

        >>> ReadReport(files=2, kept=12_345, empty=3, not_utf8=1).summary()
        '12,345 sentences from 2 files; skipped 3 empty, 1 not UTF-8'
        """
        noun = ("sentence", "pair", "triplet")[self.columns - 1]
        parts = [f"{_count(self.kept, noun)} from {_count(self.files, 'file')}"]
        skipped = [f"{n:,} {why}" for n, why in ((self.empty, "empty"), (self.not_utf8, "not UTF-8")) if n]
        if skipped:
            parts.append("skipped " + ", ".join(skipped))
        if self.cut:
            parts.append(f"cut {self.cut:,} too long")
        if self.nul:
            parts.append(f"removed NULs from {self.nul:,}")
        return "; ".join(parts)


def read_texts(
    sources: str | Path | Sequence[str | Path],
    *,
    columns: str | Sequence[str] | None = None,
    max_characters: int = 100_000,
    minimum: int = 2,
    cache_dir: str | Path | None = None,
) -> tuple[datasets.Dataset, ReadReport]:
    """Sentences, pairs or triplets as a memory-mapped dataset with the columns `text0` (, `text1`, `text2`).

    A .txt holds one sentence per line. A .csv, .tsv, .jsonl or .parquet holds one to three columns of text; any of
    these may be packed. Rows with a blank column or with bytes that are not UTF-8 are dropped and counted.

    Args:
        sources: paths, globs, `-` for plain text on standard input, or where no file has that name, a Hub dataset
            (`owner/name`, `owner/name:split`; the split `train` unless given). A file that is named twice is read once.
        columns: columns of the tabular sources, in this order. Without it: the only text column, or `text`, or
            `sentence`, or `sent0`, `sent1` and `hard_neg`.
        max_characters: longest text (characters); a longer one is cut.
        minimum: fewest rows; in-batch contrast needs two.
        cache_dir: folder of the cache; `diffcse` in the cache of `datasets` unless given.

    Returns:
        The dataset, rows in the order of the sources, and the counts of what was kept, skipped and repaired.

    Raises:
        UserError: for a source that is missing, unreadable or damaged, columns that are wrong, or too few rows.
    """
    sources = as_names("sources", sources)
    names = None if columns is None else tuple(map(str, as_names("columns", columns)))
    _check_arguments(sources, names, max_characters)
    with spooled(sources) as files:
        groups = [[file] if isinstance(file, TextFile) else find_sources([file]) for file in files]
        different = list(dict.fromkeys(source for group in groups for source in group))
        return _read(different, names, max_characters, minimum, cache_dir)


def _read(
    sources: list[Source],
    names: tuple[str, ...] | None,
    max_characters: int,
    minimum: int,
    cache_dir: str | Path | None,
) -> tuple[datasets.Dataset, ReadReport]:
    def write(folder: Path) -> dict[str, Any]:
        chosen = choose_columns(sources, names)
        counts: Counter[str] = Counter()
        rows = _clean(_raw_rows(sources, chosen, max_characters), max_characters, counts)
        schema = pa.schema([(f"text{i}", pa.string()) for i in range(len(chosen[0]))])
        write_arrow(folder / "data.arrow", schema, (list(zip(*batch, strict=True)) for batch in batches(rows, _size)))
        report = ReadReport(files=len(sources), columns=len(schema), **counts)
        return {"rows": report.kept, "report": dataclasses.asdict(report)}

    key = ["text", [source.identity for source in sources], names, max_characters]
    dataset, facts = cached(cache_dir, key, write)
    report = ReadReport(**facts["report"])
    if report.kept < minimum:
        do = "add sentences: the others of a batch are the negatives" if minimum > 1 else "add sentences"
        raise UserError("the text", f"at least {minimum:,} rows", report.summary(), do)
    return dataset, report


def tokenise(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    cache_dir: str | Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> datasets.Dataset:
    """Token ids as a memory-mapped dataset with the columns `ids0` (, `ids1`, `ids2`), a list of int32 a row.

    Args:
        dataset: the columns `text0` (, `text1`, `text2`), as `read_texts` gives them.
        tokenizer: adds its special tokens.
        max_tokens: longest list (tokens, special ones included); longer ones are cut.
        cache_dir: folder of the cache; `diffcse` in the cache of `datasets` unless given.
        on_progress: called with the number of rows done; not at all where the cache has them.

    Raises:
        UserError: where `max_tokens` leaves no room for a word, or the cache folder cannot be written to.
    """
    fewest = tokenizer.num_special_tokens_to_add() + 1
    if max_tokens < fewest:
        raise UserError(
            "max_tokens", f"at least {fewest}", max_tokens, "leave room for a word next to the special tokens"
        )
    texts = [name for name in ("text0", "text1", "text2") if name in dataset.column_names]

    done = 0

    def ids(columns: tuple[Sequence[str], ...]) -> list[pa.Array]:
        """Token ids of a batch, a column at a time."""
        nonlocal done
        arrays = [ids_of(column) for column in columns]
        done += len(columns[0])
        on_progress(done)
        return arrays

    def ids_of(column: Sequence[str]) -> pa.Array:
        """Token ids of a column's texts, cut at the limit."""
        only_ids = {"return_attention_mask": False, "return_token_type_ids": False}
        encoded = tokenizer(list(column), truncation=True, max_length=max_tokens, **only_ids)
        return pa.array(encoded["input_ids"], pa.list_(pa.int32()))

    def write(folder: Path) -> dict[str, Any]:
        schema = pa.schema([(f"ids{i}", pa.list_(pa.int32())) for i in range(len(texts))])
        groups = batches(_text_rows(dataset, texts), _size)
        write_arrow(folder / "data.arrow", schema, (ids(tuple(zip(*group, strict=True))) for group in groups))
        return {"rows": len(dataset)}

    key = ["ids", dataset._fingerprint, tokenizer_identity(tokenizer), max_tokens]
    return cached(cache_dir, key, write)[0]


def choose_columns(sources: Sequence[Source], names: tuple[str, ...] | None) -> list[tuple[str, ...]]:
    """The columns to read of each source; all sources must give the same number.

    Args:
        sources: each is opened and its head read, so that a fault in the last is found before the first is read.
        names: the user's choice, or None.
    """
    known = [source.columns() for source in sources]
    if names and all(each is None for each in known):
        raise UserError("columns", "used with tables (.txt files have no columns)", ", ".join(names), "remove them")
    chosen = [_chosen(source.name, each, names) for source, each in zip(sources, known, strict=True)]
    for source, each in zip(sources, chosen, strict=True):
        if len(each) != len(chosen[0]):
            rule = f"read with {_count(len(chosen[0]), 'column')}, as {sources[0].name} is"
            raise UserError(source.name, rule, ", ".join(each) or "a line of text", "name columns that all files have")
    return chosen


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A fingerprint of everything that decides which ids a text gets: vocabulary, rules and software version."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules["truncation"] = rules["padding"] = None  # what the last call asked for, not part of the tokenizer
    else:
        rules = [tokenizer.get_vocab(), tokenizer.init_kwargs]
    return digest([type(tokenizer).__name__, rules, tokenizer.truncation_side, tokenizers.__version__])[:32]


def _check_arguments(sources: Sequence[Any], names: tuple[str, ...] | None, max_characters: int) -> None:
    if not sources:
        raise UserError("sources", "at least one file, glob or Hub dataset", "none", "name a file")
    if names is not None and not (1 <= len(names) <= 3 and len(set(names)) == len(names)):
        raise UserError("columns", "one, two or three different names", ", ".join(names), "name the text columns")
    if max_characters < 1:
        raise UserError("max_characters", "at least 1", max_characters, "use 100000")


def _chosen(source: str, known: Mapping[str, bool] | None, names: tuple[str, ...] | None) -> tuple[str, ...]:
    if known is None:
        return ("",)  # a line of plain text
    if names is None:
        return _default_columns(source, known)
    for name in names:
        if name not in known:
            raise UserError(f"{source}: columns", f"among {', '.join(known)}", name, "choose from these")
        if not known[name]:
            raise UserError(f"{source}: column {name}", "text", "another type", "choose a column that holds text")
    return names


def _default_columns(source: str, known: Mapping[str, bool]) -> tuple[str, ...]:
    texts = [name for name, is_text in known.items() if is_text]
    if not texts:
        raise no_text(source, known)
    for usual in (texts[:1] if len(texts) == 1 else []), ["text"], ["sentence"]:
        if usual and usual[0] in texts:
            return (usual[0],)
    if set(texts) in (set(_NLI[:2]), set(_NLI)):
        return _NLI[: len(texts)]
    do = "name one, two or three of them with columns"
    raise UserError(f"{source}: columns", "named where several could be meant", ", ".join(known) or "none", do)


def _raw_rows(sources: Sequence[Source], chosen: Sequence[tuple[str, ...]], max_characters: int) -> Iterator[Row]:
    longest = 4 * (max_characters + 2)  # bytes; a cut text keeps more than max_characters, so that it is counted
    for source, columns in zip(sources, chosen, strict=True):
        yield from (row for _, row in source.rows(columns, longest))


def _clean(rows: Iterable[Row], max_characters: int, counts: Counter[str]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        cut = tuple((text or "")[:max_characters] for text in row)
        texts = tuple(text.replace("\0", "").replace(NUL, "") for text in cut)
        if not all(text.strip() for text in texts):
            counts["empty"] += 1
        elif not all(map(is_utf8, texts)):
            counts["not_utf8"] += 1
        else:
            counts["kept"] += 1
            counts["cut"] += cut != row
            counts["nul"] += texts != cut
            yield texts


def _text_rows(dataset: datasets.Dataset, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for batch in dataset.with_format(None).iter(1000):
        yield from zip(*(batch[column] for column in columns), strict=True)


def _size(row: tuple[str, ...]) -> int:
    return sum(map(len, row))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
