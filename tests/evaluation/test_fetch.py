"""`diffcse data fetch` against a Hub on this machine and archives of every bad kind."""

from __future__ import annotations

import io
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from typer.testing import Result

from diffcse.errors import UserError
from diffcse.evaluation import fetch as fetching
from diffcse.evaluation.senteval import read_tasks
from diffcse.evaluation.tasks import ALL_TASKS
from tests.cli.command import invoke
from tests.evaluation.layout import Layout
from tests.evaluation.server import Hub, serving

Serve = Callable[..., AbstractContextManager[Hub]]
LOCK = ".fetch.lock"


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves an archive as the Hub does, to a client with an empty cache."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    @contextmanager
    def serve(content: bytes, **options: object) -> Iterator[Hub]:
        with serving(Hub(content, **options)) as site:
            monkeypatch.setattr(fetching, "ENDPOINT", site.url)
            yield site

    return serve


@pytest.fixture(scope="module")
def data(official: Layout) -> Path:
    return official.root


@pytest.fixture(scope="module")
def archive(data: Path) -> bytes:
    """As the authors made it: the folders of the tasks are at its top."""
    return packed(*sorted((data / "downstream").iterdir()))


@pytest.fixture(scope="module")
def small(data: Path) -> bytes:
    return packed(data / "downstream" / "MR")


def packed(*paths: Path, mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as tar:
        for path in paths:
            tar.add(path, path.name)
    return made.getvalue()


def with_member(name: str, content: bytes = b"", **changes: object) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for key, value in changes.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def run(*arguments: object) -> Result:
    return invoke("data", *arguments)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def test_fetch_then_nothing_to_do(tmp_path: Path, hub: Serve, data: Path, archive: bytes) -> None:
    with hub(archive):
        done = run("fetch", tmp_path / "new" / "folder")
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "new" / "folder") == files(data)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["STSBenchmark", "whole", "train", "5749,", "dev", "1500,", "test", "1379"] in lines
    assert ["SST2", "whole", "train", "67349,", "dev", "872,", "test", "1821"] in lines
    assert {line[0] for line in lines if line[1:2] == ["whole"]} == set(ALL_TASKS)
    again = run("fetch", tmp_path / "new" / "folder")  # the server is gone
    assert again.exit_code == 0 and "is complete; nothing to do" in again.stderr


def test_a_broken_connection_and_the_same_command_again(
    tmp_path: Path, hub: Serve, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with hub(small, drop_after=len(small) // 2) as site:
        with pytest.raises(UserError, match=r"senteval.tar must be in the cache, or on a Hub that can be reached"):
            fetching.fetch(tmp_path)
        assert files(tmp_path) == set()
        site.drop_after = None
        assert [task.name for task in fetching.fetch(tmp_path).tasks] == ["MR"]
    assert {path.name for path in tmp_path.iterdir()} == {"downstream", LOCK}


def test_the_digest_that_the_hub_names_is_checked(tmp_path: Path, hub: Serve, small: bytes) -> None:
    with hub(small, digest="1" * 64):
        for _ in range(2):  # the bad file is not found in the cache
            with pytest.raises(
                UserError, match=r"senteval.tar must be a file with SHA-256 1{64}; got [0-9a-f]{64}; run"
            ):
                fetching.fetch(tmp_path)
    assert files(tmp_path) == set()


def test_an_archive_put_there_by_hand_needs_no_network(
    tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    by_hand = rf"put https?://.*senteval\.tar to {tmp_path}/senteval.tar by hand and run this again"
    with pytest.raises(UserError, match=rf"got HF_HUB_OFFLINE is set; run this again with a network, or {by_hand}"):
        run("fetch", tmp_path)
    (tmp_path / "senteval.tar").write_bytes(small)
    assert run("fetch", tmp_path).exit_code == 1  # for all but MR are missing
    assert (tmp_path / "senteval.tar").exists() and [task.name for task in read_tasks(tmp_path).tasks] == ["MR"]


def test_without_network_it_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setattr(fetching, "ENDPOINT", url)
        with pytest.raises(
            UserError, match=rf"got no connection to {url} .*or put {url}/.* to {tmp_path}/senteval.tar"
        ):
            run("fetch", tmp_path)


def test_the_address_is_the_hubs() -> None:
    assert fetching.archive_url().endswith("/datasets/princeton-nlp/datasets-for-simcse/resolve/main/senteval.tar")


def test_an_archive_in_which_a_task_is_short(tmp_path: Path, hub: Serve) -> None:
    layout = Layout(tmp_path / "made").write("MR", "STSBenchmark")
    path = layout.path("MR", "rt-polarity.pos")
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]))
    with hub(packed(layout.root / "downstream")):  # one folder deeper than the authors' archive
        done = run("fetch", tmp_path / "new")
    assert done.exit_code == 1
    assert f"MR: {tmp_path / 'new' / 'downstream'}" in done.stderr and "5331 rows; got 5330" in done.stderr
    assert "TREC: " in done.stderr and "STSBenchmark whole" in " ".join(done.stdout.split())
    with pytest.raises(UserError, match=r"downstream must be complete; got faults in STS12, .*, MRPC; remove it"):
        run("fetch", tmp_path / "new")
    assert run("check", tmp_path / "new").exit_code == 1


