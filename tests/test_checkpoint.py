"""A model file is whole in itself, and whatever is wrong with one is said as CheckpointError."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fieldmark.checkpoint import (
    METADATA_KEY,
    ModelInfo,
    find_info,
    load_info,
    load_model,
    load_tensors,
    load_weights,
    save_model,
)
from fieldmark.errors import CheckpointError, OutputError
from fieldmark.models.registry import create_model
from fieldmark.predict import load
from fieldmark.types import Preprocess

NAMES = ("ant", "蜜蜂", 'wasp "big"')


def info_for(model: nn.Module, class_names: tuple[str, ...] = NAMES) -> ModelInfo:
    architecture: dict[str, Any] = model.architecture  # type: ignore[assignment]
    channels = architecture["in_channels"]
    preprocess = Preprocess(64, channels, (0.45,) * channels, (0.22,) * channels, crop_fraction=0.9)
    return ModelInfo(architecture, class_names, preprocess, {"epoch": 3})


def lively(model: nn.Module) -> nn.Module:
    """Norms with statistics of their own, so that a buffer left behind would show."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """One small model and its file. Tests copy the file before they harm it."""
    torch.manual_seed(0)
    model = lively(create_model("resnet10", num_classes=3))
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    save_model(path, model, info_for(model))
    return path, model


@pytest.fixture
def copied(saved: tuple[Path, nn.Module], tmp_path: Path) -> Path:
    return Path(shutil.copy(saved[0], tmp_path / "model.safetensors"))


def rewrite(path: Path, **changes: Any) -> None:
    """Change the document inside a model file; a value of `...` takes the key away."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        metadata = json.loads(stream.read(length))["__metadata__"]
    document = {**json.loads(metadata[METADATA_KEY]), **changes}
    document = {key: value for key, value in document.items() if value is not ...}
    save_file(load_file(path), path, metadata={METADATA_KEY: json.dumps(document)})


# There and back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("resnet10", 3, {}),
        ("resnet18", 1, {"conv_bias": True, "norm_shortcut": False}),
        ("resnet50", 3, {"conv_bias": True, "stride_on_first_1x1": True, "pool_padding": 0}),
        ("alexnet_half", 1, {"dropout": 0.2}),
    ],
)
def test_round_trip_gives_the_same_logits_to_the_bit(
    tmp_path: Path, name: str, channels: int, options: dict[str, Any]
) -> None:
    model = lively(create_model(name, num_classes=3, in_channels=channels, **options))
    model.to(memory_format=torch.channels_last)
    path = tmp_path / "model.safetensors"
    save_model(path, model, info_for(model))
    again, info = load_model(path)
    assert info == info_for(model)
    assert not again.training
    again.to(memory_format=torch.channels_last)
    images_bchw = torch.randn(2, channels, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images_bchw), again(images_bchw))


def test_the_file_alone_in_an_empty_folder_is_enough_to_predict(
    copied: Path, make_pictures: Any, tmp_path: Path
) -> None:
    pictures = make_pictures(tmp_path / "pictures", {"new": 1})
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    copied.rename(alone / "bees.safetensors")
    prediction = load(alone / "bees.safetensors", "cpu").predict(pictures / "new" / "000.png")
    assert prediction.class_names == NAMES
    assert sum(prediction.probabilities) == pytest.approx(1)


def test_the_file_loads_with_torchvision_in_two_lines(tmp_path: Path) -> None:
    ours = lively(create_model("resnet18", num_classes=3))
    save_model(tmp_path / "model.safetensors", ours, info_for(ours))
    theirs = torchvision.models.resnet18(num_classes=3)
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images_bchw = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(images_bchw), ours(images_bchw))


def test_writing_again_replaces_the_file_and_leaves_nothing_beside_it(
    copied: Path, saved: tuple[Path, nn.Module]
) -> None:
    info = replace(info_for(saved[1]), history={"epoch": 9})
    save_model(copied, saved[1], info)
    assert load_info(copied).history == {"epoch": 9}
    assert list(copied.parent.iterdir()) == [copied]


def test_a_full_disk_leaves_the_old_file_and_says_so(
    copied: Path, saved: tuple[Path, nn.Module]
) -> None:
    before = copied.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OutputError, match="cannot write"):
            save_model(copied, saved[1], info_for(saved[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert copied.read_bytes() == before
    assert list(copied.parent.iterdir()) == [copied]


# Damage -------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_no_model(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no such model file"):
            load_model(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 500, 8000, 1_000_000, -1])
def test_a_truncated_file_is_damaged_wherever_it_ends(copied: Path, keep: int) -> None:
    whole = copied.read_bytes()
    copied.write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match=r"damaged or not a \.safetensors file") as caught:
        load_model(copied)
    assert str(copied) in str(caught.value)
    assert "copy it again" in str(caught.value)


@pytest.mark.parametrize("content", [b"not a model", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" * 9])
def test_another_kind_of_file_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged or not a \.safetensors file"):
        load_model(path)


def test_foreign_safetensors_are_weights_but_no_model(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a whole Fieldmark model") as caught:
        load_model(path)
    assert "use --weights" in str(caught.value)
    assert find_info(path) is None


def test_metadata_that_is_no_json_is_damage(tmp_path: Path, saved: tuple[Path, nn.Module]) -> None:
    path = tmp_path / "model.safetensors"
    for text in ("", "{", "[]", "null", '"text"', "12", "{}", "[" * 10_000):
        save_file({"w": torch.zeros(1)}, path, metadata={METADATA_KEY: text})
        with pytest.raises(CheckpointError, match="damaged"):
            load_model(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "another format"),
        ({"format": ...}, "damaged"),
        ({"architecture": ...}, "damaged"),
        ({"architecture": []}, "damaged"),
        ({"architecture": "resnet10"}, "damaged"),
        ({"class_names": ...}, "damaged"),
        ({"class_names": 3}, "damaged"),
        ({"class_names": "abc"}, "the class names are no list of texts"),
        ({"class_names": {"a": 1, "b": 2, "c": 3}}, "the class names are no list of texts"),
        ({"class_names": [1, 2, 3]}, "the class names are no list of texts"),
        ({"class_names": ["ant", "ant", "bee"]}, "two classes have the same name"),
        ({"class_names": ["ant", "bee"]}, "as many class names as outputs"),
        ({"preprocess": ...}, "damaged"),
        ({"preprocess": None}, "does not describe its preprocess"),
        ({"preprocess": {"size": 64}}, "does not describe its preprocess"),
        ({"history": None}, "damaged"),
    ],
)
def test_what_is_missing_or_does_not_agree_is_said(
    copied: Path, changes: dict[str, Any], problem: str
) -> None:
    rewrite(copied, **changes)
    with pytest.raises(CheckpointError, match=problem):
        load_model(copied)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("name", "resnet11", "cannot build"),
        ("name", 7, "name of the network is 7"),
        ("options", None, "options of the network is None"),
        ("options", [["conv_bias", True]], "options of the network is"),
        ("num_classes", 3.0, "num_classes of the network is 3.0"),
        ("in_channels", "3", "in_channels of the network is '3'"),
        ("options", {"wings": 2}, "cannot build"),
        ("options", {"name": "resnet18"}, "cannot build"),
        ("in_channels", 1, "disagree about the channels"),
        ("name", "resnet18", "made for another network"),
    ],
)
def test_a_network_that_cannot_be_built_or_filled_is_said(
    copied: Path, key: str, value: object, problem: str
) -> None:
    rewrite(copied, architecture={**load_info(copied).architecture, key: value})
    with pytest.raises(CheckpointError, match=problem):
        load_model(copied)


@pytest.mark.parametrize("word", ["name", "options", "num_classes", "in_channels"])
def test_a_network_that_is_not_told_whole_is_damage_to_everyone_who_asks(
    copied: Path, word: str
) -> None:
    architecture = dict(load_info(copied).architecture)
    del architecture[word]
    rewrite(copied, architecture=architecture)
    for ask in (find_info, load_info, load_model):
        with pytest.raises(CheckpointError, match=f"damaged.*{word} of the network is None"):
            ask(copied)


def test_a_file_from_before_there_was_a_channel_order_is_of_rgb(copied: Path) -> None:
    info = load_info(copied)
    preprocess = info.preprocess.to_dict()
    del preprocess["channel_order"]
    rewrite(copied, preprocess=preprocess)
    assert load_model(copied)[1] == info
    assert info.preprocess.channel_order == "rgb"


@pytest.fixture(scope="module")
def harmed(
    saved: tuple[Path, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, int]]:
    """A copy to harm and mend in place, and the length of its header."""
    path = Path(shutil.copy(saved[0], tmp_path_factory.mktemp("harmed") / "model.safetensors"))
    with path.open("rb") as stream:
        yield path, 8 + struct.unpack("<Q", stream.read(8))[0]


