"""One address on the web into one file on this disk, through drops, stalls and restarts.

Knows HTTP. Which file it should be, and where it belongs, is `download.py`'s.
"""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
    getproxies,
    proxy_bypass,
)

from fieldmark.progress import Progress, size

TIMEOUT_SECONDS = 30.0  # without a single byte
ATTEMPTS = 5  # in a row that bring nothing new
ATTEMPTS_TO_REACH = 2  # without a network, a person should not wait long to be told
GAIN_BYTES = 1 << 20  # what an attempt must add before the count begins anew
BACK_OFF_SECONDS = 1.0  # before the second attempt; twice as long before each further one
LONGEST_WAIT_SECONDS = 60.0  # whatever the server asks for
CHUNK_BYTES = 1 << 18
PASSING_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})


class TransferError(Exception):
    """The file did not arrive; the text is one sentence for people.

    Attributes:
        attempts: after how many failures in a row like this one it is time to give up.
        wait_seconds: how long the server asks to be left alone.
    """

    def __init__(self, problem: str, *, attempts: int = 1, wait_seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.attempts, self.wait_seconds = attempts, wait_seconds


class DiskError(TransferError):
    """What came could not be written."""


@dataclass
class _Part:
    """What has arrived so far, and the word by which the server knows its version."""

    path: Path
    pieces: int = 0  # answers the bytes come from; more than one may not belong together

    @property
    def etag(self) -> Path:
        return self.path.with_name(self.path.name + ".etag")

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def wishes(self) -> dict[str, str]:
        """The headers that ask for the rest, or for everything if it has changed since."""
        have = self.size()
        if not have:
            return {}
        try:
            version = self.etag.read_text(encoding="latin-1")
        except OSError:
            version = ""
        return {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})

    def begin(self, version: str) -> None:
        """Start from nothing. Emptied first: a version must never stand beside older bytes."""
        with _on_disk(self.path):
            self.path.open("wb").close()
            self.etag.write_text(version, encoding="latin-1")
        self.pieces = 0

    def append(self, stream: IO[bytes], chunk: bytes) -> None:
        with _on_disk(self.path):
            rest = memoryview(chunk)
            while rest:
                rest = rest[stream.write(rest) :]

    def discard(self) -> None:
        for path in (self.path, self.etag):
            with _on_disk(path):
                path.unlink(missing_ok=True)
        self.pieces = 0


def transfer(url: str, path: Path, *, title: str, progress: Progress) -> int:
    """Fetch `url` into `path`, going on from what `path` already holds of it.

    A dropped or stalled connection is taken up again where it ended. Proxies are those of the
    environment (`https_proxy`, `no_proxy`). What has arrived stays in `path`, whatever happens.

    Returns:
        how many answers the bytes come from. More than one, and only a hash can tell whether they
        belong together: not every server says that its file has changed.

    Raises:
        TransferError: it did not arrive; a `DiskError` where this machine is the reason.
    """
    opener = _opener()
    part = _Part(path)
    part.pieces = 1 if part.size() else 0
    furthest, failures = part.size(), 0
    while True:
        try:
            _receive(opener, url, part, title, progress)
        except TransferError as error:
            if part.size() >= furthest + GAIN_BYTES:
                furthest, failures = part.size(), 0
            failures += 1
            if failures >= error.attempts:
                tried = f" (tried {failures} times)" if failures > 1 else ""
                raise type(error)(f"{error}{tried}") from error
            wait_seconds = max(BACK_OFF_SECONDS * 2 ** (failures - 1), error.wait_seconds)
            have = part.size()
            again = f"going on from {size(have)}" if have else "trying again"
            progress.say(f"{title}: {error}; {again} in {wait_seconds:.0f} s")
            time.sleep(wait_seconds)
        else:
            with _on_disk(part.etag):
                part.etag.unlink(missing_ok=True)
            return part.pieces


def discard(path: Path) -> None:
    """Remove what has arrived so far."""
    _Part(path).discard()


def _receive(opener: OpenerDirector, url: str, part: _Part, title: str, progress: Progress) -> None:
    """One request and its answer. Returns when the file is whole; raises TransferError."""
    # No compression: the bytes on the disk must be the file's, for Range and for the hash.
    headers = {"User-Agent": "fieldmark", "Accept-Encoding": "identity", **part.wishes()}
    try:
        request = Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers=headers)
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            total = _begin(response, part)
            _check_room(part, total)
            _store(response, part, title, total, progress)
    except HTTPError as error:
        with error:
            if error.code == 416 and _told_total(error.headers) == part.size():
                part.pieces += 1
                return  # killed between the last byte and this: it is all there
            raise _refused(error, part) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _broken(error, url) from error
    if total is not None and part.size() < total:
        raise TransferError(
            f"the connection ended after {size(part.size())} of {size(total)}", attempts=ATTEMPTS
        )