BAD = {
    "no archive": (b"<html>moved</html>", "a whole tar archive"),
    "cut": (with_member("MR/rt-polarity.pos", b"a\n" * 5000)[:2000], "a whole tar archive"),
    "other content": (with_member("readme.txt", b"hello"), "an archive with SentEval's tasks; got none of CR, MPQA"),
    "empty task": (with_member("MR/readme", b"hello"), "an archive with SentEval's tasks; got none that can be read"),
    "upwards": (with_member("MR/../../escaped", b"x"), "stays in its folder; got MR/../../escaped"),
    "absolute": (with_member("/tmp/escaped", b"x"), "stays in its folder; got /tmp/escaped"),
    "backslash": (with_member("MR\\..\\..\\escaped", b"x"), "stays in its folder"),
    "symbolic link": (with_member("MR", type=tarfile.SYMTYPE, linkname="/tmp"), "got MR, a link or a device"),
    "hard link": (with_member("MR/a", type=tarfile.LNKTYPE, linkname="../../x"), "got MR/a, a link or a device"),
    "device": (with_member("MR/a", type=tarfile.CHRTYPE), "got MR/a, a link or a device"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_archive_leaves_nothing(tmp_path: Path, hub: Serve, kind: str) -> None:
    content, match = BAD[kind]
    target = tmp_path / "folder"
    with hub(content), pytest.raises(UserError, match=f"senteval.tar must be .*{match}"):
        fetching.fetch(target)
    assert [path.name for path in target.iterdir()] == [LOCK] and [path.name for path in tmp_path.iterdir()] == [
        "folder"
    ]


def test_an_archive_that_grows_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = io.BytesIO()
    with tarfile.open(fileobj=bomb, mode="w:gz") as tar:
        member = tarfile.TarInfo("MR/rt-polarity.pos")
        member.size = 5_000_000
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    (tmp_path / "senteval.tar").write_bytes(bomb.getvalue())
    monkeypatch.setattr(fetching, "_MOST_BYTES", 4_000_000)
    with pytest.raises(UserError, match=r"at most 20,000 files and 0.004 GB; got 1 files and 0.0 GB or more"):
        fetching.fetch(tmp_path)
    assert files(tmp_path) == {"senteval.tar"}  # it was there before, so it stays


def test_something_else_in_the_place(tmp_path: Path) -> None:
    (tmp_path / "downstream").mkdir()
    with pytest.raises(UserError, match="downstream must be absent; got something there; remove it"):
        fetching.fetch(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file must be on a disk that can be written to"):
        fetching.fetch(tmp_path / "file")
