"""A Hub of one file on this machine, as the Hub's own client asks for it, which can break a connection."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What the server has and how it behaves.

    Attributes:
        content: of the file.
        digest: the SHA-256 that the Hub gives for it; None for the right one.
        drop_after: bytes of an answer after which it breaks the connection; None for never.
    """

    content: bytes
    digest: str | None = None
    drop_after: int | None = None
    url: str = ""

    def headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{self.digest or hashlib.sha256(self.content).hexdigest()}"',
            "X-Repo-Commit": "0" * 40,
            "Content-Length": str(len(self.content)),
        }


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.send_response(200)
        for name, value in self.hub.headers().items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.hub.content[: self.hub.drop_after])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