def _begin(response: HTTPResponse, part: _Part) -> int | None:
    """Make `part` end where the body begins; returns the size of the whole file, if told."""
    if response.status == 206:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not start or int(start[1]) != part.size():
            part.discard()
            raise TransferError("the server sent another part than asked", attempts=ATTEMPTS)
        part.pieces += 1
        return _told_total(response.headers)
    etag = response.headers.get("ETag", "")
    # A weak ETag says "about the same", which is not enough to put two halves together.
    strong = etag if etag and not etag.startswith("W/") else ""
    part.begin(strong or response.headers.get("Last-Modified", ""))
    part.pieces = 1
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _told_total(headers: Message) -> int | None:
    told = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
    return int(told[1]) if told else None


def _check_room(part: _Part, total: int | None) -> None:
    if total is None:
        return
    with _on_disk(part.path):
        free, needed = shutil.disk_usage(part.path.parent).free, total - part.size()
    if needed > free:
        raise DiskError(f"the disk is too full: {size(needed)} to come, {size(free)} free")


def _store(
    response: HTTPResponse, part: _Part, title: str, total: int | None, progress: Progress
) -> None:
    with _on_disk(part.path):
        # Unbuffered: what has arrived is on the disk, even if this process is killed.
        stream = part.path.open("ab", buffering=0)
    with stream, progress.task(title, total, done=part.size(), in_bytes=True) as task:
        # read1 hands on what is there; read would lose up to a chunk when the connection drops.
        while chunk := response.read1(CHUNK_BYTES):
            part.append(stream, chunk)
            task.advance(len(chunk))


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """Tell failures of this disk from those of the network: both are OSError."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


def _refused(error: HTTPError, part: _Part) -> TransferError:
    """The server answered, and not with the file."""
    problem = f"the server answers {error.code} {error.reason}".rstrip()
    if error.code == 416:
        part.discard()  # more bytes than the file has: they belong to something else
        return TransferError(problem, attempts=ATTEMPTS)
    if error.code not in PASSING_STATUS:
        return TransferError(problem)
    asked = error.headers.get("Retry-After", "")
    wait_seconds = min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdecimal() else 0.0
    return TransferError(problem, attempts=ATTEMPTS, wait_seconds=wait_seconds)


def _broken(error: Exception, url: str) -> TransferError:
    """The connection did not come about, or did not last."""
    reason = error.reason if isinstance(error, URLError) else error
    place = _whom(url)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return TransferError(
            f"the certificate of {place} is not trusted ({reason.verify_message}); behind a "
            "company's proxy, SSL_CERT_FILE names the file of its certificates"
        )
    if isinstance(reason, socket.gaierror):
        problem = f"no way to {place}: its name is not known (is there a network?)"
        return TransferError(problem, attempts=ATTEMPTS_TO_REACH)
    if isinstance(reason, TimeoutError):
        problem = f"nothing came from {place} for {TIMEOUT_SECONDS:g} s"
        # As a URLError it never got through at all, and waiting as long five times is no help.
        reached = not isinstance(error, URLError)
        return TransferError(problem, attempts=ATTEMPTS if reached else ATTEMPTS_TO_REACH)
    if isinstance(reason, ConnectionRefusedError):
        problem = f"no way to {place}: {reason.strerror}"
        return TransferError(problem, attempts=ATTEMPTS_TO_REACH)
    if isinstance(reason, InvalidURL) and "@" in urlsplit(url).netloc:  # `reason` quotes it
        return TransferError(f"{place} cannot be asked with a user or password in its address")
    if isinstance(reason, str | InvalidURL | ValueError):
        return TransferError(f"{place} cannot be asked: {reason}")
    told = (reason.strerror if isinstance(reason, OSError) else None) or reason
    return TransferError(f"the connection to {place} broke: {told}", attempts=ATTEMPTS)


def _whom(url: str) -> str:
    """The server, and the proxy on the way to it (without the password it may carry)."""
    parts = urlsplit(url)
    host = parts.hostname or url
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(host):
        return host
    return f"{host} through the proxy {proxy.rpartition('@')[2].rpartition('//')[2].strip('/')}"


class _WebOnly(HTTPRedirectHandler):
    """Follows to http and https alone, and never from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        schemes = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in schemes:
            problem = f"{msg} - Redirection to url '{newurl}' is not allowed"
            raise HTTPError(newurl, code, problem, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Python's own, without what reads other things than the web (file:, ftp:, data:)."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        UnknownHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        _WebOnly(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
