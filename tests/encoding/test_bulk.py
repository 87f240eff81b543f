"""A bulk run that is killed anywhere ends as if it had not been; bad input and full disks lose nothing."""

import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from diffcse.encoding import bulk, parts
from diffcse.encoding.bulk import BulkSettings, encode_file
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.encoding.parts import as_dtype
from diffcse.errors import UserError
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.text.stream import open_texts
from tests import tiny
from tests.killing import NO_SPACE, Killed, killed_at

SMALL = EncodeSettings(normalize=True, chunk_sentences=7)


@pytest.fixture
def model(folder):
    return load_encoder(folder)


@pytest.fixture
def text(tmp_path):
    return tiny.write_sentences(tmp_path / "text.txt", 50)


def settings(**changes):
    return BulkSettings(**{"encoding": SMALL, **changes})


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def read(path):
    if path.suffix == ".npy":
        return np.load(path)
    return np.array(pq.read_table(path)["vector"].to_pylist())


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rows_are_the_vectors_of_the_lines(tmp_path, model, text, suffix, dtype):
    output = tmp_path / f"out{suffix}"
    counts = encode_file(str(text), output, lambda: model, settings(dtype=dtype))
    exact = Encoder(model, settings=SMALL).encode(lines(text))
    assert counts.rows == 50
    assert read(output).tolist() == as_dtype(exact, dtype).tolist()
    assert not output.with_name(f"{output.name}.part").exists()
    if suffix == ".parquet":
        table = pq.read_table(output)
        assert table["text"].to_pylist() == lines(text)
        kind = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype]
        assert table.schema.field("vector").type == pa.list_(kind, 16)
    else:
        assert np.load(output, mmap_mode="r").dtype == dtype


def test_int8_keeps_cosines(model):
    exact = Encoder(model, settings=SMALL).encode(tiny.SENTENCES)
    rough = as_dtype(exact, "int8").astype(np.float32)
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)
    assert abs(rough @ rough.T - exact @ exact.T).max() < 0.01
    assert as_dtype(np.zeros((1, 3), np.float32), "int8").tolist() == [[0, 0, 0]]


MOMENTS = [
    *[("write_atomic", moment) for moment in (0, 1, 2, 7, 8)],  # eight parts and, in a file, the join
    *[("write_table", moment) for moment in (0, 1, 5)],
    ("_publish", 0),
    ("join", 0),
    ("fsync", 0),
    ("rmtree", 0),
]
"""Steps of a run, and how often each succeeds before the run is killed there."""


def kill_in(patch, step, moment):
    """Let the next run be killed at a step of it."""
    owner = {"write_atomic": parts, "write_table": parts.pq, "rmtree": bulk.shutil}.get(step, bulk)
    patch.setattr(owner, step, killed_at(getattr(owner, step), moment))


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize(("step", "moment"), MOMENTS)
def test_a_run_killed_anywhere_resumes_to_the_same_file(tmp_path, model, text, monkeypatch, suffix, step, moment):
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    encode_file(str(text), whole, lambda: model, settings())
    with monkeypatch.context() as patch:
        kill_in(patch, step, moment)
        with pytest.raises(Killed):
            encode_file(str(text), output, lambda: model, settings())
    assert output.exists() == (step in ("fsync", "rmtree"))
    encode_file(str(text), output, lambda: model, settings())
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["text.txt", whole.name, output.name])


@pytest.mark.parametrize(
    ("step", "moment"), [("write_atomic", 0), ("write_table", 3), ("replace_folder", 0), ("rmtree", 0)]
)
def test_a_folder_of_parts_appears_at_the_end_whatever_is_killed(tmp_path, model, text, monkeypatch, step, moment):
    output, whole = tmp_path / "out", tmp_path / "whole.parquet"
    encode_file(str(text), whole, lambda: model, settings())
    with monkeypatch.context() as patch:
        kill_in(patch, step, moment)
        with pytest.raises(Killed):
            encode_file(str(text), output, lambda: model, settings())
    assert output.exists() == (step == "rmtree")
    counts = encode_file(str(text), output, lambda: model, settings())
    assert counts.rows == 50 and len(list(output.iterdir())) == 8
    assert pq.read_table(output).equals(pq.read_table(whole))
    assert not (tmp_path / "out.part").exists()
    with pytest.raises(UserError, match="must be a new file; got one that exists"):
        encode_file(str(text), output, lambda: model, settings())


