"""A web server on this machine that has a few files, and counts who asks."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Web:
    """`files`: what it has, by name. `asked`: the names that were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                web.asked.append(name)
                content = web.files.get(name)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False  # joined at the end: no test leaves one behind
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, path: Path, name: str) -> str:
        """Have a copy of the file; `{hash}` in the name becomes its first 8 digits, as torch's."""
        content = path.read_bytes()
        name = name.format(hash=hashlib.sha256(content).hexdigest()[:8])
        self.files[name] = content
        return name

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


@contextmanager
def serving(cache: Path) -> Iterator[Web]:
    """A server, reached without proxies, and an empty cache of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("FIELDMARK_CACHE", str(cache))
        web = Web()
        try:
            yield web
        finally:
            web.close()
