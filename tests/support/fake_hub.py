"""A Hugging Face hub on this machine: it answers as the real one does, and fails as it could."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REPO = "acme/tiny"
COMMIT, OLDER = "c0ffee" * 6 + "beef", "0ddba1" * 6 + "cafe"
CONFIG = {"architecture": "resnet10", "num_classes": 2}
PATIENCE_SECONDS = 20.0


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub:
    """Repositories and a content server. `faults`: what befalls the next transfers, one each."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.commit = files, COMMIT
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.faults: list[str] = []
        self.stalls_lookups = False
        self.seen: list[tuple[str, str, str | None]] = []
        self.go_on = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # joined at the end: no test leaves one behind

            def handle_error(self, *_: object) -> None:
                pass  # clients that hang up are what this is about

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def transfers(self) -> list[str | None]:
        """The Range of each time that weights were asked for."""
        return [asked for method, path, asked in self.seen if path.startswith("/cdn/")]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        path = unquote(request.path)
        self.seen.append((request.command, path, request.headers.get("Range")))
        if path.startswith("/cdn/"):
            self.transfer(request, next(c for c in self.files.values() if sha256(c) in path))
            return
        if self.stalls_lookups:
            self.go_on.wait(PATIENCE_SECONDS)
            return
        if self.refusal is not None:
            send(request, *self.refusal)
        elif path.startswith(f"/api/models/{REPO}"):
            names = [{"rfilename": name} for name in self.files]
            about = {"id": REPO, "sha": self.commit, "siblings": names, "tags": []}
            send(request, 200, {"Content-Type": "application/json"}, json.dumps(about).encode())
        elif path.startswith(f"/{REPO}/resolve/"):
            self.resolve(request, *path.removeprefix(f"/{REPO}/resolve/").split("/", 1))
        else:  # as the hub does for whoever is not logged in
            send(request, 401, {"X-Error-Message": "Invalid username or password."})

    def resolve(self, request: BaseHTTPRequestHandler, revision: str, name: str) -> None:
        told = {"X-Repo-Commit": self.commit}
        if revision not in ("main", self.commit):
            send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        elif name not in self.files:
            send(request, 404, told | {"X-Error-Code": "EntryNotFound"})
        elif name.endswith(".json"):  # small files are git's
            content = self.files[name]
            header = b"blob %d\0" % len(content)
            told["ETag"] = f'"{hashlib.sha1(header + content).hexdigest()}"'
            if self.faults[:1] == ["corrupt small"] and request.command == "GET":
                content = bytes(reversed(content))
            send(request, 200, told, content)
        else:
            content = self.files[name]
            told |= {
                "X-Linked-Etag": f'"{sha256(content)}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"http://localhost:{self.server.server_port}/cdn/{sha256(content)}",
                # Present at the real one for all large files: must not lead us to Xet.
                "X-Xet-Hash": "ab" * 32,
                "Link": f'<{self.address}/api/xet>; rel="xet-auth"',
            }
            send(request, 302, told)

    def transfer(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        asked, start, status = request.headers.get("Range"), 0, 200
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{sha256(content)}"'}
        if asked:
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        half = body[: len(body) // 2] if fault in ("drop", "reset", "stall") else body
        send(request, status, headers, half, length=len(body))
        if fault == "stall":
            self.go_on.wait(PATIENCE_SECONDS)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.connection.close()

    def close(self) -> None:
        self.go_on.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    length: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.send_header("Connection", "close")
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)
        request.wfile.flush()