def test_parts_that_are_there_are_not_encoded_again_unless_they_are_damaged(tmp_path, model, text, monkeypatch):
    output = interrupted(tmp_path, model, text, monkeypatch)
    folder = tmp_path / "out.npy.part" / "parts"
    (folder / "part-000000001.parquet").write_bytes(b"half a part")
    (folder / ".part-000000002.parquet.1.part").write_bytes(b"of a process that was killed")
    untouched, seen = (folder / "part-000000000.parquet").stat().st_mtime_ns, []
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_publish", killed_at(bulk._publish, 0))
        with pytest.raises(Killed):
            encode_file(
                str(text), output, lambda: model, settings(), on_progress=lambda done, total: seen.append((done, total))
            )
    assert (folder / "part-000000000.parquet").stat().st_mtime_ns == untouched
    assert seen[0] == (21, 50) and seen[-1] == (50, 50)
    encode_file(str(text), output, lambda: model, settings())
    encode_file(str(text), tmp_path / "whole.npy", lambda: model, settings())
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


SCRIPT = """
import sys, time
from pathlib import Path
from diffcse.encoding.bulk import BulkSettings, encode_file
from diffcse.persistence.load import load_encoder
from diffcse.encoding.encode import Encoder, EncodeSettings
settings = BulkSettings(encoding=EncodeSettings(normalize=True, chunk_sentences=7))
slow = lambda done, total: (print(done, flush=True), time.sleep(float(sys.argv[4])))
encode_file(sys.argv[1], Path(sys.argv[2]), lambda: load_encoder(sys.argv[3]), settings, on_progress=slow)
"""


def test_a_process_killed_by_sigkill_loses_nothing_even_of_a_pipe(tmp_path, model, folder, text):
    output = tmp_path / "out.npy"
    command = [sys.executable, "-c", SCRIPT, "-", str(output), folder]
    with text.open("rb") as source, subprocess.Popen([*command, "60"], stdin=source, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"7\n"
        process.send_signal(signal.SIGKILL)
    assert not output.exists()
    assert [path.name for path in (tmp_path / "out.npy.part" / "parts").glob("p*")] == ["part-000000000.parquet"]
    with text.open("rb") as source:
        done = subprocess.run([*command, "0"], stdin=source, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["14", "21", "28", "35", "42", "49", "50", "50"]
    np.testing.assert_allclose(np.load(output), Encoder(model, settings=SMALL).encode(lines(text)), atol=1e-6)


def interrupted(tmp_path, model, text, monkeypatch):
    output = tmp_path / "out.npy"
    with monkeypatch.context() as patch:
        kill_in(patch, "write_atomic", 3)
        with pytest.raises(Killed):
            encode_file(str(text), output, lambda: model, settings())
    return output


def test_another_text_is_noticed(tmp_path, model, text, monkeypatch):
    output = interrupted(tmp_path, model, text, monkeypatch)
    text.write_text(text.read_text().replace("cat", "dog", 1))
    with pytest.raises(UserError, match=r"text\.txt must be the text that the interrupted run read; got another"):
        encode_file(str(text), output, lambda: model, settings())


def test_another_model_or_other_settings_are_noticed(tmp_path, model, text, monkeypatch):
    output = interrupted(tmp_path, model, text, monkeypatch)
    with pytest.raises(UserError, match="one of the same kind; got other dtype; use the same model and options"):
        encode_file(str(text), output, lambda: model, settings(dtype="int8"))
    other = load_encoder(tiny.save(tiny.encoder(seed=5), tmp_path / "other"))
    with pytest.raises(UserError, match="one of the same kind; got other model"):
        encode_file(str(text), output, lambda: other, settings())


def test_two_processes_do_not_share_a_run(tmp_path, model, text):
    work = tmp_path / "out.npy.part"
    work.mkdir()
    with (
        FileLock(work / "lock"),
        pytest.raises(UserError, match="must be written by one process at a time; got another one at work"),
    ):
        encode_file(str(text), tmp_path / "out.npy", lambda: model, settings())


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_text_that_grew_or_shrank_by_whole_chunks_is_noticed(tmp_path, model, monkeypatch, change):
    text = tiny.write_sentences(tmp_path / "text.txt", 28)
    with monkeypatch.context() as patch:
        kill_in(patch, "_publish", 0)
        with pytest.raises(Killed):
            encode_file(str(text), tmp_path / "out.npy", lambda: model, settings())
    if change == "shorter":
        text.write_text("".join(f"{line}\n" for line in lines(text)[:21]))
        with pytest.raises(UserError, match="must be the text that the interrupted run read; got another; restore"):
            encode_file(str(text), tmp_path / "out.npy", lambda: model, settings())
    else:
        text.write_text(text.read_text() + "the end\n")
        assert encode_file(str(text), tmp_path / "out.npy", lambda: model, settings()).rows == 29


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", r"must be readable \(its job\.json is not\)"),
        ('{"version": 1, "dtype": "float32"}', "must be one by this version of diffcse; got one by another version"),
    ],
)
def test_a_folder_of_an_earlier_version_or_a_damaged_one_is_one_line(tmp_path, model, text, content, match):
    work = tmp_path / "out.npy.part"
    work.mkdir()
    (work / "job.json").write_text(content)
    (work / "state.json").write_text('{"rows": 7}')
    with pytest.raises(UserError, match=match + r".*; remove .*out\.npy\.part to start again"):
        encode_file(str(text), tmp_path / "out.npy", lambda: model, settings())
    assert (work / "state.json").exists()


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("step", ["part", "join"])
def test_a_full_disk_loses_nothing(tmp_path, model, text, monkeypatch, suffix, step):
    output = tmp_path / f"out{suffix}"
    with monkeypatch.context() as patch:
        if step == "part":
            patch.setattr(parts, "write_atomic", killed_at(parts.write_atomic, 3, NO_SPACE))
        else:
            patch.setattr(bulk, "join", killed_at(bulk.join, error=NO_SPACE))
        with pytest.raises(UserError, match=r"got No space left on device; make room .* same command: it resumes"):
            encode_file(str(text), output, lambda: model, settings())
    assert len(list((tmp_path / f"out{suffix}.part" / "parts").glob("part-*"))) == (3 if step == "part" else 8)
    encode_file(str(text), output, lambda: model, settings())
    assert len(read(output)) == 50


