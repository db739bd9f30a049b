"""Data sets known by name: the table, their files from a server on this machine, their pictures."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import socket
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fieldmark.data.pictures import open_picture, probe_picture, read_bundled
from fieldmark.data.sources import named
from fieldmark.data.sources.fetch import is_here, prepared_folder
from fieldmark.data.sources.known import KNOWN_SETS, KnownFile
from fieldmark.data.sources.named import NAMED_SOURCES, load_named
from fieldmark.data.sources.scan import scan
from fieldmark.errors import DownloadError, PictureError, SourceError
from fieldmark.progress import Silent
from support.web import Web, serving


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(named, "_loaded", {})
    with serving(tmp_path / "cache") as server:
        yield server


def offer(web: Web, monkeypatch: pytest.MonkeyPatch, name: str, files: Sequence[bytes]) -> None:
    """Have `name` consist of these files, on this server."""
    known = KNOWN_SETS[name]
    made = []
    for number, (file, content) in enumerate(zip(known.files, files, strict=True)):
        web.files[f"{number}-{file.name}"] = content
        url = f"{web.address}/{number}-{file.name}"
        sha256 = hashlib.sha256(content).hexdigest()
        made.append(KnownFile(file.name, len(content), sha256, (url,)))
    monkeypatch.setitem(KNOWN_SETS, name, replace(known, files=tuple(made)))


def idx(values: NDArray[np.uint8]) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return gzip.compress(head + values.tobytes())


def idx_set(num_train: int = 30, num_test: int = 20) -> tuple[list[bytes], NDArray[np.uint8]]:
    images = np.random.default_rng(0).integers(0, 256, (num_train + num_test, 28, 28), np.uint8)
    labels = (np.arange(num_train + num_test) % 10).astype(np.uint8)
    at = num_train
    return [idx(images[:at]), idx(labels[:at]), idx(images[at:]), idx(labels[at:])], images


def cifar(records: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        for name, content in records.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def cifar_set() -> tuple[dict[str, bytes], NDArray[np.uint8], list[int]]:
    """The six files, and what is in them in that order: planes (n, 3, 32, 32) and numbers."""
    rng = np.random.default_rng(1)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    planes = rng.integers(0, 256, (60, 3, 32, 32), np.uint8)
    numbers = [i % 10 for i in range(60)]
    records = {
        name: b"".join(
            bytes([numbers[i]]) + planes[i].tobytes() for i in range(10 * file, 10 * file + 10)
        )
        for file, name in enumerate(names)
    }
    return records, planes, numbers


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 90, 200 - shade)).save(stream, "JPEG")
    return stream.getvalue()


def flowers() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        for number, name in enumerate((*KNOWN_SETS["flowers"].class_names, "LICENSE.txt")):
            is_class = not name.endswith(".txt")
            for i in range(3 if is_class else 1):
                path = f"flower_photos/{name}" + (f"/{i}.jpg" if is_class else "")
                content = jpeg(30 * number + i) if is_class else b"CC BY 2.0"
                info = tarfile.TarInfo(path)
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def hymenoptera() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        for part in ("train", "val"):
            for number, name in enumerate(("ants", "bees")):
                for i in range(4):
                    path = f"hymenoptera_data/{part}/{name}/{i}.jpg"
                    opened.writestr(path, jpeg(60 * number + 7 * i + 20 * (part == "val")))
    return packed.getvalue()


# The table ----------------------------------------------------------------------------------------


def test_the_table_is_well_formed() -> None:
    assert list(KNOWN_SETS) == [
        *("digits", "mnist", "fashion-mnist", "cifar10", "flowers", "hymenoptera"),
    ]
    seen = set()
    for name, known in KNOWN_SETS.items():
        assert known.name == name
        assert known.about
        assert known.licence
        assert known.num_pictures >= 100
        assert len(set(known.class_names)) == len(known.class_names) > 1
        assert bool(known.files) == (known.kind != "inside")
        for file in known.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.sha256 not in seen, "each file is another one"
            seen.add(file.sha256)
            assert file.num_bytes > 1000
            assert file.urls
            for url in file.urls:
                assert url.startswith("https://")
                assert url.endswith(f"/{file.name}")


def test_what_needs_a_network_is_not_reached_without_a_word(web: Web) -> None:
    assert is_here(KNOWN_SETS["digits"])
    assert not is_here(KNOWN_SETS["mnist"])
    with pytest.raises(SourceError, match=r"(?s)mnist is not on this machine.*--get mnist"):
        load_named("mnist")
    with pytest.raises(PictureError, match="fieldmark datasets --get cifar10"):
        open_picture("cifar10#3", 3)
    assert web.asked == []


# Digits -------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_on_the_usual_scale() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    ours = load_named("digits")
    assert ours.images.shape == (1797, 8, 8)
    assert ours.images.dtype == np.uint8
    assert ours.class_names == tuple("0123456789")
    assert len(ours.labels) == KNOWN_SETS["digits"].num_pictures
    assert set(ours.parts) == {""}
    assert [int(label) for label in ours.labels] == digits.target.tolist()
    assert (ours.images.min(), ours.images.max()) == (0, 255)
    np.testing.assert_allclose(ours.images / 255, digits.images / 16, atol=0.5 / 255 + 1e-9)


def test_loaded_once_and_safe_from_changes() -> None:
    images = load_named("digits").images
    assert load_named("digits").images is images
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0] = 1


def test_unknown_name_is_met_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="did you mean 'digits'"):
        load_named("digit")
    with pytest.raises(SourceError, match="did you mean the data set 'cifar10'"):
        scan("cifar-10")


# From a server ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_sets(web: Web, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files, images = idx_set()
    offer(web, monkeypatch, name, files)
    heard = Heard()
    manifest = scan(name, progress=heard)
    known = KNOWN_SETS[name]
    assert manifest.class_names == known.class_names
    assert (manifest.all_grey, manifest.typical_side_px) == (True, 28)
    assert [len(manifest.of_part(part)) for part in ("train", "val", "test")] == [30, 0, 20]
    assert [s.path for s in manifest.samples] == [f"{name}#{i}" for i in range(50)]
    assert [s.label for s in manifest.samples] == [known.class_names[i % 10] for i in range(50)]
    pixels = read_bundled(f"{name}#31")
    assert pixels is not None
    assert (pixels == images[31]).all(), "the test part follows the train part"
    first = heard.lines[0]
    for word in (name, "70,000", known.licence, "to download into", "downloads"):
        assert word in first, first

    # There once, it needs no network, in another process neither.
    web.close()
    monkeypatch.setattr(named, "_loaded", {})
    again = Heard()
    assert scan(name, progress=again) == manifest
    assert again.lines == []
    assert is_here(known)


def test_cifar10(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    records, planes, numbers = cifar_set()
    offer(web, monkeypatch, "cifar10", [cifar(records)])
    manifest = scan("cifar10")
    known = KNOWN_SETS["cifar10"]
    assert (manifest.all_grey, manifest.typical_side_px) == (False, 32)
    assert [len(manifest.of_part(part)) for part in ("train", "test")] == [50, 10]
    assert [s.label for s in manifest.samples] == [known.class_names[n] for n in numbers]
    for i in (0, 17, 59):
        expected = planes[i].transpose(1, 2, 0)
        assert (np.asarray(open_picture(f"cifar10#{i}", 3)) == expected).all()
    assert (probe_picture("cifar10#0").is_grey, open_picture("cifar10#0", 1).mode) == (False, "L")
    with pytest.raises(PictureError, match="only 60 pictures"):
        open_picture("cifar10#60", 3)

    # Neither network nor archive are needed any more.
    web.close()
    for file in (prepared_folder(known).parent.parent / "downloads").iterdir():
        file.unlink()
    monkeypatch.setattr(named, "_loaded", {})
    assert is_here(known)
    assert scan("cifar10") == manifest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"test_batch.bin": None}, "no test_batch.bin in it"),
        ({"data_batch_3.bin": b"x" * 3072}, "data_batch_3.bin has 3,072 bytes"),
        ({"data_batch_2.bin": b"\x0a" + bytes(3072)}, "class number 10"),
    ],
)
def test_what_is_not_cifar10(
    web: Web, monkeypatch: pytest.MonkeyPatch, change: dict[str, bytes | None], why: str
) -> None:
    records = {**cifar_set()[0], **change}
    kept = {name: content for name, content in records.items() if content is not None}
    offer(web, monkeypatch, "cifar10", [cifar(kept)])
    with pytest.raises(SourceError, match=why):
        scan("cifar10")
    assert not prepared_folder(KNOWN_SETS["cifar10"]).exists(), "nothing half made is left"


def test_archives(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(web, monkeypatch, "flowers", [flowers()])
    found = scan("flowers")
    assert found.class_names == KNOWN_SETS["flowers"].class_names
    assert list(found.count_by_class().values()) == [3] * 5
    assert found.count_by_class("") == found.count_by_class(), "it has no parts of its own"
    offer(web, monkeypatch, "hymenoptera", [hymenoptera()])
    insects = scan("hymenoptera")
    assert insects.class_names == ("ants", "bees")
    assert [len(insects.of_part(part)) for part in ("train", "val", "test")] == [8, 8, 0]
    web.close()
    assert scan("flowers") == found
    assert scan("hymenoptera") == insects


def test_what_comes_damaged_is_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = idx_set()
    offer(web, monkeypatch, "mnist", files)
    name = next(iter(web.files))
    web.files[name] = web.files[name][:-9] + b"corrupted"
    with pytest.raises(DownloadError, match=r"(?s)sha256.*the one asked for.*put it exactly here"):
        scan("mnist")
    assert not is_here(KNOWN_SETS["mnist"])


def test_a_mirror_helps_out(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = idx_set()
    offer(web, monkeypatch, "mnist", files)
    known = KNOWN_SETS["mnist"]
    with_dead = tuple(
        replace(file, urls=(f"{web.address}/gone/{i}", *file.urls))
        for i, file in enumerate(known.files)
    )
    monkeypatch.setitem(KNOWN_SETS, "mnist", replace(known, files=with_dead))
    heard = Heard()
    assert len(scan("mnist", progress=heard).samples) == 50
    assert any(f"trying {web.address}" in line for line in heard.lines), heard.lines


def test_offline_says_which_file_and_where_to_put_it(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = hymenoptera()
    offer(web, monkeypatch, "hymenoptera", [content])
    with socket.socket() as nobody:  # bound, not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        known = KNOWN_SETS["hymenoptera"]
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/hymenoptera_data.zip"
        file = replace(known.files[0], urls=(url,))
        monkeypatch.setitem(KNOWN_SETS, "hymenoptera", replace(known, files=(file,)))
        with pytest.raises(DownloadError) as caught:
            scan("hymenoptera")
        told = str(caught.value)
        where = re.search(r"exactly here:\s+(\S+)", told)
        assert where is not None, told
        assert url in told
        Path(where[1]).write_bytes(content)
        assert len(scan("hymenoptera").samples) == 16


def test_a_folder_of_that_name_comes_first(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "mnist" / name).mkdir(parents=True)
        (tmp_path / "mnist" / name / "1.jpg").write_bytes(jpeg(9))
    assert scan("mnist").class_names == ("a", "b")
    assert web.asked == []


def test_arrays_have_no_depth(web: Web) -> None:
    for name in NAMED_SOURCES:
        with pytest.raises(SourceError, match="depth says how deep"):
            scan(name, depth=2)
    assert web.asked == []
