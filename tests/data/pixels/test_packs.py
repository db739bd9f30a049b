"""Packs: what comes back, what a crash leaves, and that others can open them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from fieldmark.data.pixels import packs
from fieldmark.data.pixels.form import Decoded
from fieldmark.data.pixels.packs import PackReader, PackWriter, Place, read_index
from fieldmark.errors import OutputError

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 3)))
pictures = shapes.flatmap(lambda shape: arrays(np.uint8, shape))


def decoded(pixels: np.ndarray, aspect: float = 1.0) -> Decoded:
    return Decoded(pixels, aspect)


def picture(number: int, side: int = 4) -> Decoded:
    return decoded(np.full((side, side, 3), number, np.uint8))


def content(number: int) -> str:
    return f"{number:064x}"


def written(folder: Path, many: list[Decoded]) -> dict[str, Place]:
    writer = PackWriter(folder, len(many))
    for number, one in enumerate(many):
        writer.add(content(number), one)
    writer.seal()
    return {key: place for pack in folder.glob("*.safetensors") for key, place in read_index(pack)}


@given(st.lists(st.tuples(pictures, st.floats(0.01, 100)), min_size=1, max_size=12))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, many: list[tuple[np.ndarray, float]]
) -> None:
    places = written(tmp_path_factory.mktemp("p"), [decoded(*one) for one in many])
    reader = PackReader()
    assert len(places) == len(many)
    for number, (pixels, aspect) in enumerate(many):
        place = places[content(number)]
        assert place.aspect == aspect
        np.testing.assert_array_equal(reader.read(place), pixels)


def test_the_library_of_the_format_opens_a_pack(tmp_path: Path) -> None:
    written(tmp_path, [picture(number) for number in range(5)])
    [pack] = tmp_path.iterdir()
    tensors = load_file(pack)
    assert set(tensors) == {f"{content(number)}@1.0" for number in range(5)}
    np.testing.assert_array_equal(tensors[f"{content(3)}@1.0"], picture(3).pixels)


def test_a_full_pack_is_sealed_and_the_next_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_PICTURES", 3)
    assert len(written(tmp_path / "by count", [picture(n) for n in range(8)])) == 8
    assert len(list((tmp_path / "by count").iterdir())) == 3
    monkeypatch.setattr(packs, "PACK_PICTURES", 100)
    monkeypatch.setattr(packs, "PACK_BYTES", 2 * picture(0).pixels.nbytes)
    assert len(written(tmp_path / "by size", [picture(n) for n in range(8)])) == 8
    assert len(list((tmp_path / "by size").iterdir())) == 4


def test_until_it_is_sealed_nothing_looks_like_a_pack(tmp_path: Path) -> None:
    """A crash is an end without `seal`."""
    writer = PackWriter(tmp_path, 3)
    writer.add(content(0), picture(0))
    [unsealed] = tmp_path.iterdir()
    assert unsealed.suffix == packs.UNSEALED
    assert list(read_index(unsealed)) == []
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    writer.seal()  # there is nothing: no empty pack
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_pack_cut_short_is_none(tmp_path: Path, share: float) -> None:
    written(tmp_path, [picture(number, side=40) for number in range(5)])
    [pack] = tmp_path.iterdir()
    data = pack.read_bytes()
    pack.write_bytes(data[: int(share * len(data))])
    assert list(read_index(pack)) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x09\0\0\0\0\0\0\0{" + b'"a":3}  ',
        b"\xff" * 40,
    ],
)
def test_what_is_no_pack_is_empty(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert list(read_index(path)) == []


def test_a_reader_says_what_is_gone(tmp_path: Path) -> None:
    places = written(tmp_path, [picture(number) for number in range(3)])
    [pack] = tmp_path.iterdir()
    reader, late = PackReader(), PackReader()
    np.testing.assert_array_equal(reader.read(places[content(2)]), picture(2).pixels)
    pack.write_bytes(pack.read_bytes()[:-1])
    assert reader.read(places[content(2)]) is None  # cut short under an open file: no crash
    assert reader.read(places[content(0)]) is not None
    pack.unlink()
    assert reader.read(places[content(0)]) is not None  # removed, but still open here
    assert late.read(places[content(0)]) is None


def test_many_packs_take_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_PICTURES", 1)
    monkeypatch.setattr(packs, "_OPEN_FILES", 4)
    places = written(tmp_path, [picture(number) for number in range(30)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = PackReader()
    for _ in range(2):
        for number in range(30):
            np.testing.assert_array_equal(reader.read(places[content(number)]), picture(number)[0])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        PackWriter(tmp_path / "file", 1).add(content(0), picture(0))


def test_a_pack_that_cannot_be_finished_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full: what cannot be used must not fill it."""
    writer = PackWriter(tmp_path, 3)
    writer.add(content(0), picture(0))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        writer.seal()
    writer.discard()
    assert list(tmp_path.iterdir()) == []