def test_too_small_a_disk_is_reported_before_the_first_chunk(tmp_path, model, text, monkeypatch):
    monkeypatch.setattr(bulk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match=r"must be on a disk with 6\.4 kB free; got 100 bytes"):
        encode_file(str(text), tmp_path / "out.npy", lambda: model, settings())


def test_a_run_that_fails_before_its_first_row_leaves_no_folder(tmp_path, model, text):
    with torch.no_grad():
        broken = load_encoder(tiny.save(tiny.encoder(), tmp_path / "broken"))
        broken[0].model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="sentence vectors must be finite"):
        encode_file(str(text), tmp_path / "out.npy", lambda: broken, settings())
    assert not (tmp_path / "out.npy.part").exists()


@pytest.mark.parametrize(
    ("given", "output", "match"),
    [
        (
            "text.txt",
            "out.csv",
            r"out\.csv must be a file ending in \.npy or \.parquet, or a new folder; got \.csv",
        ),
        ("text.txt", "none/out.npy", "must be in an existing folder"),
        ("text.txt", "old.npy", "must be a new file; got one that exists"),
        ("none.txt", "out.npy", "must be an existing file"),
        ("empty.txt", "out.npy", "must be a text with at least one line"),
        ("cut.txt.gz", "out.npy", "must be a whole gzip file"),
        ("pairs.csv", "out.npy", "must be read with one column; got sent0, sent1"),
    ],
)
def test_bad_input_is_reported_before_the_model_is_loaded(tmp_path, text, given, output, match):
    (tmp_path / "old.npy").write_bytes(b"")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(text.read_bytes())[:-20])
    (tmp_path / "pairs.csv").write_text("sent0,sent1\na,b\n")
    with pytest.raises(UserError, match=match):
        encode_file(str(tmp_path / given), tmp_path / output, tiny.no_model, settings())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root may write to")
