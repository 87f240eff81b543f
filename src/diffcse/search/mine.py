"""Hard negatives: for each pair of texts a third that is near to the first and not its partner."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from diffcse.encoding.bulk import check_place
from diffcse.encoding.prompts import resolve_prompt
from diffcse.encoding.tokenise import Tokeniser, reads_plain_text
from diffcse.errors import UserError
from diffcse.files import disk_errors, json_line, write_atomic
from diffcse.text.dataset import ReadReport, read_texts
from diffcse.text.unknown import warn_of_unknown

COLUMNS = ("sent0", "sent1", "hard_neg")
"""Columns that `train` takes for a sentence, its positive and its hard negative."""

_LOOKED_AT = 100
"""Nearest texts among which a negative is looked for; the library's own three may all be nearer than the positive."""


@dataclass(frozen=True, kw_only=True)
class Mined:
    """What `mine_file` did.

    Attributes:
        read: the pairs, and what became of the file's other rows.
        rows: rows written.
    """

    read: ReadReport
    rows: int


def mine_file(
    source: str,
    output: Path,
    model: SentenceTransformer,
    *,
    columns: tuple[str, ...] | None = None,
    count: int = 1,
    skip: int = 0,
    margin: float = 0.05,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    overwrite: bool = False,
) -> Mined:
    """Write a file of three columns; negatives come from the second texts of all pairs.

    sentence-transformers' `mine_hard_negatives` does the work.

    Args:
        source: pairs, as for `diffcse.text.dataset.read_texts`.
        output: .jsonl or .parquet.
        model: finds what is near.
        columns: the two columns of a table, where several could be meant.
        count: negatives of a pair, each a row.
        skip: nearest texts that are passed over, as they may be positives too.
        margin: a negative's similarity is at most (1 - margin) times the positive's.
        query_prompt: words in front of the first text of a pair; None for the model's own for queries.
        document_prompt: words in front of the second; None for the model's own for documents.
        overwrite: replace an existing file.

    Returns:
        What was read and written.

    Raises:
        UserError: bad input or output, or no negative at all.
    """
    if output.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"output {output}", "a file ending in .jsonl or .parquet", output.suffix, "name it so")
    check_place(output, overwrite=overwrite, source=source)
    words = resolve_prompt(model, "query", text=query_prompt), resolve_prompt(model, "document", text=document_prompt)
    pairs, read = _read_pairs(source, columns, model)
    mined = mine_hard_negatives(
        pairs,
        model,
        num_negatives=count,
        range_min=skip,
        range_max=skip + max(_LOOKED_AT, 10 * count),
        relative_margin=margin,
        query_prompt=words[0],  # empty is none at all; None would be the model's default prompt
        corpus_prompt=words[1],
        output_format="triplet",
        verbose=False,
    )
    if not len(mined):
        do = "give more pairs, or a smaller --margin or --skip"
        raise UserError(source, "pairs with a text that can be a negative", "none", do)
    table = pa.table(dict(zip(COLUMNS, (mined[name] for name in mined.column_names), strict=True)))
    with disk_errors(f"{output}", "make room or permission and try again"):
        write_atomic(output, _content(table, output.suffix))
    return Mined(read=read, rows=len(table))


def _read_pairs(source: str, columns: tuple[str, ...] | None, model: SentenceTransformer) -> tuple[Dataset, ReadReport]:
    """The pairs under the library's names; says how many texts the model cannot read."""
    pairs, read = read_texts(source, columns=columns)
    if len(pairs.column_names) != 2:
        do = "name the two columns of a table with --columns"
        raise UserError(source, "pairs: two columns of text", f"{len(pairs.column_names)}", do)
    if reads_plain_text(model):
        read_ids = Tokeniser(model)
        groups = (read_ids(list(pairs[name])).input_ids for name in pairs.column_names)
        warn_of_unknown(groups, model.tokenizer)
    return pairs.rename_columns(dict(zip(pairs.column_names, ("anchor", "positive"), strict=True))), read


def _content(table: pa.Table, suffix: str) -> bytes:
    if suffix == ".jsonl":
        return "".join(json_line(row) + "\n" for row in table.to_pylist()).encode()
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
