"""Sizes of pictures: what fits is known before anything is trained, and said with sizes nearby."""

from __future__ import annotations

import pytest
import torch

from fieldmark.errors import ModelError
from fieldmark.models import timm_sizes
from fieldmark.models.registry import create_model
from fieldmark.models.timm_bridge import create_timm
from fieldmark.models.timm_sizes import check_admits, with_size


def fixed_size_px(name: str, **options: object) -> int | None:
    with torch.device("meta"):
        return create_timm(name, 2, **options).fixed_size_px


def test_networks_that_are_built_for_one_size_say_so() -> None:
    assert fixed_size_px("vit_tiny_patch16_224") == 224
    assert fixed_size_px("vit_tiny_patch16_224", img_size=96) == 96
    assert fixed_size_px("vit_tiny_patch16_224", img_size=[96, 96]) == 96
    assert fixed_size_px("vit_tiny_patch16_224", dynamic_img_size=True) is None
    assert fixed_size_px("mixer_s32_224") == 224
    assert fixed_size_px("convnext_atto") is None


@pytest.mark.parametrize(
    ("name", "size_px"),
    [
        ("vit_tiny_patch16_224", 128),
        ("swin_s3_tiny_224", 160),
        ("mixer_s32_224", 96),
        ("coatnet_nano_rw_224", 192),
        ("levit_128s", 160),
        ("deit_tiny_distilled_patch16_224", 32),
        ("xcit_nano_12_p16_224", 64),
    ],
)
def test_another_size_is_an_option_where_it_must_be(name: str, size_px: int) -> None:
    given = {"drop_path_rate": 0.1}
    options = with_size(name, given, size_px)
    assert options == {"drop_path_rate": 0.1, "img_size": size_px}
    assert given == {"drop_path_rate": 0.1}
    with torch.device("meta"):
        network = create_timm(name, 3, **options)
        assert network(torch.zeros(2, 3, size_px, size_px)).shape == (2, 3)
    assert network.fixed_size_px == network.min_size_px == size_px
    check_admits(network, size_px)
    assert with_size(name, options, size_px) == options
    assert with_size(name, {}, create_timm(name).fixed_size_px) == {}


def test_networks_that_take_any_size_are_left_alone() -> None:
    assert with_size("convnext_atto", {}, 160) == {}
    options = {"dynamic_img_size": True}
    assert with_size("vit_tiny_patch16_224", options, 160) == options


@pytest.mark.parametrize(
    ("name", "size_px", "phrases"),
    [
        # Its windows of 7 px at a quarter of the size, or its two scales, fit few sizes.
        ("crossvit_tiny_240", 100, ["does not admit pictures of 100 px", "nearby: 240 px"]),
        ("vit_tiny_patch16_224", 8, ["does not admit pictures of 8 px", "nearby: 16 px"]),
    ],
)
def test_a_size_that_no_option_makes_fit_is_answered_with_one_nearby(
    name: str, size_px: int, phrases: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        with_size(name, {}, size_px)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_torchs_own_words_for_a_size_become_ours() -> None:
    with torch.device("meta"):
        network = create_timm("vit_tiny_patch16_224", 2, dynamic_img_size=True)
        with pytest.raises(AssertionError):
            network(torch.zeros(1, 3, 100, 100))
    with pytest.raises(ModelError) as caught:
        check_admits(network, 100)
    message = str(caught.value)
    assert "vit_tiny_patch16_224 does not admit pictures of 100 px" in message
    assert "valid:  nearby: 96 or 112 px" in message  # patches of 16 px
    assert "do:     use --size 96" in message
    for size_px in (96, 112):
        check_admits(network, size_px)
    before = {key: value.clone() for key, value in create_model("resnet10", 2).state_dict().items()}
    assert before  # our own networks are checked in the same way
    check_admits(create_model("resnet10", 2), 33)
    with pytest.raises(ModelError, match="alexnet needs pictures of at least 63 px"):
        check_admits(create_model("alexnet", 2), 40)


def test_checking_leaves_the_network_alone() -> None:
    network = create_timm("timm/resnet18", 2, layers=[1, 1, 1, 1]).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    check_admits(network, 64)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_what_the_meta_device_cannot_do_is_tried_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = create_timm("timm/resnet18", 2, layers=[1, 1, 1, 1])
    forward = type(network.net).forward

    def needs_numbers(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:
            raise NotImplementedError("no numbers")
        if x.shape[-1] == 40:
            raise RuntimeError("does not fit")
        return forward(self, x)

    monkeypatch.setattr(type(network.net), "forward", needs_numbers)
    check_admits(network, 64)
    with pytest.raises(ModelError, match="does not admit pictures of 40 px") as caught:
        check_admits(network, 40)
    assert "nearby: 32 or 64 px" in str(caught.value)
    assert timm_sizes.STEP_PX == 32
