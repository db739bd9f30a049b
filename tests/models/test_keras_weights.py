"""Files that Keras could have written, and such as it never would; tests/parity has real ones."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.errors import CheckpointError
from fieldmark.models.keras_weights import MAX_CLASSES, read_keras_weights
from fieldmark.models.registry import create_model
from fieldmark.types import Preprocess

h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra `keras`)")

NUM_CLASSES = 3
PARTS_2017 = {"2a": "1", "2b": "2", "2c": "3"}


def layers_of_2017() -> dict[str, str]:
    """Keras' layers of 2017, spelt out as its own code names them -> our modules."""
    layers = {"conv1": "conv1", "bn_conv1": "bn1"}
    for stage, letters in ((2, "abc"), (3, "abcd"), (4, "abcdef"), (5, "abc")):
        for number, letter in enumerate(letters):
            place, ours = f"{stage}{letter}_branch", f"layer{stage - 1}.{number}"
            for part, which in PARTS_2017.items():
                layers[f"res{place}{part}"] = f"{ours}.conv{which}"
                layers[f"bn{place}{part}"] = f"{ours}.bn{which}"
            if letter == "a":
                layers[f"res{place}1"] = f"{ours}.downsample.0"
                layers[f"bn{place}1"] = f"{ours}.downsample.1"
    return {**layers, "fc1000": "fc"}


def fixed(names: Iterable[str]) -> np.ndarray:
    """As Keras wrote lists of names: texts of one length."""
    return np.array(list(names), dtype="S")


