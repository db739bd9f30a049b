"""What is exported opens elsewhere as its own README says, and gives Fieldmark's answers there."""

from __future__ import annotations

import math
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_sample_image
from torch import nn

import fieldmark
from fieldmark.checkpoint import ModelInfo, save_model
from fieldmark.errors import CheckpointError, ModelError, OutputError
from fieldmark.export.folders import export_weights
from fieldmark.export.timm_config import crop_pct, timm_config
from fieldmark.models.contract import as_network
from fieldmark.models.layouts import to_timm
from fieldmark.models.registry import create_model
from fieldmark.predict import load
from fieldmark.progress import Silent
from fieldmark.types import Preprocess
from support.references import python_of

NAMES = ("蜜蜂", "ant | emmet", 'wasp "big"')
# At 67 px and 0.875 timm would by itself resize to another side than Fieldmark: 76 instead of 77.
COLOUR = Preprocess(67, 3, (0.5, 0.45, 0.4), (0.2, 0.21, 0.22))
GREY = Preprocess(64, 1, (0.45,), (0.22,), crop_fraction=0.9)
SQUASH = replace(COLOUR, resize="squash", interpolation="bicubic", crop_fraction=0.8)
BGR = replace(COLOUR, channel_order="bgr")


# A transformer for another size than its own, and one for any size.
OPTIONS: dict[tuple[str, int], dict[str, Any]] = {
    ("test_vit.r160_in1k", 64): {"img_size": 64},
    ("test_vit.r160_in1k", 192): {"dynamic_img_size": True},
}
GAIN = {"alexnet": 30, "resnet10": 5, "mobilenetv3_small_050": 30}  # of answers that hardly differ


class Said(Silent):
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def saved(folder: Path, name: str, preprocess: Preprocess, **options: Any) -> Path:
    """A model file; its answers differ from picture to picture, as a trained network's do."""
    torch.manual_seed(0)
    model = create_model(name, len(NAMES), preprocess.channels, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    with torch.no_grad():  # without norms a signal grows weaker from layer to layer
        for layer in model.classifiers:  # type: ignore[union-attr]
            weight = model.state_dict()[f"{layer}.weight"]
            weight.mul_(0.5 / weight.std() / weight.shape[1] ** 0.5 * GAIN.get(name, 1))
    path = folder / "model.safetensors"
    save_model(path, model, ModelInfo(model.architecture, NAMES, preprocess, {}))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photograph, lying on its side by its EXIF orientation, as many phones write them.

    Small enough to be decoded whole by Fieldmark too.
    """
    picture = Image.fromarray(load_sample_image("china.jpg")).resize((192, 128))
    exif = picture.getexif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("photo") / "picture.jpg"
    picture.save(path, quality=95, exif=exif)
    return path


def run_readme(folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Do what the README says, letter for letter; returns the names it defines."""
    monkeypatch.chdir(folder)
    (folder / "picture.jpg").write_bytes(photo.read_bytes())
    defined: dict[str, Any] = {}
    exec(python_of(folder / "README.md"), defined)
    return defined


def check_same_answers(model_file: Path, photo: Path, defined: dict[str, Any]) -> None:
    predictor = load(model_file, "cpu")
    expected = torch.tensor(predictor.predict(photo).probabilities)
    assert expected.std() > 0.02  # not a third for each class
    torch.testing.assert_close(defined["probabilities"], expected, atol=1e-4, rtol=0)
    # The transform is Fieldmark's to the last bit or nearly so, and then so are the logits.
    inputs = defined["transform"](defined["picture"])[None]
    preprocess = predictor.info.preprocess
    ours = inputs.flip(1) if preprocess.channel_order == "bgr" else inputs
    with torch.inference_mode():
        logits = predictor.model(ours)
        torch.testing.assert_close(defined["model"](inputs), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("alexnet", GREY),
        ("resnet10", BGR),
        ("resnet18", GREY),
        ("resnet18", SQUASH),
        ("resnet50", COLOUR),
    ],
)
def test_torchvision_opens_the_folder_as_its_readme_says(
    name: str,
    preprocess: Preprocess,
    tmp_path: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model_file = saved(tmp_path, name, preprocess)
    folder = export_weights(model_file, "torchvision")
    assert folder == tmp_path / "export-torchvision"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "model.safetensors", "class_names.json")
    }
    defined = run_readme(folder, photo, monkeypatch)
    check_same_answers(model_file, photo, defined)
    assert type(defined["model"]).__module__.startswith("torchvision.")
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("%  ")[2] for line in printed] == list(NAMES)


