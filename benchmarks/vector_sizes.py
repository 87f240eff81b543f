"""What smaller vectors cost: recall against exact search of the float32 vectors, and nDCG@10 where relevance is known.

Two collections: the documentation of the installed Python packages (a docstring's summary finds the next sentence of
its description among 10,000 sentences) and a folder of judged queries in BEIR's layout. Int8 is calibrated on 1,000 of
the documents; binary codes find 40 candidates for 10 results, which are scored again as the form says.

    python benchmarks/vector_sizes.py --models bundled minilm --judged cranfield > benchmarks/results/vector_sizes.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.errors import UserError
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.retrieval import Float, Retrieval, score
from diffcse.text.docstrings import collect
from diffcse.vectors import Int8Scale, Vectors, binary, binary_search, exact_search, shortened

Found = tuple[Vectors, NDArray[np.int64]]
"""Scores and rows of each query's results, best first."""

_TOP = 10
_SENTENCES = 9_000
_CALIBRATION = 1_000
_IR = Path(__file__).parents[2] / "shared" / "ir"


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to store vectors and its results.

    Attributes:
        name: what is stored, and what scores the results.
        dims: numbers that are kept of a vector.
        scanned: bytes of a vector that every query reads.
        stored: bytes of a vector in all.
        found: the results.
    """

    name: str
    dims: int
    scanned: int
    stored: int
    found: Found


@dataclass(frozen=True)
class Results:
    """Results of a search as a `Scorer`: what was not among them is below everything that was."""

    found: Found

    def scores(self, queries: Sequence[str], documents: Sequence[str], /) -> Iterator[Float]:
        """One query a block, (1, D)."""
        for values, rows in zip(*self.found, strict=True):
            full = np.full((1, len(documents)), -np.inf)
            full[0, rows] = values
            yield full


def main() -> None:
    """Encode both collections by every model and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bundled"], help="folders or names (default: the bundled one)")
    parser.add_argument("--judged", default=str(_IR / "cranfield"), help="folder with corpus, queries and qrels")
    options = parser.parse_args()
    try:
        tasks = {"documentation": documentation(), "judged": read_beir(options.judged)}
        rows = [row for model in options.models for row in measure(model, Encoder(model), tasks)]
    except UserError as error:
        sys.exit(f"benchmarks/vector_sizes.py: {error}")
    print(json.dumps(rows, indent=1))


def documentation() -> Retrieval:
    """Summaries and the next sentences of their descriptions, among sentences of other packages."""
    text = collect(limit=_SENTENCES)
    documents = list(dict.fromkeys([second for _, second in text.pairs] + list(text.sentences)))
    places = {document: place for place, document in enumerate(documents)}
    queries = [first for first, _ in text.pairs]
    return Retrieval(queries, documents, [{places[second]: 1.0} for _, second in text.pairs])


def measure(model: str, encoder: Encoder, tasks: dict[str, Retrieval]) -> list[dict[str, Any]]:
    """A row for each form, with recall and nDCG@10 in each collection."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    encoder.settings = EncodeSettings(normalize=True)
    for name, task in tasks.items():
        queries, documents = encoder.encode_query(task.queries), encoder.encode_document(task.documents)
        exact = exact_search(documents, queries, _TOP)[1]
        for form in forms(queries, documents):
            row = rows.setdefault((form.name, form.dims), {"model": model, "form": form.name, "dims": form.dims})
            row |= {"bytes_scanned": form.scanned, "bytes_stored": form.stored}
            row |= {f"{name}_documents": len(documents), f"{name}_queries": len(queries)}
            row[f"{name}_recall_at_10"] = recall(form.found[1], exact)
            row[f"{name}_ndcg_at_10"] = score(task, Results(form.found)).ndcg_at_10
    return list(rows.values())


def forms(queries: Vectors, documents: Vectors) -> Iterator[Form]:
    """Every form with its results for the queries, from the largest to the smallest."""
    width = documents.shape[1]
    sizes = (width, width // 2, width // 4)
    for dims in sizes:
        found = exact_search(shortened(documents, dims), shortened(queries, dims), _TOP)
        yield Form(name="float32", dims=dims, scanned=4 * dims, stored=4 * dims, found=found)
    for dims in sizes:
        codes, scale = _int8(shortened(documents, dims))
        found = scale.search(codes, shortened(queries, dims), _TOP)
        yield Form(name="int8", dims=dims, scanned=dims, stored=dims, found=found)
    bits, bytes_of_code = binary(documents), -(-width // 8)
    codes, scale = _int8(documents)
    for name, vectors, stored in (
        ("binary, scored again by float32", documents, 4 * width),
        ("binary, scored again by int8", scale.decode(codes), width),
        ("binary, scored again by its own signs", None, 0),
    ):
        found = binary_search(bits, queries, _TOP, vectors=vectors)
        yield Form(name=name, dims=width, scanned=bytes_of_code, stored=bytes_of_code + stored, found=found)
    found = binary_search(bits, queries, _TOP, vectors=documents, oversample=len(documents))
    name, stored = "binary, every row scored again by float32 (a check)", bytes_of_code + 4 * width
    yield Form(name=name, dims=width, scanned=stored, stored=stored, found=found)


def recall(rows: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact results that are among the rows."""
    return float(np.mean([np.isin(right, got).mean() for got, right in zip(rows, exact, strict=True)]))


def _int8(vectors: Vectors) -> tuple[NDArray[np.int8], Int8Scale]:
    """Codes by a scale that knows a part of the vectors, as it would while an index grows."""
    sample = np.random.default_rng(0).permutation(len(vectors))[:_CALIBRATION]
    scale = Int8Scale.calibrated(vectors[sample])
    return scale.encode(vectors), scale


if __name__ == "__main__":
    main()
