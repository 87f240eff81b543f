"""A published index is found as it was before or after any fault, and sent and fetched only as far as it changed."""

import json

import fsspec
import pytest

from diffcse.errors import UserError
from diffcse.search import remote
from diffcse.search.index import SentenceIndex
from diffcse.search.remote import fetch, is_remote, publish
from tests.killing import NO_SPACE, Killed, killed_at
from tests.search.test_index import blocks, create, places, vectors

kill = killed_at(print)


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """A new place on object storage, or what stands for it here."""
    return f"memory://bucket/{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/remote"


def stored(url):
    fs, place = fsspec.core.url_to_fs(url)
    return sorted(path.rsplit("/", 1)[-1] for path in fs.ls(f"{place}/files", detail=False))


@pytest.mark.parametrize("size", [60, 300])
def test_a_published_index_is_searched_like_the_folder(tmp_path, small_limits, url, size):
    array, queries = vectors(size), vectors(9, seed=1)
    index = create(tmp_path / "index", array)
    size_of, sent = publish(tmp_path / "index", url)
    assert size_of == sent == sum(p.stat().st_size for p in (tmp_path / "index").iterdir() if p.name != ".lock")
    copy = SentenceIndex(fetch(url, tmp_path / "cache"), verify=True)
    how = {"where": "year > 2004", "words": ["number 17"] * 9}
    assert copy.search(queries, 5) == index.search(queries, 5)
    assert copy.search(queries, 5, **how) == index.search(queries, 5, **how)


def test_only_what_changed_is_sent_and_old_files_go_one_publication_later(tmp_path, url):
    index = create(tmp_path / "index", vectors(60))
    publish(tmp_path / "index", url)
    first = stored(url)
    assert publish(tmp_path / "index", url)[1] == 0
    index.delete("_id % 2")
    size, sent = publish(tmp_path / "index", url)
    assert 0 < sent == (tmp_path / "index" / "index.sqlite").stat().st_size < size
    assert len(stored(url)) == 3 and set(first) < set(stored(url))
    index.compact()
    publish(tmp_path / "index", url)
    assert len(stored(url)) == 5 and len(set(first) - set(stored(url))) == 1
    folder = fetch(url, tmp_path / "cache")
    assert places(SentenceIndex(folder, verify=True), vectors(60)[::2], 1) == [[n] for n in range(0, 60, 2)]


def test_a_copy_is_made_once_and_follows_what_is_published(tmp_path, url, monkeypatch):
    array = vectors(70)
    index = create(tmp_path / "index", array[:60])
    publish(tmp_path / "index", url)
    first = fetch(url, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_download", kill)
        assert fetch(url, tmp_path / "cache") == first
    opened = SentenceIndex(first)
    index.add(blocks(array[60:], 60))
    assert fetch(url, tmp_path / "cache") == first  # not published
    publish(tmp_path / "index", url)
    second = fetch(url, tmp_path / "cache")
    assert places(SentenceIndex(second, verify=True), array, 1) == [[n] for n in range(70)]
    assert places(opened, array[:60], 1) == [[n] for n in range(60)]
    assert not first.exists() and {p.name for p in second.parent.iterdir()} == {second.name, "files", ".lock"}


@pytest.mark.parametrize("step", ["put_file", "transaction", "ls"])
def test_a_kill_while_publishing_leaves_the_earlier_state_or_the_new_one(tmp_path, url, monkeypatch, step):
    array = vectors(70)
    index = create(tmp_path / "index", array[:60])
    publish(tmp_path / "index", url)
    index.add(blocks(array[60:], 60))
    fs, _ = fsspec.core.url_to_fs(url)
    with monkeypatch.context() as patch:
        patch.setattr(type(fs), step, property(kill) if step == "transaction" else kill)
        with pytest.raises(Killed):
            publish(tmp_path / "index", url)
    count = 70 if step == "ls" else 60
    assert len(SentenceIndex(fetch(url, tmp_path / "cache"), verify=True)) == count
    publish(tmp_path / "index", url)
    assert len(SentenceIndex(fetch(url, tmp_path / "cache"), verify=True)) == 70


@pytest.mark.parametrize("step", ["write_atomic", "_assemble", "digest"])
def test_a_kill_while_fetching_leaves_a_cache_that_works(tmp_path, url, monkeypatch, step):
    create(tmp_path / "index", vectors(60))
    publish(tmp_path / "index", url)
    with monkeypatch.context() as patch:
        patch.setattr(remote, step, kill)
        with pytest.raises(Killed):
            fetch(url, tmp_path / "cache")
    assert len(SentenceIndex(fetch(url, tmp_path / "cache"), verify=True)) == 60


def test_a_file_that_was_cut_while_it_was_sent_is_sent_again(tmp_path, url):
    create(tmp_path / "index", vectors(60))
    publish(tmp_path / "index", url)
    fs, place = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{place}/files/{stored(url)[0]}", b"cut")
    with pytest.raises(UserError, match="must be as it was published; got other content in a file"):
        fetch(url, tmp_path / "cache")
    publish(tmp_path / "index", url)
    assert len(SentenceIndex(fetch(url, tmp_path / "cache"), verify=True)) == 60


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"must be a published index; got no current\.json in it"),
        (b"", r"must be a published index; got a current\.json that cannot be read"),
        (b"[]", r"must be a published index; got a current\.json that cannot be read"),
        (b'{"format": 9, "files": {}}', r"must be a published index; got .*unknown format"),
        (
            json.dumps({"format": 1, "files": {"../../x": {"size": 1, "sha256": "a" * 64}}}).encode(),
            r"must be a published index; got .*unknown format",
        ),
        (
            json.dumps({"format": 1, "files": {"index.sqlite": {"size": 1, "sha256": "../../etc/passwd"}}}).encode(),
            r"must be a published index; got .*unknown format",
        ),
    ],
)
def test_a_place_without_a_published_index(tmp_path, url, content, match):
    fs, place = fsspec.core.url_to_fs(url)
    fs.makedirs(place, exist_ok=True)
    if content is not None:
        fs.pipe_file(f"{place}/current.json", content)
    with pytest.raises(UserError, match=match):
        fetch(url, tmp_path / "cache")


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("nosuch://bucket/index", "must be on a storage that can be reached; got Protocol not known"),
        ("ftp://127.0.0.1:9/index", r"must be on a storage that can be reached; got .*refused"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(tmp_path, address, match):
    with pytest.raises(UserError, match=match):
        fetch(address, tmp_path / "cache")


def test_no_index_to_publish(tmp_path, url):
    with pytest.raises(UserError, match="must be an index folder"):
        publish(tmp_path / "nowhere", url)


def test_a_full_disk_is_this_machines(tmp_path, url, monkeypatch):
    create(tmp_path / "index", vectors(60))
    publish(tmp_path / "index", url)
    monkeypatch.setattr(remote, "write_atomic", killed_at(remote.write_atomic, error=NO_SPACE))
    with pytest.raises(UserError, match=r"cache .* must be on a disk that can be written to; got No space left"):
        fetch(url, tmp_path / "cache")


def test_addresses():
    assert [is_remote(name) for name in ("s3://b/i", "file:///x", "folder", "C:\\x", "a/b")] == [
        True,
        True,
        False,
        False,
        False,
    ]
