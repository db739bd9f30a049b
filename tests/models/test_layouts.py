"""The networks written out here are the same functions under torchvision's and timm's names."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from fieldmark.errors import ModelError
from fieldmark.models.layouts import (
    VGG_DIFFERS_FROM_PX,
    from_timm,
    take_rgb,
    to_timm,
    to_torchvision,
)
from fieldmark.models.registry import create_model
from fieldmark.models.vgg import VARIANTS as VGGS
from support.references import built_by_timm, built_by_torchvision, random_state

NUM_CLASSES = 5


def on_meta(
    name: str, num_classes: int = NUM_CLASSES, in_channels: int = 3, **options: Any
) -> nn.Module:
    """Drawing the weights of a VGG takes seconds, and they are replaced anyway."""
    with torch.device("meta"):
        return create_model(name, num_classes, in_channels, **options)


def with_weights(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode with weights that keep a signal alive, the same every time."""
    model.load_state_dict(random_state(model), assign=True)
    return model.eval()


def architecture(model: nn.Module) -> dict[str, Any]:
    return model.architecture  # type: ignore[return-value]


def agree(ours: nn.Module, theirs: nn.Module, height: int = 64, width: int = 75) -> bool:
    channels = architecture(ours)["in_channels"]
    images = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, expected = ours(images), theirs(images)
    assert expected.std() > 0.01  # the comparison is about something
    return torch.allclose(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "resnet10", "resnet18", "resnet50"])
def test_torchvision_computes_the_same(name: str) -> None:
    ours = with_weights(on_meta(name))
    foreign = to_torchvision(architecture(ours), ours.state_dict())
    assert agree(ours, built_by_torchvision(foreign, NUM_CLASSES))


@pytest.mark.parametrize(("name", "channels"), [("resnet10", 3), ("resnet18", 1), ("resnet50", 3)])
def test_timm_computes_the_same_with_a_resnet(name: str, channels: int) -> None:
    ours = with_weights(on_meta(name, in_channels=channels))
    foreign = to_timm(architecture(ours), ours.state_dict(), 64)
    assert agree(ours, built_by_timm(foreign, NUM_CLASSES, in_channels=channels))


def test_timm_computes_the_same_with_a_vgg_until_its_map_grows_beyond_7_px() -> None:
    ours = with_weights(on_meta("vgg11"))
    foreign = to_timm(architecture(ours), ours.state_dict(), VGG_DIFFERS_FROM_PX - 1)
    theirs = built_by_timm(foreign, NUM_CLASSES)
    assert agree(ours, theirs, 40, 64)
    assert agree(ours, theirs, 40, VGG_DIFFERS_FROM_PX - 1)
    # What the refusal below is for.
    assert not agree(ours, theirs, 40, VGG_DIFFERS_FROM_PX)
    with pytest.raises(ModelError, match="answers otherwise") as caught:
        to_timm(architecture(ours), ours.state_dict(), VGG_DIFFERS_FROM_PX)
    assert "--to torchvision" in str(caught.value)
    again = from_timm("vgg11", foreign.tensors)
    assert list(again) == list(ours.state_dict())
    assert all(torch.equal(again[key], value) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", VGGS)
def test_every_vgg_has_timms_keys_and_shapes_and_comes_back(name: str) -> None:
    state = on_meta(name, num_classes=7).state_dict()
    foreign = to_timm(architecture(on_meta(name, num_classes=7)), state, 224)
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=7).state_dict()
    assert {k: v.shape for k, v in foreign.tensors.items()} == {
        k: v.shape for k, v in theirs.items()
    }
    for given_name in (name, f"timm/{name}.tv_in1k"):
        back = from_timm(given_name, theirs)
        assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}
    assert foreign.renamed["classifier.6"] == "head.fc"


def test_dropout_goes_with_the_network() -> None:
    vgg, alexnet = on_meta("vgg11", dropout=0.3), on_meta("alexnet", dropout=0.0)
    assert to_timm(architecture(vgg), vgg.state_dict()).arguments == {"drop_rate": 0.3}
    theirs = to_torchvision(architecture(alexnet), alexnet.state_dict())
    assert theirs.arguments == {"dropout": 0.0}
    plain = on_meta("vgg11")
    assert to_torchvision(architecture(plain), plain.state_dict()).arguments == {}
    in_timm = built_by_timm(to_timm(architecture(plain), plain.state_dict()), NUM_CLASSES)
    rates = [module.p for module in in_timm.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.5, 0.5]  # as ours; timm's own default is none


def test_keys_that_are_ours_already_stay() -> None:
    state = on_meta("resnet18").state_dict()
    for name in ("resnet18", "timm/resnet18.a1_in1k", "resnet18.tv_in1k", "vgg11"):
        assert from_timm(name, state) == state


def test_timms_own_networks_keep_their_name_keys_and_arguments() -> None:
    tensors = {"conv_stem.weight": torch.ones(2)}
    words = {"name": "timm/mobilenetv3_small_050.lamb_in1k", "options": {"drop_rate": 0.1}}
    foreign = to_timm(words, tensors, 96)
    assert (foreign.name, foreign.arguments) == ("mobilenetv3_small_050", {"drop_rate": 0.1})
    assert foreign.tensors == tensors
    with pytest.raises(ModelError, match="torchvision has no timm/mobilenetv3") as caught:
        to_torchvision(words, tensors)
    assert "take --to timm" in str(caught.value)


def test_alexnet_is_torchvisions_alone() -> None:
    alexnet = on_meta("alexnet")
    with pytest.raises(ModelError, match="timm has no alexnet") as caught:
        to_timm(architecture(alexnet), alexnet.state_dict())
    assert "take --to torchvision" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("alexnet_half", {}, "alexnet_half"),
        ("alexnet", {"lrn": True}, "lrn=True"),
        ("c3resnet18", {}, "c3resnet18"),
        ("resnet18", {"conv_bias": True, "norm_shortcut": False}, "conv_bias=True, norm_shortcut"),
        ("resnet50_keras2017", {}, "stride_on_first_1x1=True, pool_padding=0, norm_eps=0.001)"),
        ("resnet50_keras", {}, "norm_eps=1.001e-05"),
    ],
)
@pytest.mark.parametrize("convert", [to_torchvision, to_timm])
def test_what_neither_has_is_said(
    convert: Any, name: str, options: dict[str, Any], shown: str
) -> None:
    model = on_meta(name, **options)
    with pytest.raises(ModelError, match="neither torchvision nor timm") as caught:
        convert(architecture(model), model.state_dict())
    assert shown in str(caught.value)
    assert "needs no export" in str(caught.value)


@pytest.mark.parametrize("name", ["resnet10", "alexnet"])
def test_a_network_of_bgr_turned_round_takes_rgb(name: str) -> None:
    ours = with_weights(on_meta(name))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, unturned = ours(images.flip(1)), ours(images)
    before = dict(ours.state_dict())
    turned = take_rgb(before, ours.first_convs)  # type: ignore[arg-type]
    changed = [key for key in before if not torch.equal(turned[key], before[key])]
    assert changed == [f"{ours.first_convs[0]}.weight"]  # type: ignore[index]
    ours.load_state_dict(turned)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, unturned, atol=1e-3)


def test_without_a_first_convolution_nothing_is_turned_in_silence() -> None:
    with pytest.raises(ModelError, match="no first convolution that could be turned round"):
        take_rgb({"weight": torch.ones(1)}, ())