def test_read_only_folder(model, text):
    match = "must be in a folder that you may write to|must be on a disk that can be written to"
    with pytest.raises(UserError, match=match):
        encode_file(str(text), Path("/proc/out.npy"), lambda: model, settings())


def test_overwrite_replaces_only_at_the_end(tmp_path, model, text, monkeypatch):
    output = tmp_path / "out.npy"
    output.write_bytes(b"old")
    with monkeypatch.context() as patch:
        kill_in(patch, "write_atomic", 3)
        with pytest.raises(Killed):
            encode_file(str(text), output, lambda: model, settings(), overwrite=True)
    assert output.read_bytes() == b"old"
    encode_file(str(text), output, lambda: model, settings(), overwrite=True)
    assert np.load(output).shape == (50, 16)


def test_blank_lines_and_broken_bytes_keep_their_rows_and_are_counted(tmp_path, model):
    path = tmp_path / "mixed.txt"
    path.write_bytes(b"the cat\n\n \nthe \xff dog\r\nthe end")
    counts = encode_file(str(path), tmp_path / "out.parquet", lambda: model, settings())
    assert (counts.rows, counts.blank, counts.repaired) == (5, 2, 1)
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == [
        "the cat",
        "",
        " ",
        "the \ufffd dog",
        "the end",
    ]


def test_truncated_lines_are_counted(tmp_path, model, text):
    encoding = EncodeSettings(normalize=True, max_tokens=5)
    counts = encode_file(str(text), tmp_path / "out.npy", lambda: model, settings(encoding=encoding))
    assert counts.truncated == sum(len(ids) > 5 for ids in tiny.tokenizer()(lines(text))["input_ids"])


@pytest.mark.parametrize("name", ["text.csv", "text.jsonl", "text.parquet", "text.txt.gz"])
def test_other_forms_of_the_same_text(tmp_path, model, text, name):
    path, rows = tmp_path / name, lines(text)
    if name.endswith(".csv"):
        path.write_text("".join(f'"{row}"\n' for row in ["text", *rows]))
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps({"text": row, "id": 1}) + "\n" for row in rows))
    elif name.endswith(".parquet"):
        pq.write_table(pa.table({"text": rows}), path)
    else:
        path.write_bytes(gzip.compress(text.read_bytes()))
    encode_file(str(path), tmp_path / "out.npy", lambda: model, settings())
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), Encoder(model, settings=SMALL).encode(rows), atol=1e-6)


def test_blank_texts_can_be_skipped(tmp_path):
    path = tmp_path / "mixed.txt"
    path.write_text("a\n\n \nb\n")
    assert list(open_texts(str(path), skip_blank=True)) == ["a", "b"]
    assert open_texts(str(path), skip_blank=True).count() == 2


def test_int8_needs_normalized_vectors():
    with pytest.raises(UserError, match="int8 must be used with normalized vectors"):
        BulkSettings(dtype="int8", encoding=EncodeSettings())


def test_memory_does_not_grow_with_the_text(tmp_path, model):
    # The chunks that are held at once: one in the model and one being tokenised; the next is read only then.
    texts, ahead = open_texts(str(tiny.write_sentences(tmp_path / "long.txt", 700))), []
    work = tmp_path / "work"
    work.mkdir()

    def engine(encoder, job, chunks):
        read = [0]

        def counted():
            for part in chunks:
                read[0] += 1
                yield part

        for done, counts in enumerate(parts.in_this_process(encoder, job, counted())):
            ahead.append(read[0] - done)
            yield counts

    _, counts = bulk.encode_texts(texts, work, Encoder(model, settings=SMALL), settings(), engine=engine)
    assert counts.rows == 700 and len(ahead) == 100
    assert max(ahead) <= 2


def test_fingerprint_knows_weights_pooling_and_length(tmp_path, model, folder):
    same, averaged, short = load_encoder(folder), load_encoder(folder, pooler="avg"), load_encoder(folder)
    short.max_seq_length = 10
    other = load_encoder(tiny.save(tiny.encoder(seed=9), tmp_path / "other"))
    assert fingerprint(same) == fingerprint(model)
    assert len({fingerprint(each) for each in (model, averaged, short, other)}) == 4
