"""A web server of one file on this machine: ranges, redirects, and the faults that real ones have."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server has and how it behaves.

    Attributes:
        content: of the file.
        etag: its mark; None sends none.
        ranges: whether it can go on in the middle.
        drop_after: bytes of an answer after which it breaks the connection; None for never.
        status: refuse with this code instead.
        linked: headers of a redirect that comes first, as the Hub sends them.
        asked: the Range header of each request for the file.
    """

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    drop_after: int | None = None
    status: int | None = None
    linked: dict[str, str] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        if site.linked and self.path != "/storage":
            return self._answer(302, {**site.linked, "Location": f"{site.url.rsplit('/', 1)[0]}/storage"}, b"")
        wanted = self.headers.get("Range")
        site.asked.append(wanted)
        if site.status is not None:
            return self._answer(site.status, {}, b"")
        headers = {"ETag": site.etag} if site.etag else {}
        if wanted is None or not site.ranges:
            return self._answer(200, headers, site.content)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= len(site.content):
            return self._answer(416, {"Content-Range": f"bytes */{len(site.content)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{len(site.content) - 1}/{len(site.content)}"
        return self._answer(206, headers, site.content[start:])

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: self.site.drop_after])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/senteval.tar"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
