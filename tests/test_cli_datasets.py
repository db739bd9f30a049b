"""`fieldmark datasets`, and the verbs on data sets known by name and in archives."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fieldmark.data.sources import named
from fieldmark.data.sources.known import KNOWN_SETS
from support.web import Web, serving

Verb = Callable[..., Any]  # see conftest.py
TINY = ("--model", "resnet10", "--size", 32, "--epochs", 1, "--device", "cpu", "--batch-size", 8)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(named, "_loaded", {})
    with serving(tmp_path / "cache") as server:
        yield server


@pytest.fixture
def flowers(web: Web, make_pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The set called flowers, with two kinds of small pictures in it."""
    make_pictures(tmp_path / "made" / "flower_photos", {"daisy": 12, "roses": 12})
    shutil.make_archive(str(tmp_path / "flower_photos"), "gztar", tmp_path / "made")
    content = (tmp_path / "flower_photos.tar.gz").read_bytes()
    known = KNOWN_SETS["flowers"]
    web.files["flower_photos.tgz"] = content
    file = replace(
        known.files[0],
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        urls=(f"{web.address}/flower_photos.tgz",),
    )
    monkeypatch.setitem(KNOWN_SETS, "flowers", replace(known, files=(file,)))
    return "flowers"


def test_the_list(verb: Verb, web: Web) -> None:
    done = verb("datasets")
    assert (done.code, done.err, web.asked) == (0, "", [])
    head, *rows = done.out.splitlines()
    assert head.split() == [
        *("name", "pictures", "classes", "download", "licence", "here", "what", "it", "is"),
    ]
    assert [row.split()[0] for row in rows] == list(KNOWN_SETS)
    by_name = {row.split()[0]: row for row in rows}
    assert "yes" in by_name["digits"]
    for word in ("3,670", " 5 ", "228.8 MB", "CC BY 2.0", " no ", "photos of flowers"):
        assert word in by_name["flowers"]


def test_the_list_in_a_narrow_terminal(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    lines = verb("datasets").out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in KNOWN_SETS:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1, "no name is cut"
    assert len(lines) <= 1 + 2 * len(KNOWN_SETS) + 2, "hardly a line is broken"


def test_get_and_then_no_network(verb: Verb, web: Web, flowers: str) -> None:
    done = verb("datasets", "--get", flowers)
    assert done.code == 0
    for words in ("to download into", "licence: CC BY 2.0", "24 pictures of 2 classes"):
        assert words in done.out
    assert "Next:" in done.out
    web.close()
    again = verb("datasets", "--get", flowers)
    assert again.code == 0
    assert "to download" not in again.out
    (row,) = (line for line in verb("datasets").out.splitlines() if line.startswith(flowers))
    assert " yes " in row


def test_get_what_nobody_knows(verb: Verb, web: Web) -> None:
    done = verb("datasets", "--get", "digits", "--get", "flower")
    assert done.code == 2
    assert "did you mean 'flowers'" in done.err
    assert "pictures of" not in done.out, "nothing was begun"


@pytest.mark.usefixtures("no_drawing")
def test_train_on_a_known_set(verb: Verb, web: Web, flowers: str) -> None:
    done = verb("train", flowers, *TINY)
    assert done.code == 0, done.err
    assert "photos of flowers" in done.out
    assert "to download into" in done.out
    web.close()
    assert verb("evaluate", "runs/flowers-resnet10", flowers).code == 0
    assert verb("show", flowers).code == 0


def test_a_download_that_is_damaged(verb: Verb, web: Web, flowers: str) -> None:
    content = web.files["flower_photos.tgz"]
    web.files["flower_photos.tgz"] = content[:-1] + bytes([content[-1] ^ 1])
    done = verb("show", flowers)
    assert done.code == 2
    assert "cannot download flower_photos" in done.err
    assert "put it exactly here" in done.err
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("no_drawing")
def test_a_zip_at_a_depth_is_trained_on_shown_and_evaluated(
    verb: Verb, web: Web, make_pictures: Any, tmp_path: Path
) -> None:
    for year in ("2023", "2024"):
        make_pictures(tmp_path / "made" / year, {"cat": 9, "dog": 9})
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "made")
    assert "--depth 2" in verb("train", "photos.zip", *TINY).err
    done = verb("train", "photos.zip", "--depth", 2, "--cache", "none", *TINY)
    assert done.code == 0, done.err
    assert "4 folders became 2 classes" in done.out
    assert verb("show", "photos.zip", "--depth", 2).code == 0
    evaluated = verb("evaluate", "runs/photos-resnet10", "photos.zip", "--depth", 2)
    assert evaluated.code == 0, evaluated.err
    assert "36" in evaluated.out
    wrong = verb("predict", "runs/photos-resnet10", "photos.zip")
    assert "an archive, not a picture: unpack it" in wrong.out
