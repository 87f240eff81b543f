"""Every verb that reads text says what it met in it: bytes that are not UTF-8, words that the model does not know."""

import json
import logging

import pytest

from diffcse import DiffCSE
from diffcse.encoding.encode import Encoder
from diffcse.explore.corpus import read_corpus
from tests import tiny
from tests.cli.command import diffcse

UNKNOWN = ["我喜欢猫", "他讨厌雨", "今天下雪", "火车晚点"]
TRAINED = ["--preset", "small", "--objective", "simcse", "--batch-size", "4", "--max-steps", "1", "--cache", "cache"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts of which four lines are unknown and one is not UTF-8, as lines, pairs and documents; and an index."""
    place = tmp_path_factory.mktemp("met")
    tiny.save(tiny.encoder(), place / "model")
    texts = [*tiny.SENTENCES, *UNKNOWN]
    (place / "text.txt").write_bytes("\n".join([*texts, ""]).encode() + b"the caf\xe9 sat\n")
    pairs = zip(texts, [*texts[1:], texts[0]], strict=True)
    (place / "pairs.jsonl").write_text("".join(json.dumps({"sent0": a, "sent1": b}) + "\n" for a, b in pairs))
    documents = "".join(json.dumps({"text": f"{text} {text}"}) + "\n" for text in texts)
    (place / "documents.jsonl").write_text(documents)
    return place


VERBS = {
    "encode": (["encode", "text.txt", "-o", "v.npy", "--model", "model"], "replaced bytes that are not UTF-8 in 1"),
    "index": (["index", "text.txt", "-o", "index", "--model", "model"], "replaced bytes that are not UTF-8 in 1"),
    "dedup": (["dedup", "text.txt", "-o", "d.txt", "--model", "model"], "replaced bytes that are not UTF-8 in 1"),
    "train": (["train", "text.txt", "-o", "m", "--encoder", "model", *TRAINED], "skipped 1 not UTF-8"),
    "mine": (["mine", "pairs.jsonl", "-o", "mined.jsonl", "--model", "model", "--margin", "0"], ""),
    "neighbours": (
        ["train", "documents.jsonl", "-o", "n", "--encoder", "model", *TRAINED, "--view", "neighbours"],
        "",
    ),
    "similarity": (["similarity", *UNKNOWN[:2], "--model", "model"], ""),
    "search": (["search", "index", "--queries", "text.txt"], "text.txt: replaced bytes that are not UTF-8 in 1"),
}
COUNTS = {
    "mine": "8 of 24 texts",
    "neighbours": "8 of 24 texts",
    "similarity": "2 of 2 texts",
    "search": "4 of 13 texts",
}


@pytest.mark.parametrize("verb", VERBS)
def test_on_the_command_line(verb, place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    arguments, repaired = VERBS[verb]
    if verb == "search" and not (place / "index").exists():
        diffcse(*VERBS["index"][0])
    ended = diffcse(*arguments)
    assert ended.code == 0, ended.err
    said = ended.err + "\n".join(caplog.messages)  # a library's handler may stand between the log and the terminal
    unknown = f"{COUNTS.get(verb, '4 of 12 texts')} are mostly words that th"
    assert (unknown if "of mostly unknown words" not in said else "4 of mostly unknown words") in said
    assert repaired in said


def test_from_python(place, caplog):
    caplog.set_level(logging.WARNING)
    DiffCSE(str(place / "model"), device="cpu").build_index(place / "text.txt", use_faiss=False)
    read_corpus(str(place / "text.txt"), Encoder(place / "model").encode)
    repaired = f"{place / 'text.txt'}: replaced bytes that are not UTF-8 in 1 of 13 texts"
    assert caplog.messages.count(repaired) == 2
    assert sum("4 of 13" in message and "does not know" in message for message in caplog.messages) == 1
