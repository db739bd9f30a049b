"""Against a real server on this machine that drops, stalls, corrupts, forgets and redirects."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request

import platformdirs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fieldmark import download as module
from fieldmark import transfer
from fieldmark.download import (
    cache_directory,
    download,
    find_downloaded,
    public_url,
    sha256_of,
    split_url,
)
from fieldmark.errors import DownloadError, OutputError
from fieldmark.progress import Silent

FILE = random.Random(3).randbytes(3_000_000)
SHA = hashlib.sha256(FILE).hexdigest()
OTHER = random.Random(4).randbytes(2_000_000)
PATIENCE_SECONDS = 20.0


@dataclass
class Answer:
    """What the server does with one request."""

    body: bytes = FILE
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = '"v1"'
    drop_after: int | None = None
    stall_after: int | None = None
    ignores_range: bool = False
    says_length: bool = True


class Web:
    """A server: gives the answers in `script`, one a request, then `usual` for ever."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.usual = Answer()
        self.seen: list[tuple[str, Message]] = []
        self.go_on = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.seen.append((self.path, self.headers))
                web.give(web.script.pop(0) if web.script else web.usual, self)

            def do_CONNECT(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # joined at the end: no test leaves one behind

            def handle_error(self, *_: object) -> None:
                pass  # clients that hang up are what this is about

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def give(self, answer: Answer, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        body, status, headers = answer.body, answer.status, dict(answer.headers)
        if answer.etag:
            headers["ETag"] = answer.etag
        asked = handler.headers.get("Range")
        if_range = handler.headers.get("If-Range", answer.etag)
        if asked and status == 200 and not answer.ignores_range and if_range == answer.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            whole = len(body)
            status = 206 if start < whole else 416
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
            if status == 416:
                headers["Content-Range"] = f"bytes */{whole}"
            body = body[start:]
        handler.send_response(status)
        if answer.says_length:
            headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        stop = answer.drop_after if answer.drop_after is not None else answer.stall_after
        handler.wfile.write(body[:stop])
        if answer.stall_after is not None:
            self.go_on.wait(PATIENCE_SECONDS)
            handler.wfile.write(body[stop:])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.address}/weights/resnet50.pth"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.seen]

    def close(self) -> None:
        self.go_on.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no proxies, no pauses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(transfer, "BACK_OFF_SECONDS", 0.0)
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", PATIENCE_SECONDS / 2)
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "downloads"


class Heard:
    """A progress that remembers."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.tasks: list[tuple[str, int | None, int, bool]] = []
        self.counted: list[int] = []
        self.stop_at = stop_at

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextlib.contextmanager
    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> Iterator[Heard]:
        self.tasks.append((title, total, done, in_bytes))
        self.counted.append(0)
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.counted[-1] += count
        if self.stop_at is not None and self.counted[-1] >= self.stop_at:
            raise KeyboardInterrupt


def refusal(url: str, **words: Any) -> str:
    """The text of the error, which always says how to do it by hand, and exactly where."""
    with pytest.raises(DownloadError) as caught:
        download(url, **({"sha256": SHA, "progress": Silent()} | words))
    text = str(caught.value)
    assert f"given:  {public_url(url)}\n" in text
    assert "put it exactly here" in text
    place = hand_place(text)
    assert place.parent == cache_directory("downloads")
    command = next(line for line in text.splitlines() if "curl" in line).split("as in: ")[1]
    command = command.removesuffix(")").removesuffix(", with the whole of your address")
    assert shlex.split(command)[-2:] == [str(place), public_url(url)]
    return text


def hand_place(text: str) -> Path:
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if "put it exactly here" in line)
    return Path(lines[at + 1].strip())


def test_fetched_once_and_offline_ever_after(web: Web, cache: Path) -> None:
    heard = Heard()
    assert find_downloaded(web.url, sha256=SHA) is None
    path = download(web.url, sha256=SHA, progress=heard)
    assert path == cache / f"resnet50-{SHA[:8]}.pth"
    assert path.read_bytes() == FILE
    assert heard.tasks == [(path.name, len(FILE), 0, True)]
    assert heard.counted == [len(FILE)]
    assert heard.said == [f"downloading {path.name} from 127.0.0.1"]
    web.close()
    assert download(web.url, sha256=SHA.upper(), progress=Silent()) == path
    assert download(web.url, sha256=SHA[:8], progress=Silent()) == path
    assert len(web.seen) == 1
    left = {entry.name for entry in cache.iterdir()}
    assert left == {path.name, f".{path.name}.verified", f".{path.name}.lock"}


def test_looking_for_a_file_reads_no_file(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = download(web.url, sha256=SHA, progress=Silent())

    def read(_: Path) -> str:
        raise AssertionError("500 MB are read to show a list")

    monkeypatch.setattr(module, "sha256_of", read)
    assert find_downloaded(web.url, sha256=SHA) == path
    assert find_downloaded(web.url, sha256="0" * 64) is None
    assert find_downloaded(web.url, sha256=SHA[:8] + "0" * 56) is None  # by the same name
    assert find_downloaded(web.url, sha256=SHA, name="another.pth") is None
    path.write_bytes(FILE[:-1])
    assert find_downloaded(web.url, sha256=SHA) is None


def test_a_dropped_connection_goes_on_where_it_ended(web: Web) -> None:
    web.script = [Answer(drop_after=1_000_000), Answer(drop_after=500_000)]
    heard = Heard()
    path = download(web.url, sha256=SHA, progress=heard)
    assert path.read_bytes() == FILE
    assert web.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert [headers.get("If-Range") for _, headers in web.seen] == [None, '"v1"', '"v1"']
    assert heard.tasks == [(path.name, 3_000_000, done, True) for done in (0, 1_000_000, 1_500_000)]
    assert heard.counted == [1_000_000, 500_000, 1_500_000]
    assert heard.said[1:] == [
        f"{path.name}: the connection ended after 1.0 MB of 3.0 MB; going on from 1.0 MB in 0 s",
        f"{path.name}: the connection ended after 1.5 MB of 3.0 MB; going on from 1.5 MB in 0 s",
    ]


def test_a_stalled_server_is_left_and_taken_up_again(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 0.8)
    web.script = [Answer(stall_after=1_000_000)]
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert web.ranges == [None, "bytes=1000000-"]
    assert "nothing came from 127.0.0.1 for 0.8 s; going on from 1.0 MB" in heard.said[1]


def test_a_server_that_always_stalls_is_given_up(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 0.2)
    web.usual = Answer(stall_after=0)
    text = refusal(web.url)
    assert "nothing came from 127.0.0.1 for 0.2 s (tried 5 times)" in text
    assert "are kept in" not in text  # for nothing came


def test_what_arrived_is_kept_when_giving_up_and_the_next_run_goes_on(
    web: Web, cache: Path
) -> None:
    web.script = [Answer(drop_after=700_000)] + [Answer(drop_after=0)] * 4
    text = refusal(web.url)
    part = cache / f"resnet50-{SHA[:8]}.pth.part"
    assert "the connection ended after 700.0 kB of 3.0 MB (tried 5 times)" in text
    assert f"run it again: 700.0 kB are kept in {part}, and it goes on from there" in text
    assert part.read_bytes() == FILE[:700_000]
    web.seen.clear()
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert web.ranges == ["bytes=700000-"]
    assert web.seen[0][1]["If-Range"] == '"v1"'


def test_a_bad_line_is_borne_as_long_as_it_brings_something(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "GAIN_BYTES", 200_000)
    web.usual = Answer(drop_after=250_000)
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert len(web.seen) == 12 > transfer.ATTEMPTS


def test_a_server_without_ranges_that_always_drops_is_no_endless_loop(web: Web) -> None:
    web.usual = Answer(ignores_range=True, drop_after=2_000_000)
    # The first attempt is a gain; beginning again and again is none.
    assert "(tried 5 times)" in refusal(web.url)
    assert len(web.seen) <= 6


def test_a_server_that_ignores_ranges_begins_again(web: Web) -> None:
    web.script = [Answer(drop_after=1_000_000)]
    web.usual = Answer(ignores_range=True)
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert web.ranges == [None, "bytes=1000000-"]
    assert heard.tasks[1][2] == 0


def test_a_file_changed_between_two_attempts_begins_again(web: Web) -> None:
    web.script = [Answer(body=OTHER, etag='"old"', drop_after=1_000_000)]
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert web.seen[1][1]["If-Range"] == '"old"'
    assert len(web.seen) == 2


def test_a_file_changed_unnoticed_is_found_by_its_hash_and_fetched_whole(web: Web) -> None:
    web.script = [Answer(body=OTHER, etag="", drop_after=1_000_000), Answer(etag="")]
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert web.ranges == [None, "bytes=1000000-", None]
    assert any("the pieces do not make the file" in line for line in heard.said)


@pytest.mark.parametrize(
    ("etag", "headers", "version"),
    [
        ('W/"weak"', {}, None),
        ("", {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, "Wed, 21 Oct 2015 07:28:00 GMT"),
    ],
)
def test_only_what_names_a_version_exactly_stands_in_if_range(
    web: Web, etag: str, headers: dict[str, str], version: str | None
) -> None:
    web.script = [Answer(etag=etag, headers=headers, drop_after=9)]
    download(web.url, sha256=SHA, progress=Silent())
    assert web.ranges == [None, "bytes=9-"]
    assert web.seen[1][1].get("If-Range") == version


@pytest.mark.parametrize(
    ("part", "ranges"),
    [
        (FILE, ["bytes=3000000-"]),  # killed between the last byte and the hash
        (FILE + b"more", ["bytes=3000004-", None]),
        (OTHER + OTHER[:1_000_000], ["bytes=3000000-", None]),
    ],
    ids=["whole", "too long", "as long, and another"],
)
def test_a_part_that_has_no_rest(
    web: Web, cache: Path, part: bytes, ranges: list[str | None]
) -> None:
    cache.mkdir(parents=True)
    (cache / f"resnet50-{SHA[:8]}.pth.part").write_bytes(part)
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert web.ranges == ranges


def test_another_part_than_asked_is_not_appended(web: Web) -> None:
    lie = {"Content-Range": "bytes 5-2999999/3000000"}
    web.script = [Answer(drop_after=1_000_000), Answer(status=206, headers=lie)]
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert web.ranges == [None, "bytes=1000000-", None]
    assert "the server sent another part than asked; trying again" in heard.said[2]


def test_a_server_that_tells_no_size(web: Web) -> None:
    web.usual = Answer(says_length=False)
    heard = Heard()
    path = download(web.url, sha256=SHA, progress=heard)
    assert path.read_bytes() == FILE
    assert heard.tasks == [(path.name, None, 0, True)]


def test_the_wrong_file_is_deleted_and_both_hashes_are_said(web: Web, cache: Path) -> None:
    wrong = FILE[:-1] + bytes([FILE[-1] ^ 1])
    web.usual = Answer(body=wrong)
    text = refusal(web.url)
    assert f"what came (3.0 MB) has sha256 {hashlib.sha256(wrong).hexdigest()}" in text
    assert f"and was deleted; the one asked for is {SHA}" in text
    assert f"valid:  a file whose sha256 is {SHA}" in text
    assert [entry.suffix for entry in cache.iterdir()] == [".lock"]
    assert len(web.seen) == 1  # it came in one piece: it would be the same once more


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 501])
def test_a_clear_no_is_not_asked_again(web: Web, code: int) -> None:
    web.usual = Answer(status=code, body=b"<html>no</html>")
    assert f"the server answers {code} " in refusal(web.url).splitlines()[0]
    assert len(web.seen) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_trouble_is_waited_for(web: Web, code: int) -> None:
    web.script = [Answer(status=code, body=b"")] * 4
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert f"the server answers {code} " in heard.said[1]
    assert heard.said[1].endswith("; trying again in 0 s")


def test_a_trouble_that_does_not_pass_is_told(web: Web) -> None:
    web.usual = Answer(status=500, body=b"")
    assert "the server answers 500 Internal Server Error (tried 5 times)" in refusal(web.url)
    assert len(web.seen) == 5


def test_pauses_grow_and_are_as_long_as_the_server_asks(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(transfer, "BACK_OFF_SECONDS", 1.0)
    asked = ["7", "86400", "Wed, 21 Oct 2015 07:28:00 GMT", ""]
    web.script = [Answer(status=503, headers={"Retry-After": wait}, body=b"") for wait in asked]
    download(web.url, sha256=SHA, progress=Silent())
    assert slept == [7.0, 60.0, 4.0, 8.0]


def test_no_server_there(web: Web) -> None:
    web.close()
    text = refusal(web.url)
    assert "no way to 127.0.0.1: Connection refused (tried 2 times)" in text


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = refusal("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", sha256="11ad3fa6")
    assert "no way to download.pytorch.org: its name is not known (is there a network?)" in text
    assert hand_place(text).name == "resnet50-11ad3fa6.pth"
    assert "valid:  a file whose sha256 begins with 11ad3fa6" in text


def test_a_redirection_is_followed_with_the_range(web: Web) -> None:
    moved = Answer(status=302, body=b"", headers={"Location": "/elsewhere"})
    web.script = [moved, Answer(drop_after=1_000), moved]
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert [path for path, _ in web.seen] == ["/weights/resnet50.pth", "/elsewhere"] * 2
    assert web.ranges == [None, None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirection_out_of_the_web_is_refused(web: Web, scheme: str) -> None:
    out = f"{scheme}:///etc/passwd"
    web.usual = Answer(status=302, body=b"", headers={"Location": out})
    text = refusal(web.url)
    assert f"the server answers 302 Found - Redirection to url '{out}' is not allowed" in text
    assert len(web.seen) == 1


def test_a_redirection_to_itself_ends(web: Web) -> None:
    web.usual = Answer(status=302, body=b"", headers={"Location": "/weights/resnet50.pth"})
    assert "the server answers 302 " in refusal(web.url)


def test_no_redirection_takes_the_lock_off_the_line() -> None:
    follow = transfer._WebOnly().redirect_request
    words = (None, 302, "Found", Message())
    secure = Request("https://a.example/x")
    assert follow(secure, *words, "https://b.example/x") is not None
    assert follow(Request("http://a.example/x"), *words, "http://b.example/x") is not None
    with pytest.raises(HTTPError, match="is not allowed"):
        follow(secure, *words, "http://b.example/x")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://h/x.pth",
        "data:,x",
        "/home/x.pth",
        "x.pth",
        "",
        "http://",
        "http://h:99999/x",
        "http://h:abc/x",
        "http://[::1/x",
        "https://[::1/z#sha256=00000000",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    for ask in (
        lambda: download(url, sha256=SHA, progress=Silent()),
        lambda: find_downloaded(url, sha256=SHA),
        lambda: split_url(url),
    ):
        with pytest.raises(DownloadError, match="this is no address on the web") as caught:
            ask()
        assert f"given:  {url.partition('#')[0]}" in str(caught.value)


def test_any_script_in_an_address_and_a_name(web: Web) -> None:
    path = download(f"{web.address}/权重 v1/蚂蚁.pth?a=b c", sha256=SHA, progress=Silent())
    assert path.name == f"蚂蚁-{SHA[:8]}.pth"
    assert web.seen[0][0] == f"/{quote('权重 v1/蚂蚁.pth')}?a=b%20c"


def test_an_address_that_cannot_be_asked_is_no_traceback() -> None:
    said = refusal("http://user:secret@127.0.0.1/x.pth?key=secret")
    assert "127.0.0.1 cannot be asked with a user or password in its address" in said
    assert "http://127.0.0.1/x.pth, with the whole of your address" in said
    assert "secret" not in said


# Proxies


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_the_proxy_of_the_environment_is_used(
    web: Web, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """`web` stands for the proxy: a proxied request names the whole address."""
    monkeypatch.setenv(variable, web.address)
    url = "http://only-the-proxy-knows.invalid/resnet50.pth"  # no resolver ever will
    web.script = [Answer(drop_after=1_000)]
    assert download(url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert [path for path, _ in web.seen] == [url, url]
    assert web.ranges == [None, "bytes=1000-"]


def test_https_goes_through_the_proxy_and_its_no_is_told(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = web.server.server_port
    monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{port}/")
    web.usual = Answer(status=403, body=b"", etag="")
    text = refusal("https://only-the-proxy-knows.invalid/resnet50.pth")
    assert f"through the proxy 127.0.0.1:{port} broke: Tunnel connection failed: 403" in text
    assert "secret" not in text
    assert web.seen[0][0] == "only-the-proxy-knows.invalid:443"


def test_no_proxy_names_what_is_asked_directly(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    assert "through the proxy 127.0.0.1:9" in refusal(web.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    web.close()
    assert "through the proxy" not in refusal(web.url, name="another.pth")


# By hand


def test_a_file_put_there_by_hand_is_verified_once_and_needs_no_network(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.usual = Answer(status=404, body=b"")
    place = hand_place(refusal(web.url))
    web.close()
    place.write_bytes(FILE)
    assert find_downloaded(web.url, sha256=SHA) is None  # nobody has looked at it yet
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard) == place
    assert heard.said == [f"checking {place}"]
    assert find_downloaded(web.url, sha256=SHA) == place
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard) == place
    assert heard.said == []


def test_the_command_in_the_message_does_what_it_says(web: Web, cache: Path) -> None:
    web.script = [Answer(status=404, body=b"")]
    text = refusal(f"{web.address}/it's a $HOME; `x`.pth")
    line = next(line for line in text.splitlines() if "curl" in line)
    command = line.split("as in: ")[1].removesuffix(")")
    # What a shell would make of it; curl itself may be missing here.
    argv = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {command}"], text=True)
    assert argv.splitlines()[4] == str(hand_place(text))
    assert argv.splitlines()[5] == f"{web.address}/it's a $HOME; `x`.pth"


def test_a_wrong_file_put_there_by_hand_stays_until_the_right_one_has_come(
    web: Web, cache: Path
) -> None:
    place = cache / f"resnet50-{SHA[:8]}.pth"
    cache.mkdir(parents=True)
    place.write_bytes(FILE[:1_000])  # half a copy
    half = hashlib.sha256(FILE[:1_000]).hexdigest()
    web.script = [Answer(status=404, body=b"")]
    assert f"404 Not Found; the file put there by hand has sha256 {half}" in refusal(web.url)
    assert place.read_bytes() == FILE[:1_000]
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert heard.said[1] == f"it has sha256 {half}, not the one asked for: fetching it anew"


def test_a_file_damaged_later_is_noticed(web: Web) -> None:
    path = download(web.url, sha256=SHA, progress=Silent())
    path.write_bytes(OTHER)
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert len(web.seen) == 2


def test_a_linked_file_is_as_good(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(FILE)
    cache.mkdir(parents=True)
    link = cache / f"resnet50-{SHA[:8]}.pth"
    link.symlink_to(tmp_path / "mine.pth")
    url = "http://no.invalid/resnet50.pth"
    assert download(url, sha256=SHA, progress=Silent()) == link
    assert link.is_symlink()


# The disk


def test_a_cache_that_can_only_be_read_still_serves(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache / f"resnet50-{SHA[:8]}.pth"
    cache.mkdir(parents=True)
    path.write_bytes(FILE)

    # Tests may run as root, whom permission bits do not stop.
    def read_only(*_: object, **__: object) -> None:
        raise OutputError("cannot write: Read-only file system")

    monkeypatch.setattr(module, "write_text", read_only)
    for _ in range(2):
        heard = Heard()
        assert download(web.url, sha256=SHA, progress=heard) == path
        assert heard.said == [f"checking {path}"]
    assert web.seen == []


def test_a_cache_that_cannot_be_written_says_what_to_do(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(module.filelock.FileLock, "acquire", read_only)
    text = refusal(web.url)
    assert f"cannot write into {cache}: Read-only file system" in text
    assert "name another cache directory in FIELDMARK_CACHE" in text
    assert web.seen == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_the_permission_to_write(web: Web, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o555)
    assert f"cannot write into {cache}: Permission denied" in refusal(web.url)


def test_a_file_where_the_cache_should_be(web: Web, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert f"cannot write into {tmp_path / 'cache' / 'downloads'}: " in refusal(web.url)
    assert web.seen == []


def test_a_directory_where_the_file_should_be(web: Web, cache: Path) -> None:
    (cache / f"resnet50-{SHA[:8]}.pth").mkdir(parents=True)
    assert "cannot read what is there" in refusal(web.url)
    assert web.seen == []


def test_a_disk_known_to_be_too_full_is_not_filled(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=1_900_000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    text = refusal(web.url)
    assert "the disk is too full: 3.0 MB to come, 1.9 MB free" in text
    assert "make room, or name another cache directory in FIELDMARK_CACHE" in text
    part = cache / f"resnet50-{SHA[:8]}.pth.part"
    assert part.stat().st_size == 0
    part.write_bytes(FILE[:1_100_000])  # the rest fits
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_meanwhile(web: Web, cache: Path) -> None:
    cache.mkdir(parents=True)
    part = cache / f"resnet50-{SHA[:8]}.pth.part"
    part.symlink_to("/dev/full")  # the system's own full disk
    text = refusal(web.url)
    assert f"cannot write {part}: No space left on device" in text
    assert "make room, or name another cache directory in FIELDMARK_CACHE" in text
    assert len(web.seen) == 1


# Interrupted, and shared

FETCH = """
import sys
from fieldmark import progress, transfer
from fieldmark.download import download
transfer.TIMEOUT_SECONDS = 30.0
class Flushed(progress.Silent):
    def say(self, text):
        print(text, flush=True)
print(download(sys.argv[1], sha256=sys.argv[2], progress=Flushed()), flush=True)
"""


def fetch(url: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", FETCH, url, SHA]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_ctrl_c_leaves_what_can_be_gone_on_from(web: Web, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        download(web.url, sha256=SHA, progress=Heard(stop_at=1_000_000))
    part = cache / f"resnet50-{SHA[:8]}.pth.part"
    have = part.stat().st_size
    assert 1_000_000 <= have < len(FILE)
    assert part.read_bytes() == FILE[:have]
    assert download(web.url, sha256=SHA, progress=Silent()).read_bytes() == FILE
    assert web.ranges == [None, f"bytes={have}-"]


def test_a_killed_process_leaves_no_lock_and_a_part_to_go_on_from(web: Web, cache: Path) -> None:
    web.script = [Answer(stall_after=1_234_567)]
    part = cache / f"resnet50-{SHA[:8]}.pth.part"
    with fetch(web.url) as process:
        wait_for(lambda: part.exists() and part.stat().st_size == 1_234_567)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    heard = Heard()
    assert download(web.url, sha256=SHA, progress=heard).read_bytes() == FILE
    assert not any("another process" in line for line in heard.said)
    assert web.ranges == [None, "bytes=1234567-"]


def test_two_processes_fetch_once(web: Web, cache: Path) -> None:
    web.script = [Answer(stall_after=1_000)]
    path = cache / f"resnet50-{SHA[:8]}.pth"
    with fetch(web.url) as first:
        wait_for(lambda: len(web.seen) == 1)
        with fetch(web.url) as second:
            assert second.stdout is not None
            told = second.stdout.readline()
            assert told == f"{path.name}: another process is fetching it; waiting for it\n"
            web.go_on.set()
            ends = [process.communicate(timeout=PATIENCE_SECONDS) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], ends
    assert [out.splitlines()[-1] for out, _ in ends] == [str(path)] * 2
    assert len(web.seen) == 1
    assert path.read_bytes() == FILE


# Names


def test_hashes_are_taken_from_addresses() -> None:
    assert split_url(f"https://h/x.safetensors#sha256={SHA.upper()}") == (
        "https://h/x.safetensors",
        SHA,
    )
    url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert split_url(url) == (url, "11ad3fa6")
    assert split_url(f" {url}#sha256={SHA}\n") == (url, SHA)  # what is written counts
    for plain in ("https://h/resnet50.pth", "https://h/a-20240131.pth", "https://h/a-11AD3FA.pth"):
        assert split_url(plain) == (plain, None)
    assert split_url("https://h/a-20241331.pth")[1] == "20241331"  # no such month: a hash


@pytest.mark.parametrize("behind", ["sha256=", "sha256=12345", "sha256=xyz" + SHA[3:]])
def test_a_bad_hash_is_refused(behind: str) -> None:
    with pytest.raises(DownloadError, match="this is no sha256") as caught:
        split_url(f"https://h/x.pth#{behind}")
    assert "64 hex digits" in str(caught.value)
    with pytest.raises(DownloadError, match="this is no sha256"):
        download("https://h/x.pth", sha256=behind.removeprefix("sha256="), progress=Silent())


@pytest.mark.parametrize("behind", ["md5=d41d8cd98f00b204e9800998ecf8427e", "top", SHA])
def test_what_else_stands_behind_an_address_is_no_hash_silently_dropped(behind: str) -> None:
    with pytest.raises(DownloadError, match="may end in its hash"):
        split_url(f"https://h/x.pth#{behind}")


@given(st.text(max_size=400))
@example("蚁" * 400 + ".pth")
@example("a." + "b" * 400)
def test_any_name_becomes_one_that_every_file_system_takes(name: str) -> None:
    """No way out of the cache, nothing hidden, and room for `.NAME.verified` and the like."""
    for made in (module._file_name(name, SHA), module._file_name(quote(name, safe=""), SHA)):
        assert Path(made).name == made
        assert not made.startswith(".")
        assert SHA[:8] in made
        assert len(made.encode()) <= 200
        assert not set(made) & set('<>:"/\\|?*\0\n')


def test_files_of_one_name_do_not_stand_in_each_others_way(web: Web) -> None:
    other = hashlib.sha256(OTHER).hexdigest()
    first = download(web.url, sha256=SHA, name="model.safetensors", progress=Silent())
    web.usual = Answer(body=OTHER)
    second = download(web.url, sha256=other, name="model.safetensors", progress=Silent())
    assert (first.read_bytes(), second.read_bytes()) == (FILE, OTHER)
    assert first.suffix == second.suffix == ".safetensors"
    assert first.parent == second.parent


def test_the_cache_is_where_the_environment_or_the_platform_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_directory("a", "b") == tmp_path / "cache" / "a" / "b"
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("FIELDMARK_CACHE", "~/here")
    assert cache_directory() == Path.home() / "here"
    monkeypatch.setenv("FIELDMARK_CACHE", "here")
    assert cache_directory() == Path.cwd() / "here"
    monkeypatch.setenv("FIELDMARK_CACHE", " ")
    expected = Path(platformdirs.user_cache_dir("fieldmark", appauthor=False))
    assert cache_directory() == expected
    assert expected.name == "fieldmark" or sys.platform == "win32"


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected
