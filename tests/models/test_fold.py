"""The fastest form gives the same features, and the network it was made of does not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fieldmark.models.contract import as_network
from fieldmark.models.cut import cut_network
from fieldmark.models.fold import LIMIT, difference_of, inference_form, watch
from fieldmark.models.registry import create_model

# Name, options, px, and how many of its batch norms follow a convolution.
NETWORKS: list[tuple[str, dict[str, Any], int, int]] = [
    ("resnet10", {}, 32, 12),
    ("resnet10", {"conv_bias": True}, 32, 12),
    ("c3resnet18", {}, 32, 33),
    ("mobilenetv2_100", {"pad_type": "same"}, 32, 52),
    ("mobilenetv3_small_100", {}, 32, 34),
    ("densenet121", {"block_config": [2, 2, 2, 2]}, 32, 9),  # others are given what was joined
    ("convnext_atto", {}, 32, 0),  # layer norms
    ("alexnet_half", {}, 63, 0),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(model: nn.Module) -> nn.Module:
    """With norms that are not the identity they start as."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.mark.parametrize(
    ("name", "options", "size_px", "num_norms"), NETWORKS, ids=[r[0] for r in NETWORKS]
)
def test_folded_networks_give_the_same_features(
    name: str, options: dict[str, Any], size_px: int, num_norms: int
) -> None:
    model = trained(create_model(name, 3, **options)).train()
    network = as_network(model)
    lower = cut_network(model, network.stages[:-1], size_px).lower
    state = copy.deepcopy(model.state_dict())
    layouts = [p.stride() for p in model.parameters()]
    example, others = torch.randn(2, 2, 3, size_px, size_px)
    form = inference_form(lower, example)

    assert form.num_folded == num_norms
    assert form.difference <= LIMIT
    features = form(others)
    assert difference_of(features, lower(others)) <= LIMIT
    assert features.is_contiguous()
    assert not features.requires_grad

    form.train()
    assert torch.equal(form(others), features)
    # The original: its weights, their layout, its modes; and no number of its that runs is shared.
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert [p.stride() for p in model.parameters()] == layouts
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(form(others), features)


class Net(nn.Module):
    """A convolution and a norm, and what a test makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, images_bchw: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(images_bchw))
        return normed


class UsedTwice(Net):
    def forward(self, images_bchw: Tensor) -> Tensor:
        out = self.conv(images_bchw)
        normed: Tensor = self.norm(out) + F.relu(out)
        return normed


class Returned(Net):
    def forward(self, images_bchw: Tensor) -> Tensor:
        out: Tensor = self.conv(images_bchw)
        self.norm(out)
        return out


class ChangedBetween(Net):
    def forward(self, images_bchw: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(images_bchw).relu_())
        return normed


class RunsTwice(Net):
    def forward(self, images_bchw: Tensor) -> Tensor:
        first: Tensor = self.norm(self.conv(images_bchw))
        return first + self.conv(images_bchw / 2)


class SharedWeight(Net):
    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Conv2d(3, 4, 3, padding=1)
        self.twin.weight = self.conv.weight

    def forward(self, images_bchw: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(images_bchw)) + self.twin(images_bchw)
        return normed


class WithoutStatistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class Standardized(nn.Conv2d):
    """Changes its weights before it uses them, as in networks by the name of BiT."""

    def forward(self, images_bchw: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(images_bchw, weight, self.bias, padding=1)


class OtherConvolution(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Standardized(3, 4, 3, padding=1)


def test_a_norm_right_after_its_convolution_is_folded() -> None:
    form = inference_form(trained(Net()).eval(), torch.randn(2, 3, 8, 8))
    assert form.num_folded == 1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in form.modules())


@pytest.mark.parametrize(
    "kind",
    [
        UsedTwice,
        Returned,
        ChangedBetween,
        RunsTwice,
        SharedWeight,
        WithoutStatistics,
        OtherConvolution,
    ],
)
def test_what_would_change_the_features_is_not_folded(kind: type[Net]) -> None:
    net = trained_but_for_statistics(kind())
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = net(images)
        assert watch(net, lambda: net(images)).pairs == []
    form = inference_form(net, images)
    assert form.num_folded == 0
    assert difference_of(form(images), expected) <= LIMIT


def trained_but_for_statistics(net: Net) -> Net:
    if net.norm.track_running_stats:
        trained(net)
    return net.eval()


class Rough(Net):
    """Cuts its features into steps: the last digit of a convolution decides on all of them."""

    def forward(self, images_bchw: Tensor) -> Tensor:
        return (super().forward(images_bchw) * 1e12).sin()


def test_a_form_that_differs_is_not_taken() -> None:
    """What is left is the network as it is, to the bit."""
    net = trained(Rough()).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = net(images)
    form = inference_form(net, images)
    assert form.num_folded == 0
    assert difference_of(form(images), expected) <= LIMIT


def test_differences_are_shares_of_the_largest_value() -> None:
    ones, zeros = torch.ones(2, 3), torch.zeros(2, 3)
    assert difference_of(ones * 0.5, ones) == 0.5
    assert difference_of(ones, ones) == difference_of(zeros, zeros) == 0
    assert difference_of(ones, zeros) == float("inf")
    assert difference_of(ones[0], ones) == float("inf")
    for one, other in ((ones.log().sub(1).log(), ones), (ones, ones * float("nan"))):
        assert not difference_of(one, other) <= LIMIT
