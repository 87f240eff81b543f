"""Downloads against a real server on this machine that breaks, changes and lies."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest

from diffcse.errors import UserError
from diffcse.evaluation.download import download
from tests.evaluation.server import Site, serving

CONTENT = bytes(range(256)) * 4000  # about a megabyte, no two blocks of 256 at the wrong place by chance


def here(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def half_done(tmp_path: Path, site: Site, after: int = 300_000) -> Path:
    """A download that broke after so many bytes: the server then went away."""
    target = tmp_path / "file"
    site.drop_after = after

    def leave(done: int, total: int | None) -> None:
        if done >= after:
            site.status = 503

    with pytest.raises(UserError, match=rf"503 .*run this again, which goes on at {after:,} bytes"):
        download(site.url, target, on_progress=leave, wait_seconds=0)
    assert here(tmp_path) == {"file.part", "file.part.json"}
    assert (tmp_path / "file.part").read_bytes() == site.content[:after]
    site.drop_after, site.status, site.asked = None, None, []
    return target


def test_a_whole_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(Site(CONTENT)) as site:
        download(site.url, tmp_path / "file", on_progress=lambda *now: seen.append(now))
    assert (tmp_path / "file").read_bytes() == CONTENT and here(tmp_path) == {"file"}
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and site.asked == [None]


def test_a_connection_that_breaks_is_taken_up_again(tmp_path: Path) -> None:
    with serving(Site(CONTENT, drop_after=400_000)) as site:
        download(site.url, tmp_path / "file", wait_seconds=0)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=400000-", "bytes=800000-"]


def test_another_run_goes_on(tmp_path: Path) -> None:
    with serving(Site(CONTENT)) as site:
        target = half_done(tmp_path, site)
        download(site.url, target)
    assert target.read_bytes() == CONTENT and site.asked == ["bytes=300000-"] and here(tmp_path) == {"file"}


def test_a_run_killed_before_the_last_move(tmp_path: Path) -> None:
    with serving(Site(CONTENT)) as site:
        target = half_done(tmp_path, site)
        (tmp_path / "file.part").write_bytes(CONTENT)
        download(site.url, target)
    assert target.read_bytes() == CONTENT and site.asked == []


@pytest.mark.parametrize(("etag", "content"), [('"two"', CONTENT[::-1]), ('"one"', CONTENT + b"more"), (None, CONTENT)])
def test_a_changed_file_starts_over(tmp_path: Path, etag: str | None, content: bytes) -> None:
    with serving(Site(CONTENT)) as site:
        target = half_done(tmp_path, site)
        site.etag, site.content = etag, content
        download(site.url, target)
    assert target.read_bytes() == content and site.asked[-1] is None


def test_a_file_that_shrank_starts_over(tmp_path: Path) -> None:
    with serving(Site(CONTENT)) as site:
        target = half_done(tmp_path, site)
        site.content = CONTENT[:1000]
        download(site.url, target)
    assert target.read_bytes() == CONTENT[:1000] and site.asked == ["bytes=300000-", None]


def test_a_server_without_ranges_or_marks_starts_over(tmp_path: Path) -> None:
    with serving(Site(CONTENT, ranges=False)) as site:
        target = half_done(tmp_path, site)
        download(site.url, target)
        assert target.read_bytes() == CONTENT and site.asked == ["bytes=300000-"]
    (tmp_path / "other").mkdir()
    with serving(Site(CONTENT, etag=None)) as site:
        target = half_done(tmp_path / "other", site)
        download(site.url, target)
        assert target.read_bytes() == CONTENT and site.asked == [None]


def test_a_part_of_another_address_or_without_origin_is_not_used(tmp_path: Path) -> None:
    with serving(Site(CONTENT)) as site:
        target = half_done(tmp_path, site)
        about = tmp_path / "file.part.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), "url": "http://other"}))
        download(site.url, target)
        assert site.asked == [None]
        (tmp_path / "file.part").write_bytes(b"of what?")
        download(site.url, target)
    assert target.read_bytes() == CONTENT and site.asked == [None, None]


def test_the_digest_that_the_hub_names_is_checked(tmp_path: Path) -> None:
    good, bad = (hashlib.sha256(content).hexdigest() for content in (CONTENT, b"x"))
    with serving(Site(CONTENT, linked={"X-Linked-Etag": f'"{bad}"'})) as site:
        with pytest.raises(UserError, match=f"file must be a file with SHA-256 {bad}; got {good}; run this again"):
            download(site.url, tmp_path / "file")
        assert here(tmp_path) == set()
        site.linked = {"X-Linked-Etag": f'"{good}"'}
        site.drop_after, site.asked = 600_000, []
        download(site.url, tmp_path / "file", wait_seconds=0)
    assert (tmp_path / "file").read_bytes() == CONTENT and site.asked == [None, "bytes=600000-"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/senteval.tar"
        do = f"run this again; or download it by hand to {tmp_path / 'file'} and run this again"
        with pytest.raises(UserError, match=f"{url} must be reachable; got .*refused; {do}"):
            download(url, tmp_path / "file")
    with serving(Site(CONTENT, status=404)) as site, pytest.raises(UserError, match="must be reachable; got 404"):
        download(site.url, tmp_path / "file")
    assert here(tmp_path) == set()


def test_a_full_disk_and_an_address_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--url file:.* must be an http or https address; got file;"):
        download("file:///etc/hosts", tmp_path / "file")
    monkeypatch.setattr("diffcse.evaluation.download.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with serving(Site(CONTENT)) as site, pytest.raises(UserError, match="on a disk with 1 MB free; got 0 MB; free"):
        download(site.url, tmp_path / "file")