@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("resnet10", COLOUR),
        ("resnet10", GREY),
        ("resnet18", BGR),
        ("resnet18", SQUASH),
        ("resnet50", replace(COLOUR, interpolation="bicubic", crop_fraction=1.0)),
        ("mobilenetv3_small_050", COLOUR),
        ("mobilenetv3_small_050", BGR),
        ("mobilenetv3_small_050", GREY),
        ("timm/resnet18.a1_in1k", SQUASH),
        ("test_vit", replace(COLOUR, size=160)),
        ("test_vit.r160_in1k", replace(BGR, size=64)),
        ("test_vit.r160_in1k", replace(COLOUR, size=192)),
    ],
)
def test_timm_opens_the_folder_as_its_readme_says(
    name: str,
    preprocess: Preprocess,
    tmp_path: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model_file = saved(tmp_path, name, preprocess, **OPTIONS.get((name, preprocess.size), {}))
    folder = export_weights(model_file, "timm", tmp_path / "new" / "folder")
    defined = run_readme(folder, photo, monkeypatch)
    check_same_answers(model_file, photo, defined)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("%  ")[2] for line in printed] == list(NAMES)
    model = defined["model"]
    config = timm.data.resolve_model_data_config(model)
    size = preprocess.size
    assert config["input_size"] == (preprocess.channels, size, size) or config["input_size"] == [
        *(preprocess.channels, size, size)
    ]
    assert tuple(config["mean"]) == preprocess.mean
    assert tuple(config["std"]) == preprocess.std
    assert config["interpolation"] == preprocess.interpolation
    squash = preprocess.resize == "squash"
    assert config["crop_mode"] == ("squash" if squash else "center")
    share = 1.0 if squash else preprocess.crop_fraction
    assert config["crop_pct"] == pytest.approx(share, abs=0.5 / size)
    assert model.num_classes == len(NAMES)


def test_timm_starts_a_training_with_other_classes_and_channels_from_the_folder(
    tmp_path: Path,
) -> None:
    folder = export_weights(saved(tmp_path, "resnet10", COLOUR), "timm")
    kept = timm.create_model(f"local-dir:{folder}", pretrained=True)
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7, in_chans=1)
    assert other.get_classifier().out_features == 7
    assert torch.equal(other.layer4[0].conv1.weight, kept.layer4[0].conv1.weight)
    summed = kept.conv1.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(other.conv1.weight, summed)


def test_a_vggs_config_names_timms_layers() -> None:
    """On shapes alone: half a gigabyte to write and read takes half a minute. What a VGG computes
    in timm is compared in tests/models/test_layouts.py."""
    with torch.device("meta"):
        model = create_model("vgg11", 3)
    foreign = to_timm(model.architecture, model.state_dict(), 67)  # type: ignore[arg-type]
    document = timm_config(foreign, as_network(model), COLOUR, NAMES)
    assert document["pretrained_cfg"]["classifier"] == "head.fc"
    assert document["pretrained_cfg"]["first_conv"] == "features.0"
    assert document["model_args"] == {"drop_rate": 0.5}
    with torch.device("meta"):
        theirs = timm.create_model(document["architecture"], num_classes=3)
    assert "head.fc.weight" in theirs.state_dict()


@given(size=st.integers(1, 1024), fraction=st.floats(0.01, 1.0))
def test_timm_resizes_to_the_same_side(size: int, fraction: float) -> None:
    preprocess = replace(COLOUR, size=size, crop_fraction=fraction)
    share = crop_pct(preprocess)
    # As timm's `transforms_imagenet_eval` computes it.
    assert math.floor(size / share) == round(size / fraction)
    assert 0 < share <= 1


def test_nothing_of_the_training_goes_out_with_the_weights(
    tiny_run: fieldmark.Run, tmp_path: Path
) -> None:
    """Paths of the pictures stand in Fieldmark's own file."""
    said = Said()
    for to in ("torchvision", "timm", "hf"):
        folder = export_weights(tiny_run.path, to, tmp_path / to, said)
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
        for path in folder.iterdir():
            assert str(tiny_run.path.parent).encode() not in path.read_bytes()
    assert [line for line in said.lines if "hf upload" in line] == [said.lines[-1]]
    assert said.lines[-1].startswith("Nothing was sent anywhere.")


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    model_file = saved(tmp_path, "resnet10", COLOUR)
    first = export_weights(model_file, "timm")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    assert export_weights(model_file, "timm").name == "export-timm-2"
    with pytest.raises(OutputError, match="exists and is not empty"):
        export_weights(model_file, "timm", first)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_a_full_disk_leaves_nothing_in_the_way_of_the_next_attempt(tmp_path: Path) -> None:
    model_file, out = saved(tmp_path, "resnet10", COLOUR), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OutputError, match="cannot write"):
            export_weights(model_file, "timm", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(out.iterdir()) == []
    assert (export_weights(model_file, "timm", out) / "config.json").is_file()


def test_what_cannot_be_exported_is_said_before_a_folder_is_made(tmp_path: Path) -> None:
    model_file = saved(tmp_path, "alexnet_half", GREY)
    with pytest.raises(ModelError, match="neither torchvision nor timm has this network"):
        export_weights(model_file, "torchvision", tmp_path / "out")
    with pytest.raises(ModelError, match="unknown target") as caught:
        export_weights(model_file, "torchvison", tmp_path / "out")
    assert "did you mean 'torchvision'?" in str(caught.value)
    with pytest.raises(CheckpointError, match="no such run or model file"):
        export_weights(tmp_path / "none", "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()
