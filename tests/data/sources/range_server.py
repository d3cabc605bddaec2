"""A web server on this machine that gives parts of files, and fails as often as a test wants."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Web:
    """What is served and how.

    Attributes:
        root: The folder.
        ranges: Whether parts of files are given.
        failures: How many of the next requests fail.
        status: How they fail.
        asked: The `Range` of every request, None for whole files.
    """

    root: Path
    ranges: bool = True
    failures: int = 0
    status: int = 503
    url: str = ""
    asked: list[str | None] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.web.asked.append(self.headers.get("Range"))
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.web.root / self.path.lstrip("/")
        if self.web.failures > 0:
            self.web.failures -= 1
            self.reply(self.web.status, b"", {}, body=body)
        elif not path.is_file():
            self.reply(404, b"", {}, body=body)
        else:
            self.give(path.read_bytes(), body=body)

    def give(self, content: bytes, *, body: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if wanted and self.web.ranges:
            part = content[int(wanted[1]) : int(wanted[2]) + 1]
            told = f"bytes {wanted[1]}-{int(wanted[1]) + len(part) - 1}/{len(content)}"
            self.reply(206, part, {"Content-Range": told}, body=body)
        else:
            self.reply(200, content, {"ETag": f'"{hash(content)}"'}, body=body)

    def reply(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.web.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(root: Path) -> Iterator[Web]:
    """Serve a folder."""
    web = Web(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