@given(data=st.data())
@settings(max_examples=150)
def test_flipped_bytes_in_the_header_never_give_another_error(
    harmed: tuple[Path, int], data: st.DataObject
) -> None:
    """The model loads (a letter of a class name, say), or it is a CheckpointError."""
    path, length = harmed
    # Half of the flips aim at the document with the architecture, which stands at the front.
    spot = st.one_of(st.integers(0, length - 1), st.integers(0, min(length, 1500) - 1))
    flips = data.draw(st.dictionaries(spot, st.integers(1, 255), min_size=1, max_size=3))
    with path.open("r+b") as stream:
        before = {}
        for position, bits in flips.items():
            stream.seek(position)
            before[position] = stream.read(1)[0]
            stream.seek(position)
            stream.write(bytes([before[position] ^ bits]))
    try:
        load_model(path)
    except CheckpointError:
        pass
    finally:
        with path.open("r+b") as stream:
            for position, byte in before.items():
                stream.seek(position)
                stream.write(bytes([byte]))
    assert load_info(path).class_names == NAMES  # mended again


# Weights to start from ----------------------------------------------------------------------------


def start(model: nn.Module, path: Path) -> str:
    """As a training does."""
    return load_weights(model, load_tensors(path), str(path), None)


def test_torchvisions_weights_start_a_training_classifier_and_all(tmp_path: Path) -> None:
    theirs = lively(torchvision.models.resnet18(num_classes=7))
    save_file(theirs.state_dict(), tmp_path / "tv.safetensors")
    ours = create_model("resnet18", num_classes=7)
    said = start(ours, tmp_path / "tv.safetensors")
    assert said == f"weights from {tmp_path / 'tv.safetensors'}; classifier included"
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["resnet18", "alexnet_half"])
def test_with_other_classes_the_classifier_starts_anew_and_it_is_said(
    tmp_path: Path, name: str
) -> None:
    trained = lively(create_model(name, num_classes=7))
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    model = create_model(name, num_classes=3)
    said = start(model, tmp_path / "w.safetensors")
    assert said.endswith("; a new classifier, for 3 classes instead of 7")
    state, given_state = model.state_dict(), trained.state_dict()
    *others, weight, bias = state
    assert all(torch.equal(state[key], given_state[key]) for key in others)
    assert state[weight].shape[0] == state[bias].shape[0] == 3
    assert state[weight].std() > 0
    assert model.num_classes == model.architecture["num_classes"] == 3  # type: ignore[index, comparison-overlap]


def test_old_torchvision_files_without_counters_load(tmp_path: Path) -> None:
    theirs = lively(torchvision.models.resnet18(num_classes=3))
    old = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "old.safetensors")
    ours = create_model("resnet18", num_classes=3).eval()
    start(ours, tmp_path / "old.safetensors")
    images_bchw = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images_bchw), theirs(images_bchw))


def test_weights_for_another_network_name_what_does_not_fit(saved: tuple[Path, nn.Module]) -> None:
    path = saved[0]
    with pytest.raises(CheckpointError, match="made for another network") as deeper:
        start(create_model("resnet18", num_classes=3), path)
    message = str(deeper.value)
    assert "missing: layer1.1.bn1.bias, layer1.1.bn1.running_mean, " in message
    assert " and " in message
    assert "unknown" not in message  # all that is there has a place
    assert "name the --model (and its options)" in message
    with pytest.raises(CheckpointError, match=r"unknown: bn1\.bias") as other:
        start(create_model("alexnet_half", num_classes=3), path)
    assert "missing: classifier.1.bias" in str(other.value)
    wide = r"wrong shape: layer1\.0\.conv1\.weight .64, 64, 3, 3. instead of .64, 64, 1, 1."
    with pytest.raises(CheckpointError, match=wide):
        start(create_model("resnet50", num_classes=3), path)


@pytest.mark.parametrize("bias", [torch.tensor(1.0), torch.zeros(0)])
def test_a_classifier_of_no_sense_is_said_as_a_wrong_shape(
    saved: tuple[Path, nn.Module], tmp_path: Path, bias: torch.Tensor
) -> None:
    save_file({**saved[1].state_dict(), "fc.bias": bias}, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"wrong shape: .*fc\.bias"):
        start(create_model("resnet10", num_classes=3), tmp_path / "odd.safetensors")
