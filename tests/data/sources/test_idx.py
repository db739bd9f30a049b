"""IDX files: what is read, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from fieldmark.data.sources import idx
from fieldmark.data.sources.idx import find_idx_pairs, load_idx, read_idx_folder
from fieldmark.errors import SourceError


def idx_bytes(array: np.ndarray, type_code: int = 0x08) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, type_code, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_pair(
    folder: Path, prefix: str, labels: list[int], suffix: str = "", side: int = 4
) -> None:
    folder.mkdir(exist_ok=True)
    images = np.arange(len(labels) * side * side).reshape(-1, side, side) % 256
    pack = gzip.compress if suffix == ".gz" else bytes
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx_bytes(images)))
    labels_path = folder / f"{prefix}-labels-idx1-ubyte{suffix}"
    labels_path.write_bytes(pack(idx_bytes(np.array(labels))))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_values_survive_the_trip(tmp_path: Path, suffix: str) -> None:
    write_pair(tmp_path, "train", [0, 1, 2], suffix)
    array = load_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", 3)
    np.testing.assert_array_equal(array, np.arange(48).reshape(3, 4, 4))
    assert array.dtype == np.uint8
    assert not array.flags.writeable


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((2, 3, 3)))))
    assert load_idx(path, 3).shape == (2, 3, 3)


GOOD = idx_bytes(np.zeros((2, 3, 3)))
# No time stamp inside, so that a case keeps its name from run to run.
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "not an IDX file"),
        ("a", b"<html>404</html>", "not an IDX file"),
        ("a", GOOD[:9], "ends inside its header"),
        ("a", GOOD[:-1], "17 of 18 values are there"),
        ("a", GOOD + b"x", "more than its header says"),
        ("a", idx_bytes(np.zeros((2, 3, 3)), 0x0D), "32-bit floats"),
        ("a", idx_bytes(np.zeros(5)), "wrong number of dimensions"),
        ("a.gz", b"<html>404</html>", "named .gz is not gzip"),
        ("a.gz", PACKED[:-10], "truncated or damaged"),
        ("a.gz", PACKED[:-8] + b"\0" * 8, "truncated or damaged"),
        ("a.gz", gzip.compress(GOOD[:-4], mtime=0), "14 of 18 values are there"),
    ],
)
def test_damage_is_named_with_the_file(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        load_idx(path, 3)
    assert str(path) in str(caught.value)
    assert "do:" in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(SourceError, match="No such file"):
        load_idx("nowhere/train-images-idx3-ubyte", 3)


def test_a_file_is_unpacked_once_for_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path, "train", [0, 1], ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    real_read, reads = idx._read, []
    monkeypatch.setattr(idx, "_read", lambda p: (reads.append(p), real_read(p))[1])
    threads = [threading.Thread(target=load_idx, args=(path, 3)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == [path]
    path.write_bytes(gzip.compress(idx_bytes(np.full((5, 2, 2), 7))))
    assert load_idx(path, 3).shape == (5, 2, 2), "a changed file is read again"


def test_pairs_and_parts(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", [0, 1], ".gz")
    write_pair(tmp_path, "train", [0, 1, 10, 2])
    found = read_idx_folder(tmp_path, find_idx_pairs(tmp_path))
    assert [sample.part for sample in found.samples] == ["train"] * 4 + ["test"] * 2
    assert found.class_names == ("0", "1", "2", "10"), "numeric, not alphabetical"
    assert found.samples[2].label == "10"
    assert found.samples[2].path == f"{tmp_path}/train-images-idx3-ubyte#2"
    assert found.short_side_px == 4


def test_other_spellings_of_the_names(tmp_path: Path) -> None:
    write_pair(tmp_path, "emnist-letters-train", [1, 2])
    write_pair(tmp_path, "emnist-letters-test", [1, 2])
    for old in list(tmp_path.iterdir()):
        old.rename(old.with_name(old.name.replace("-idx", ".idx")))
    assert [pair.part for pair in find_idx_pairs(tmp_path)] == ["train", "test"]


def test_packed_and_unpacked_count_as_one(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1])
    write_pair(tmp_path, "train", [0, 1], ".gz")
    (pair,) = find_idx_pairs(tmp_path)
    assert pair.images.suffix == pair.labels.suffix == ""


def test_a_lone_pair_has_no_part(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1])
    found = read_idx_folder(tmp_path, find_idx_pairs(tmp_path))
    assert {sample.part for sample in found.samples} == {""}


def test_images_without_labels_and_the_reverse(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1], ".gz")
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    kept = labels.read_bytes()
    labels.unlink()
    with pytest.raises(SourceError, match=r"no labels beside it(.|\n)*train-labels-idx1-ubyte"):
        find_idx_pairs(tmp_path)
    labels.write_bytes(kept)
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(SourceError, match="no pictures beside it"):
        find_idx_pairs(tmp_path)


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    write_pair(tmp_path, "letters-train", [0, 1])
    write_pair(tmp_path, "digits-train", [0, 1])
    with pytest.raises(SourceError, match="claim the same part"):
        find_idx_pairs(tmp_path)


def test_counts_that_differ(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1, 2])
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.array([0, 1])))
    with pytest.raises(SourceError, match=r"3 pictures in .*2 labels in"):
        read_idx_folder(tmp_path, find_idx_pairs(tmp_path))


def test_class_names_from_a_file(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 2, 2])
    (tmp_path / "classes.txt").write_text("T恤\nTrouser\nPullover\n", encoding="utf-8-sig")
    found = read_idx_folder(tmp_path, find_idx_pairs(tmp_path))
    assert found.class_names == ("T恤", "Pullover")
    assert found.samples[0].label == "T恤"
    assert found.notes == ("No picture has the label Trouser: left out.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nb\n", "no name for a label"), ("a\n\nb\n", "each class once"), ("a\nb\na\n", "once")],
)
def test_class_names_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    write_pair(tmp_path, "train", [0, 1, 2])
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_idx_folder(tmp_path, find_idx_pairs(tmp_path))


def test_the_real_fashion_mnist(shared_data: Path) -> None:
    folder = shared_data / "fashion-mnist"
    images = load_idx(folder / "train-images-idx3-ubyte.gz", 3)
    labels = load_idx(folder / "train-labels-idx1-ubyte.gz", 1)
    assert images.shape == (60_000, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10
    # The mean that its authors and everybody after them state.
    assert images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert images.std() / 255 == pytest.approx(0.3530, abs=5e-5)
