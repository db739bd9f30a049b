"""Features in packs: pictures' packs stay what they were, and small tensors are read in runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fieldmark.data.features import store as store_module
from fieldmark.data.features.store import Features, InMemory, OnDisk, View, read_places
from fieldmark.data.pixels import packs
from fieldmark.data.pixels.form import Decoded
from fieldmark.data.pixels.packs import PackReader, PackWriter, Place, read_index
from fieldmark.errors import OutputError


def key(number: int) -> str:
    return f"{number:064x}"


def write(folder: Path, tensors: dict[View, np.ndarray]) -> dict[View, Place]:
    writer = PackWriter(folder, len(tensors), what="features")
    for (content, view), tensor in tensors.items():
        writer.add_tensor(content, view, tensor)
    writer.seal()
    return {
        (content, int(place.tag)): place
        for pack in folder.glob("*.safetensors")
        for content, place in read_index(pack)
    }


def test_packs_of_pictures_are_what_they_were(tmp_path: Path) -> None:
    """To the byte: what earlier versions wrote is found, and they find what this one writes."""
    writer = PackWriter(tmp_path, 3)
    for number, (shape, aspect) in enumerate(
        (((4, 6, 3), 1.5), ((5, 5, 1), 1.0), ((3, 2, 3), 2 / 3))
    ):
        pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        writer.add(key(number), Decoded(pixels, aspect))
    writer.seal()
    [pack] = tmp_path.iterdir()
    digest = "4abe8a68ffa725e6adc7a084c0b93692efb6c3e1c8d9bd00d02e40159ec19cc9"
    assert hashlib.sha256(pack.read_bytes()).hexdigest() == digest


shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
kinds = st.sampled_from([np.float16, np.float32])


@given(
    many=st.dictionaries(
        st.tuples(st.integers(0, 5).map(key), st.integers(-1, 4)),
        st.tuples(shapes, kinds),
        min_size=1,
        max_size=20,
    ),
    run_bytes=st.integers(1, 200),
    per_pack=st.integers(1, 6),
    data=st.data(),
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    many: dict[View, Any],
    run_bytes: int,
    per_pack: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        view: np.asarray(rng.normal(size=shape), kind) for view, (shape, kind) in many.items()
    }
    folder = tmp_path_factory.mktemp("p")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "PACK_PICTURES", per_pack)
        patch.setattr(store_module, "_RUN_BYTES", run_bytes)
        places = write(folder, tensors)
        assert places.keys() == tensors.keys()
        wanted = data.draw(st.sets(st.sampled_from(sorted(tensors))))
        found = dict(read_places({view: places[view] for view in wanted}))
    assert found.keys() == wanted
    for view in wanted:
        assert found[view].dtype == tensors[view].dtype
        np.testing.assert_array_equal(found[view], tensors[view])


def test_features_one_behind_another_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {(key(i), 0): np.full(8, i, np.float32) for i in range(50)}
    places = write(tmp_path, tensors)
    reads: list[Place] = []
    real = PackReader.read
    monkeypatch.setattr(
        PackReader, "read", lambda self, place: reads.append(place) or real(self, place)
    )
    assert len(dict(read_places(places))) == 50
    assert len(reads) == 1


def test_what_is_gone_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_PICTURES", 2)
    places = write(tmp_path, {(key(i), 0): np.full(8, i, np.float32) for i in range(6)})
    gone = places[key(2), 0].pack
    gone.unlink()
    found = dict(read_places(places))
    assert found.keys() == {view for view, place in places.items() if place.pack != gone}
    assert len(found) == 4


def test_the_library_of_the_format_opens_a_pack(tmp_path: Path) -> None:
    tensors = {(key(1), view): np.arange(6, dtype=np.float16).reshape(1, 2, 3) for view in (-1, 2)}
    write(tmp_path, tensors)
    [pack] = tmp_path.iterdir()
    opened = load_file(pack)
    assert set(opened) == {f"{key(1)}@-1", f"{key(1)}@2"}
    np.testing.assert_array_equal(opened[f"{key(1)}@2"], tensors[key(1), 2])


def test_an_unknown_type_of_numbers_is_no_pack_of_ours(tmp_path: Path) -> None:
    write(tmp_path, {(key(1), 0): np.zeros(4, np.float32)})
    [pack] = tmp_path.iterdir()
    pack.write_bytes(pack.read_bytes().replace(b'"F32"', b'"I32"'))
    assert list(read_index(pack)) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="features cannot be written"):
        write(tmp_path / "file", {(key(1), 0): np.zeros(4, np.float32)})


def test_on_disk_is_as_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values_nv = rng.normal(size=(5, 2, 3)).astype(np.float16)
    tensors = {(key(i), view): values_nv[i, view] for i in range(5) for view in range(2)}
    places = write(tmp_path, tensors)
    table = [[places[key(i), view] for view in range(2)] for i in range(5)]
    table[3][1] = None  # computed again
    computed: list[tuple[int, int]] = []

    def compute(index: int, column: int) -> np.ndarray:
        computed.append((index, column))
        return values_nv[index, column]

    disk = Features((0, 1), (3,), 5, 0, OnDisk(table, compute))
    memory = Features((0, 1), (3,), 5, 0, InMemory(torch.from_numpy(values_nv)))
    for features in (disk, memory):
        taken = features.take([4, 3, 3, 0], [1, 1, 0, 0])
        assert taken.dtype == torch.float32
        assert torch.equal(taken, torch.from_numpy(values_nv[[4, 3, 3, 0], [1, 1, 0, 0]]).float())
        assert torch.equal(features.values, torch.from_numpy(values_nv).float())
    assert computed == [(3, 1)] * 2
