"""What decides features decides the folder they are kept in, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fieldmark.auto import settle_augment
from fieldmark.data.features import form as form_module
from fieldmark.data.features.form import FeatureForm, check_views, size_of, weights_digest
from fieldmark.data.pixels import form as pixel_form_module
from fieldmark.data.pixels.form import Form
from fieldmark.recipe import AugmentRecipe
from fieldmark.types import Preprocess

PREPROCESS = Preprocess(16, 3, (0.1, 0.2, 0.3), (1.0,) * 3)
STANDARD = settle_augment(AugmentRecipe(preset="standard"))
ARCHITECTURE = {"name": "resnet18", "options": {"width": 1}, "num_classes": 7, "in_channels": 3}
EXACT = FeatureForm("w" * 64, ARCHITECTURE, "layer4", Form("exact", PREPROCESS), PREPROCESS)
AUGMENTED = replace(EXACT, pixels=Form("crops", PREPROCESS), augment=STANDARD)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "v" * 64},
        {"architecture": ARCHITECTURE | {"name": "resnet34"}},
        {"architecture": ARCHITECTURE | {"options": {"width": 2}}},
        {"boundary": "layer3"},
        {"pixels": Form("canvas", PREPROCESS)},
        {"pixels": Form("crops", replace(PREPROCESS, interpolation="bicubic"))},
        {"preprocess": replace(PREPROCESS, mean=(0.1, 0.2, 0.4))},
        {"preprocess": replace(PREPROCESS, std=(1.0, 1.0, 2.0))},
        {"preprocess": replace(PREPROCESS, channel_order="bgr")},
        {"augment": replace(STANDARD, hflip=0.25)},
        {"augment": None},
        {"inference": "folded"},
        {"kept": "float16"},
    ],
)
def test_what_decides_the_numbers_decides_the_folder(change: dict[str, Any]) -> None:
    assert replace(AUGMENTED, **change).name != AUGMENTED.name


def test_what_decides_nothing_finds_the_same() -> None:
    for change in (
        {"architecture": ARCHITECTURE | {"num_classes": 3}},  # another class list
        {"augment": replace(STANDARD, preset="light", mixup=0.5)},
        # Stored pictures are not normalised yet: their form's mean says nothing.
        {"pixels": Form("crops", replace(PREPROCESS, mean=(0.5,) * 3))},
    ):
        assert replace(AUGMENTED, **change).name == AUGMENTED.name


def test_versions_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    before = EXACT.name
    monkeypatch.setattr(form_module.torch, "__version__", "9.9")
    assert replace(EXACT).name != before  # a form remembers its name
    monkeypatch.undo()
    monkeypatch.setattr(form_module, "version", lambda package: "9.9")
    assert replace(EXACT).name != before
    monkeypatch.undo()
    monkeypatch.setattr(pixel_form_module.PIL, "__version__", "99")
    pixels = Form("exact", PREPROCESS)
    assert replace(EXACT, pixels=pixels).name != before
    monkeypatch.undo()
    assert replace(EXACT).name == before


def test_a_form_tells_what_a_listing_shows() -> None:
    about = EXACT.describe()
    assert EXACT.name.startswith("features-16px-")
    assert (about["kind"], about["size"], about["channels"]) == ("features", 16, 3)
    assert (about["network"], about["boundary"]) == ("resnet18", "layer4")


class Odd(nn.Module):
    """Weights of every kind: norms with counters, half precision, a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.short = nn.Parameter(torch.arange(4.0).bfloat16())
        self.register_buffer("unsaved", torch.tensor(2.5), persistent=False)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def test_the_digest_of_weights_is_of_every_bit_of_every_tensor() -> None:
    torch.manual_seed(0)
    tensors = tensors_of(Odd())
    assert {"norm.num_batches_tracked", "short", "unsaved"} < set(tensors)
    digest = weights_digest(tensors)
    assert len(digest) == 64
    assert weights_digest(dict(reversed(tensors.items()))) == digest
    assert weights_digest({name: t.clone() for name, t in tensors.items()}) == digest
    conv = tensors["conv.weight"]
    laid = conv.detach().contiguous(memory_format=torch.channels_last)
    assert weights_digest(tensors | {"conv.weight": laid}) == digest  # another layout in memory

    others = [{k: v for k, v in tensors.items() if k != "short"}, tensors | {"b": torch.zeros(1)}]
    others.append({k.replace("short", "shorter"): v for k, v in tensors.items()})
    for name, tensor in tensors.items():
        raw = tensor.detach().clone().reshape(-1)
        raw.view(torch.uint8)[-1] ^= 1  # one bit
        others.append(tensors | {name: raw.view(tensor.shape)})
        others.append(tensors | {name: tensor.detach()[None]})
    others.append(tensors | {"short": tensors["short"].detach().view(torch.float16)})
    assert len({digest, *map(weights_digest, others)}) == len(others) + 1


def test_a_digest_does_not_change_from_version_to_version() -> None:
    """If this fails, all features that users have kept are computed again."""
    expected = "78de3259000dc050afd4148524f14b05750328f6df58b0010c0fd9b5e97fadbc"
    assert weights_digest({"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}) == expected


def test_size() -> None:
    assert size_of(10, 4, (5, 7, 7), "float32") == np.zeros((10, 4, 5, 7, 7), np.float32).nbytes
    assert size_of(10, 4, (), "float16") == 80


@pytest.mark.parametrize(
    ("form", "views"), [(EXACT, [0]), (AUGMENTED, [-1]), (AUGMENTED, [-1, 0]), (AUGMENTED, [1, 1])]
)
def test_exact_and_augmented_views_are_of_two_forms(form: FeatureForm, views: list[int]) -> None:
    with pytest.raises(AssertionError):
        check_views(form, views)
