"""Keras' two ResNet-50s: options filled in, and kept. That the numbers are Keras' is in parity."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from fieldmark.models import resnet
from fieldmark.models.registry import check_options, create_model

OPTIONS = {
    "resnet50_keras2017": {
        "conv_bias": True,
        "norm_shortcut": True,
        "stride_on_first_1x1": True,
        "pool_padding": 0,
        "norm_eps": 1e-3,
    },
    "resnet50_keras": {
        "conv_bias": True,
        "norm_shortcut": True,
        "stride_on_first_1x1": True,
        "pool_padding": 1,
        "norm_eps": 1.001e-5,
    },
}


def meta_model(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def norm_eps_of(model: nn.Module) -> set[float]:
    return {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_are_filled_in_and_what_is_given_comes_on_top(name: str) -> None:
    assert check_options(name, {}) == OPTIONS[name]
    model = meta_model(name)
    assert model.architecture["options"] == OPTIONS[name]
    assert norm_eps_of(model) == {OPTIONS[name]["norm_eps"]}
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 53
    assert all(conv.bias is not None for conv in convs)

    own = {"conv_bias": False, "stride_on_first_1x1": False, "pool_padding": 1, "norm_eps": 0.25}
    changed = meta_model(name, **own)
    assert changed.architecture["options"] == {"norm_shortcut": True, **own}
    assert norm_eps_of(changed) == {0.25}
    usual = meta_model("resnet50", norm_eps=0.25)
    assert str(changed) == str(usual)  # every layer with its settings


@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_file_outlives_a_change_of_the_variants(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = meta_model(name)
    told = json.loads(json.dumps(model.architecture))
    plain = dataclasses.replace(resnet.VARIANTS[name], options={})
    monkeypatch.setitem(resnet.VARIANTS, name, plain)
    assert str(meta_model(name)) != str(model)
    assert str(meta_model(name, **told["options"])) == str(model)


def test_resnet50_itself_is_left_as_it_was() -> None:
    assert norm_eps_of(meta_model("resnet50")) == {1e-5}
    assert check_options("resnet50", {})["conv_bias"] is False


@pytest.mark.parametrize(
    ("name", "pooled_px"), [("resnet50_keras2017", 55), ("resnet50_keras", 56)]
)
def test_they_halve_in_the_first_1x1_and_pool_as_keras_does(name: str, pooled_px: int) -> None:
    model, usual = meta_model(name), meta_model("resnet50")
    x = torch.zeros(1, 3, 224, 224, device="meta")
    sizes = []
    for stage, modules in model.stage_modules().items():
        for module in modules:
            x = module(x)
        if stage != "head":
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [
        (64, pooled_px, pooled_px),
        (256, pooled_px, pooled_px),
        (512, 28, 28),  # both 55 and 56 px give 28, 14 and 7
        (1024, 14, 14),
        (2048, 7, 7),
    ]
    for stage in ("layer2", "layer3", "layer4"):
        theirs, ours = getattr(usual, stage)[0], getattr(model, stage)[0]
        assert (ours.conv1.stride, ours.conv2.stride) == ((2, 2), (1, 1))
        assert (theirs.conv1.stride, theirs.conv2.stride) == ((1, 1), (2, 2))


def test_norm_eps_is_what_divides() -> None:
    """Batch norm by hand: (x - mean) / sqrt(var + eps), the biased variance over batch and map."""
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=2, norm_eps=0.5).train()
    x = torch.randn(3, 64, 5, 5)
    variance_c11, mean_c11 = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    expected = (x - mean_c11) / torch.sqrt(variance_c11 + 0.5)
    torch.testing.assert_close(model.bn1(x), expected)
