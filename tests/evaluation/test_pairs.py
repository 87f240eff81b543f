import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.pairs import read_pairs

COLUMNS = ("a", "b", "score")
ROWS = pd.DataFrame(
    {
        "score": [1.5, 4.0, 3.0],
        "a": ['Er sagte: "Ja", dann ging er.', "NA", "猫は静かに眠る。"],
        "b": ["Он молчал.", "null", "Kedi uyuyor."],
        "more": [1, 2, 3],
    }
)


def write(path: Path, table: pd.DataFrame = ROWS) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        table.to_csv(path, index=False)
    elif name.endswith(".tsv"):
        lines = ["\t".join(table.columns), *("\t".join(map(str, row)) for row in table.itertuples(index=False))]
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    elif name.endswith(".jsonl"):
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize(
    "name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet", "p.csv.gz", "p.tsv.gz", "p.jsonl.gz", "my.own.CSV"]
)
def test_reads_the_same_pairs_from_every_format(tmp_path: Path, name: str) -> None:
    pairs = read_pairs(write(tmp_path / name.replace("CSV", "csv")), COLUMNS)
    assert pairs.first == ROWS["a"].tolist() and pairs.second == ROWS["b"].tolist()
    np.testing.assert_array_equal(pairs.scores, [1.5, 4.0, 3.0])


@pytest.mark.parametrize("columns", [("a", "b"), ("a", "b", "b"), ("a",), ("a", "b", "c", "d")])
def test_three_columns_are_named(tmp_path: Path, columns: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="--columns must be three names: first text, second text, score"):
        read_pairs(write(tmp_path / "p.csv"), columns)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--columns text must be a column of .*; it has: score, a, b, more"):
        read_pairs(write(tmp_path / "p.csv"), ("a", "text", "score"))


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("score", ["good", None, float("nan"), float("inf")])
def test_a_bad_score_is_named_with_its_row(tmp_path: Path, name: str, score: object) -> None:
    table = ROWS.astype({"score": object})
    table.loc[1, "score"] = score
    if name == "p.parquet":
        table["score"] = table["score"].map(str)
    line = 3 if name == "p.csv" else 2
    with pytest.raises(UserError, match=f"{name} line {line}, score must be a number; got"):
        read_pairs(write(tmp_path / name, table), COLUMNS)


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("text", ["", "  ", None])
def test_an_empty_sentence_is_named_with_its_row(tmp_path: Path, name: str, text: object) -> None:
    table = ROWS.copy()
    table.loc[2, "b"] = text
    line = 4 if name == "p.csv" else 3
    with pytest.raises(UserError, match=f"{name} line {line}, b must be a sentence; got"):
        read_pairs(write(tmp_path / name, table), COLUMNS)


def test_text_that_is_a_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p.jsonl line 1, more must be a sentence; got 1"):
        read_pairs(write(tmp_path / "p.jsonl"), ("a", "more", "score"))


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows(tmp_path: Path, rows: int) -> None:
    with pytest.raises(UserError, match=f"rows with different scores; got {rows} rows, {rows} different scores"):
        read_pairs(write(tmp_path / "p.csv", ROWS.head(rows)), COLUMNS)


def test_scores_that_are_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 3 rows, 1 different scores; a correlation needs"):
        read_pairs(write(tmp_path / "p.csv", ROWS.assign(score=2)), COLUMNS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.csv",
            b"a,b,score\n\xff\xfe,x,1\n",
            r"p.csv line 2, a must be text in UTF-8; got bytes that are not",
        ),
        ("p.txt", b"text", r"p.txt must be one table; got 1 file\(s\), .*p.txt; name a .csv file"),
        ("p.xlsx", b"", r"the name's end must be one of .txt, .csv, .*; got .xlsx"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / name, COLUMNS)


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
def test_a_missing_file_or_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be an existing file or a glob .* got nothing of that name"):
        read_pairs(tmp_path / name, COLUMNS)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} must be a file or a glob; got a folder"):
        read_pairs(tmp_path / name, COLUMNS)