def write_2017(path: Path, state: dict[str, torch.Tensor], **words: Any) -> Path:
    """The file that Keras of 2017 would have written of a network with these weights."""
    with h5py.File(path, "w") as file:
        for name, module in layers_of_2017().items():
            kinds = {"W": f"{module}.weight", "b": f"{module}.bias"}
            if name.startswith("bn"):
                kinds = {"gamma": f"{module}.weight", "beta": f"{module}.bias"}
                kinds["running_mean"] = f"{module}.running_mean"
                kinds["running_std"] = f"{module}.running_var"
            group = file.create_group(name)
            group.attrs["weight_names"] = fixed(f"{name}_{kind}_1:0" for kind in kinds)
            for kind, key in kinds.items():
                value = state[key]
                order = (2, 3, 1, 0) if value.ndim == 4 else range(value.ndim)[::-1]
                value = value.permute(*order)
                group.create_dataset(f"{name}_{kind}_1:0", data=value.numpy(), **words)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole file of ResNet-50, small because its weights are all equal and packed."""
    with torch.device("meta"):
        state = create_model("resnet50_keras2017", num_classes=NUM_CLASSES).state_dict()
    flat = {key: torch.full(value.shape, 0.5) for key, value in state.items()}
    return write_2017(
        tmp_path_factory.mktemp("keras") / "resnet50.h5", flat, compression="gzip", shuffle=True
    )


@pytest.fixture
def spoil(small: Path, tmp_path: Path) -> Callable[[Callable[[Any], object]], str]:
    """`spoil(change)` changes a copy of the small file, and gives what reading it says."""

    def read(change: Callable[[Any], object]) -> str:
        path = Path(shutil.copy(small, tmp_path / "resnet50.h5"))
        with h5py.File(path, "r+") as file:
            change(file)
        return message_of(path)

    return read


Spoil = Callable[[Callable[[Any], object]], str]


def message_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        read_keras_weights(path)
    message = str(raised.value)
    assert str(path) in message
    assert "  do:  " in message
    return message


def replace_weight(file: Any, layer: str, number: int, *args: Any, **words: Any) -> Any:
    """Put another dataset where a weight was."""
    name = file[layer].attrs["weight_names"][number].decode()
    del file[layer][name]
    return file[layer].create_dataset(name, *args, **words)


def test_every_weight_arrives_where_it_belongs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {
        key: value.float() if "num_batches" in key else torch.randn_like(value)
        for key, value in create_model("resnet50_keras2017", NUM_CLASSES).state_dict().items()
    }
    read = read_keras_weights(write_2017(tmp_path / "resnet50.h5", state))
    assert (read.network, read.num_classes) == ("resnet50_keras2017", NUM_CLASSES)
    wanted = {key: value for key, value in state.items() if "num_batches" not in key}
    assert read.tensors.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(read.tensors[key], value), key
        assert read.tensors[key].is_contiguous(), key
    create_model(read.network, NUM_CLASSES).load_state_dict(read.tensors, strict=True)


def test_preprocess_travels_along(small: Path) -> None:
    preprocess = Preprocess(channels=3, **read_keras_weights(small).preprocess)
    assert preprocess.channel_order == "bgr"
    assert [255 * mean for mean in preprocess.mean] == pytest.approx([123.68, 116.779, 103.939])
    assert [255 * std for std in preprocess.std] == pytest.approx([1, 1, 1])


def test_half_precision_becomes_float32(small: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(small, tmp_path / "half.h5"))
    with h5py.File(path, "r+") as file:
        replace_weight(file, "conv1", 1, data=[0.25] * 64, dtype="f2")
    tensors = read_keras_weights(path).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert tensors["conv1.bias"].tolist() == [0.25] * 64


def test_a_whole_model_may_hold_more_than_its_weights(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(small) as source, h5py.File(path, "w") as file:
        inner = file.create_group("model_weights")
        for name in source:
            source.copy(name, inner)
        inner.create_group("activation_1").attrs["weight_names"] = []
        file.create_group("optimizer_weights").attrs["weight_names"] = ["Adam/iterations:0"]
        file.attrs["backend"], file.attrs["model_config"] = b"tensorflow", b"{}"
    assert read_keras_weights(path).network == "resnet50_keras2017"


# Not such a file at all


def test_no_file(tmp_path: Path) -> None:
    assert "no such file" in message_of(tmp_path / "absent.h5")
    assert "no such file" in message_of(tmp_path)


def test_a_text_named_h5(tmp_path: Path) -> None:
    (tmp_path / "page.h5").write_text("<html>Not found</html>")
    assert "not an HDF5 file" in message_of(tmp_path / "page.h5")
    (tmp_path / "empty.h5").touch()
    assert "not an HDF5 file" in message_of(tmp_path / "empty.h5")


def test_a_keras_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "unzip it" in message_of(tmp_path / "model.keras")


def test_a_file_cut_off(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.h5").write_bytes(whole[: int(share * len(whole))])
        assert "damaged" in message_of(tmp_path / "cut.h5")


def test_packed_data_that_do_not_unpack(small: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(small, tmp_path / "bits.h5"))
    with h5py.File(path) as file:
        chunk = file["res4d_branch2b/res4d_branch2b_W_1:0"].id.get_chunk_info(0)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * min(64, chunk.size))
    assert "damaged" in message_of(path)


def test_without_h5py_the_way_out_is_said(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'fieldmark[keras]'" in message_of(small)


# Another network, or not all of it


def test_another_network_shows_both_sides(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "mnist.h5", "w") as file:
        group = file.create_group("my_dense")
        group.attrs["weight_names"] = ["kernel:0"]
        group["kernel:0"] = [1.0]
        file.create_group("flatten").attrs["weight_names"] = []
    message = message_of(tmp_path / "mnist.h5")
    assert "no network with these layers is known" in message
    assert "layers: my_dense\n" in message
    for known in (
        "resnet50_keras2017 (conv1, bn_conv1, res2a_branch2a and 104 more)",
        "resnet50_keras (conv1_conv, conv1_bn, conv2_block1_1_conv and 104 more)",
        "vgg16 (block1_conv1, block1_conv2, block2_conv1 and 13 more)",
    ):
        assert known in message


def test_an_empty_file(tmp_path: Path) -> None:
    h5py.File(tmp_path / "empty.h5", "w").close()
    assert "layers: none" in message_of(tmp_path / "empty.h5")


def test_a_missing_layer(spoil: Spoil) -> None:
    message = spoil(lambda file: file.pop("bn4c_branch2b"))
    assert "not what Keras writes for resnet50_keras2017" in message
    assert "missing layers: bn4c_branch2b\n" in message


def test_a_missing_weight(spoil: Spoil) -> None:
    def change(file: Any) -> None:
        file["res3a_branch1"].attrs["weight_names"] = fixed(["res3a_branch1_W_1:0"])

    assert "not all weights: res3a_branch1 (1 of 2)" in spoil(change)
    message = spoil(lambda file: file.pop("res3a_branch1/res3a_branch1_b_1:0"))
    assert "/res3a_branch1/res3a_branch1_b_1:0 is not there" in message


def test_unknown_layers(spoil: Spoil) -> None:
    def change(file: Any) -> None:
        for number in range(5):
            group = file.create_group(f"dense_{number}")
            group.attrs["weight_names"] = ["kernel:0"]
            group["kernel:0"] = [1]

    assert "unknown layers: dense_0, dense_1, dense_2 and 2 more\n" in spoil(change)


def test_without_a_classifier(spoil: Spoil) -> None:
    message = spoil(lambda file: file.pop("fc1000"))
    assert "resnet50_keras2017 without its classifier (include_top=False)" in message
    assert "notop" in message


def test_a_wrong_shape(spoil: Spoil) -> None:
    def change(file: Any) -> None:
        replace_weight(file, "conv1", 0, (7, 7, 1, 64), "f4", fillvalue=1)

    assert "wrong shapes: conv1 (7, 7, 1, 64) instead of (7, 7, 3, 64)\n" in spoil(change)


@pytest.mark.parametrize("of", ["shape", "backend"])
def test_theano_is_refused(spoil: Spoil, of: str) -> None:
    def change(file: Any) -> None:
        if of == "shape":
            replace_weight(file, "conv1", 0, (64, 3, 7, 7), "f4", fillvalue=1)
        else:
            file.attrs["backend"] = b"theano"

    message = spoil(change)
    assert "Theano's order" in message
    assert "tf_dim_ordering_tf_kernels" in message


# The form of Keras 3


def test_a_network_inside_a_network_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "mine.weights.h5", "w") as file:
        file["layers/functional/layers/conv2d/vars/0"] = [1.0]
        file["layers/conv2d/vars/0"] = [1.0]
        file["layers/dropout/seed_generator/vars/0"] = [1]
        file.create_group("layers/dropout/vars")
    message = message_of(tmp_path / "mine.weights.h5")
    assert "not what Keras writes for vgg16" in message
    assert "unknown layers: functional/layers;" in message


# Files made to do harm. What is declared costs nothing until it is read.


@pytest.mark.parametrize("num_classes", [10**9, 0])
def test_an_endless_classifier(spoil: Spoil, num_classes: int) -> None:
    def change(file: Any) -> None:
        replace_weight(
            file, "fc1000", 0, (2048, num_classes), "f4", maxshape=(2048, None), chunks=(64, 64)
        )
        replace_weight(file, "fc1000", 1, (num_classes,), "f4", maxshape=(None,), chunks=(64,))

    assert f"1 to {MAX_CLASSES:,} classes" in spoil(change)


def test_an_endless_layer(spoil: Spoil) -> None:
    def change(file: Any) -> None:
        shape = (10**6, 10**6, 3, 64)
        replace_weight(file, "conv1", 0, shape, "f4", chunks=(1, 1, 3, 64))

    assert "conv1 (1000000, 1000000, 3, 64) instead of (7, 7, 3, 64)" in spoil(change)


@pytest.mark.parametrize("words", [{}, {"chunks": (64, 1)}], ids=["plain", "chunks"])
def test_declared_but_not_there(spoil: Spoil, words: dict[str, Any]) -> None:
    def change(file: Any) -> None:
        replace_weight(file, "fc1000", 0, (2048, NUM_CLASSES), "f4", **words)

    assert "24,576 bytes are declared, and 0 are there" in spoil(change)


def test_small_data_in_a_huge_piece(spoil: Spoil) -> None:
    def change(file: Any) -> None:
        words = {"maxshape": (None,), "chunks": (2**25,), "compression": "gzip"}
        replace_weight(file, "conv1", 1, (64,), "f4", **words)[:] = 1

    assert "packed in pieces of 134,217,728 bytes" in spoil(change)


def test_data_that_are_no_numbers(spoil: Spoil) -> None:
    message = spoil(lambda file: replace_weight(file, "conv1", 1, data=[b"a"] * 64))
    assert "layer conv1, shape (64,)" in message
    assert "instead of floating-point numbers" in message


def test_data_elsewhere_are_not_fetched(spoil: Spoil, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\0" * 256)
    raw = [(str(tmp_path / "raw"), 0, 256)]
    message = spoil(lambda file: replace_weight(file, "conv1", 1, (64,), "f4", external=raw))
    assert "its data are in another file" in message


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/bn_conv1")])
@pytest.mark.parametrize("place", ["conv1", "conv1/conv1_W_1:0"])
def test_links_are_not_followed(spoil: Spoil, link: Any, place: str) -> None:
    def change(file: Any) -> None:
        del file[place]
        file[place] = link

    assert f"/{place} is a link to elsewhere ({type(link).__name__})" in spoil(change)


def test_names_without_end(spoil: Spoil) -> None:
    def change(file: Any) -> None:
        file["conv1"].attrs["weight_names"] = fixed(["a"] * 5000)

    assert "attribute weight_names of /conv1 is no list of names" in spoil(change)
