"""A network in two parts computes, and learns, what the whole does, and stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fieldmark.errors import ModelError
from fieldmark.models import alexnet, vgg
from fieldmark.models.contract import Network, as_network
from fieldmark.models.cut import Cut, cut_network
from fieldmark.models.heads import parts_of
from fieldmark.models.registry import create_model
from fieldmark.training.freeze import freeze, train_mode

OWN: list[tuple[str, dict[str, Any], int]] = [
    ("alexnet_half", {"lrn": True}, 63),
    ("vgg11_bn", {"dropout": 0.3}, 32),
    ("resnet10", {}, 32),
    ("resnet50_keras2017", {}, 32),
    ("c3resnet18", {}, 32),
]
TIMM: list[tuple[str, dict[str, Any], int]] = [
    ("mobilenetv2_100", {"pad_type": "same", "drop_rate": 0.2}, 32),
    ("mobilenetv3_small_100", {"drop_rate": 0.2}, 32),
    ("efficientnet_b0", {"drop_rate": 0.2, "drop_path_rate": 0.2}, 32),
    ("convnext_atto", {"drop_path_rate": 0.1}, 32),
    ("vit_tiny_patch16_224", {"img_size": 32, "drop_rate": 0.1, "drop_path_rate": 0.1}, 32),
    ("timm/resnet26d", {"layers": [1, 1, 1, 1]}, 32),
    ("regnety_002", {}, 32),
    ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": [1, 1, 1, 1]}, 56),
    ("densenet121", {"block_config": [2, 2, 2, 2], "memory_efficient": False}, 32),
    ("levit_128s", {"img_size": 64}, 64),
]
NETWORKS = [
    *((*row, channels) for row in OWN for channels in (1, 3)),
    *((*row, 1 if i % 4 == 3 else 3) for i, row in enumerate(TIMM)),
]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Dense layers of 4096 units are most of VGG's and AlexNet's weights and no matter here, and
    networks this small wait for their threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "DENSE_WIDTH", 16)
        narrow = replace(alexnet.VARIANTS["alexnet_half"], dense_width=16)
        patch.setitem(alexnet.VARIANTS, "alexnet_half", narrow)
        yield
    torch.set_num_threads(before)


def build(name: str, options: dict[str, Any], channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, 4, in_channels=channels, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after a training
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def step(model: nn.Module, given: Tensor, stages_below: tuple[str, ...]) -> Tensor:
    """A step of plain gradient descent with the stages frozen; returns the logits."""
    freeze(as_network(model), stages_below)
    train_mode(model, as_network(model), stages_below)
    torch.manual_seed(5)
    logits_bk: Tensor = model(given)
    F.cross_entropy(logits_bk, torch.tensor([0, 3, 1, 1])).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    return logits_bk.detach()


def assert_close(one: Tensor, other: Tensor) -> None:
    scale = float(other.abs().max()) if other.numel() else 1.0
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale + 1e-7)


def boundaries(network: Network) -> range | tuple[int, ...]:
    """How many parts are below: each number; of many parts, or once more in grey, a few."""
    last = len(parts_of(network)) - 1
    return range(1, last + 1) if last <= 5 and network.in_channels > 1 else (1, last // 2, last)


@pytest.mark.parametrize(
    ("name", "options", "size_px", "channels"), NETWORKS, ids=[f"{r[0]}-{r[3]}" for r in NETWORKS]
)
def test_the_parts_compute_and_learn_what_the_whole_does(
    name: str, options: dict[str, Any], size_px: int, channels: int
) -> None:
    start = build(name, options, channels)
    network = as_network(start)
    images = torch.randn(4, channels, size_px, size_px)
    for num_below in boundaries(network):
        below = tuple(parts_of(network))[:num_below]
        model, whole = copy.deepcopy(start), copy.deepcopy(start)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        cut = cut_network(model, below, size_px)
        features = cut.lower(images)
        assert features.shape == (4, *cut.feature_shape)
        assert not features.requires_grad

        cut.upper.eval()
        with torch.no_grad():
            assert_close(cut.upper(features), whole.eval()(images))

        kept = features.clone()
        assert_close(step(cut.upper, features, below), step(whole, images, below))
        assert torch.equal(features, kept), "what is stored must not change"
        trained, expected = model.state_dict(), whole.state_dict()
        for key, tensor in trained.items():
            assert_close(tensor.double(), expected[key].double())
        # Frozen to the bit; and all that is above has moved.
        parts = parts_of(as_network(model))
        frozen = {
            id(t)
            for part in below
            for module in parts[part]
            for t in (*module.parameters(), *module.buffers())
        }
        prefix = "" if not hasattr(model, "net") else "net."
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for key, tensor in before.items():
            same = torch.equal(tensor, trained[key])
            assert same or id(named[prefix + key]) not in frozen
        moved = [p for p in model.parameters() if p.grad is not None]
        assert len(moved) == len([p for p in whole.parameters() if p.grad is not None]) > 0


def test_features_are_what_the_first_weights_above_are_given() -> None:
    """Pooling goes below; dropout stays above."""
    shapes = {
        ("resnet10", "layer4"): (512,),
        ("vgg11_bn", "block5"): (512 * 7 * 7,),
        ("mobilenetv2_100", "blocks.6"): (1280,),
        ("mobilenetv3_small_100", "blocks.5"): (576, 1, 1),  # then a convolution
        ("convnext_atto", "stages.3"): (320, 1, 1),  # then a norm
        ("regnety_002", "s4"): (368,),
        ("vit_tiny_patch16_224", "blocks.11"): (192,),  # of the class token
        ("vit_tiny_patch16_224", "blocks.3"): (5, 192),
    }
    px_of = {name: (options, px) for name, options, px in (*OWN, *TIMM)}
    for (name, last), shape in shapes.items():
        options, size_px = px_of[name]
        model = build(name, options)
        stages = as_network(model).stages
        cut = cut_network(model, stages[: stages.index(last) + 1], size_px)
        assert cut.feature_shape == shape, (name, last)


@pytest.mark.parametrize("name", ["resnet10", "mobilenetv3_small_100"])
def test_cutting_leaves_the_model_as_it_was(name: str) -> None:
    model = build(name, {}).train()
    network = as_network(model)
    third = network.stage_modules()[network.stages[2]][0].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    values = [dict(vars(module)) for module in model.modules()]
    torch.manual_seed(3)
    seeds = torch.get_rng_state()
    for num_below in (1, len(network.stages) - 1):
        cut = cut_network(model, network.stages[:num_below], 32)
        cut.upper(cut.lower(torch.randn(2, 3, 32, 32, generator=torch.Generator())))
    assert torch.equal(torch.get_rng_state(), seeds)
    assert [module.training for module in model.modules()] == modes
    assert not third.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for module, before in zip(model.modules(), values, strict=True):
        assert vars(module).keys() == before.keys(), "a replaced forward or the like was left"
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    model.eval()  # the two passes above have trained the upper norms
    fresh = build(name, {}).eval()
    cut = cut_network(fresh, network.stages[:1], 32)
    assert all(torch.equal(t, state[key]) for key, t in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options"), [("resnet10", {}), ("mobilenetv2_100", {"pad_type": "same"})]
)
def test_the_lower_part_evaluates_whatever_train_says(name: str, options: dict[str, Any]) -> None:
    model = build(name, options)
    cut = cut_network(model, as_network(model).stages[:-1], 32)
    images = torch.randn(4, 3, 32, 32)
    model.eval()
    expected = cut.lower(images)
    state = copy.deepcopy(model.state_dict())
    cut.lower.train()
    assert not any(module.training for module in model.modules())
    model.train()
    assert torch.equal(cut.lower(images), expected)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "num_below"), [("resnet10", 3), ("convnext_atto", 2), ("convnext_atto", 5)]
)
def test_a_copy_runs_its_own_weights(name: str, num_below: int) -> None:
    """As torch makes one to average weights in."""
    model = build(name, {}).eval()
    cut = cut_network(model, as_network(model).stages[:num_below], 32)
    features = cut.lower(torch.randn(2, 3, 32, 32))
    average = AveragedModel(cut.upper)
    with torch.no_grad():
        before = cut.upper(features)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert torch.equal(average(features), before)
        assert not torch.equal(cut.upper(features), before)
        average.update_parameters(cut.upper)
        average.module.network.load_state_dict(model.state_dict())
        assert torch.equal(average(features), cut.upper(features))
    loaded = copy.deepcopy(cut.upper)
    loaded.load_state_dict(cut.upper.state_dict())


def test_nothing_above_the_boundary_is_computed_for_features() -> None:
    for name, num_below in (("resnet10", 2), ("mobilenetv2_100", 4)):
        model = build(name, {})
        network = as_network(model)
        cut = cut_network(model, network.stages[:num_below], 32)
        for stage in network.stages[num_below:]:
            for module in network.stage_modules()[stage]:
                for layer in module.modules():
                    if isinstance(layer, nn.Conv2d | nn.Linear):
                        layer.register_forward_hook(fail)
        cut.lower(torch.randn(1, 3, 32, 32))


def test_nothing_below_the_boundary_is_computed_for_logits() -> None:
    for name, num_below in (("resnet10", 4), ("mobilenetv2_100", 4), ("convnext_atto", 5)):
        model = build(name, {})
        network = as_network(model)
        cut = cut_network(model, network.stages[:num_below], 32)
        features = cut.lower(torch.randn(2, 3, 32, 32))
        for stage in network.stages[:num_below]:
            for module in network.stage_modules()[stage]:
                for layer in module.modules():
                    if isinstance(layer, nn.Conv2d | nn.Linear):
                        layer.forward = fail
        cut.upper(features)


def fail(*_: object) -> None:
    raise AssertionError("this layer should not have run")


def test_the_upper_part_keeps_the_contract() -> None:
    model = build("mobilenetv2_100", {})
    network = as_network(model)
    upper = cut_network(model, network.stages[:-1], 32).upper
    assert isinstance(upper, Network)
    seen = as_network(upper)
    for word in Network.__annotations__:
        assert getattr(seen, word) == getattr(network, word), word
    seen.reset_classifier(7)
    assert network.num_classes == seen.num_classes == 7
    images = torch.randn(2, 3, 32, 32)
    upper.eval()
    assert torch.equal(seen.forward_head(seen.forward_features(images)), model(images))
    assert upper(torch.randn(2, 1280)).shape == (2, 7)


def test_a_boundary_is_known_again_by_its_description() -> None:
    def cut(num_below: int, name: str = "resnet10", classes: int = 4, **options: Any) -> Cut:
        model = create_model(name, classes, **options)
        return cut_network(model, as_network(model).stages[:num_below], 32)

    assert cut(5).boundary == cut(5, classes=9).boundary == cut(5, head_hidden=8).boundary
    different = [cut(5), cut(4), cut(5, pool_padding=0), cut(5, in_channels=1), cut(5, "resnet18")]
    assert len({one.boundary for one in different}) == len(different)


class Small(nn.Module):
    """Keeps the contract, and runs as its modules do, one after another."""

    name, num_classes, in_channels, min_size_px = "small", 4, 3, 1
    stages = ("stem", "middle", "head")
    first_convs, classifiers, architecture = ("stem",), ("head",), {}

    def __init__(self) -> None:
        super().__init__()
        self.stem: nn.Module = nn.Conv2d(3, 4, 1)
        self.middle: nn.Module = nn.Conv2d(4, 4, 1)
        self.pool, self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 4)

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        return {"stem": [self.stem], "middle": [self.middle], "head": [self.pool, self.head]}

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        features: Tensor = self.middle(self.stem(images_bchw))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        logits_bk: Tensor = self.head(self.pool(features))
        return logits_bk

    def forward(self, images_bchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_bchw))

    def reset_classifier(self, num_classes: int) -> None: ...


class TwoPaths(Small):
    """What comes out of the stem is used again."""

    name = "two-paths"

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        stem = self.stem(images_bchw)
        features: Tensor = stem + self.middle(stem)
        return features


class Drops(Small):
    """In training, what is below is never the same."""

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        return F.dropout(super().forward_features(images_bchw), 0.5, self.training)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("below", [("stem",), ("stem", "middle")])
def test_what_is_no_row_is_found_out_even_if_all_logits_are_equal(
    below: tuple[str, ...], zeros: bool
) -> None:
    model = TwoPaths().train()
    if zeros:
        nn.init.zeros_(model.head.weight)
    with pytest.raises(ModelError) as caught:
        cut_network(model, below, 8)
    text = str(caught.value)
    assert f"two-paths cannot be run in two parts above {below[-1]}" in text
    assert "given:  in evaluation mode its two parts do not compute what the whole does" in text
    assert "its frozen part is then run in every epoch" in text
    assert all(module.training for module in model.modules())


def test_what_is_random_below_is_found_out() -> None:
    with pytest.raises(ModelError, match="in training mode its two parts do not compute"):
        cut_network(Drops(), ("stem", "middle"), 8)


def test_more_than_one_tensor_at_the_boundary_is_said() -> None:
    model = build("pit_ti_224", {"img_size": 64})  # tokens go beside the map from stage to stage
    with pytest.raises(ModelError, match="more than one tensor passes there"):
        cut_network(model, as_network(model).stages[:2], 64)


class WritesIntoIt(nn.Conv2d):
    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.relu_())


def test_stored_features_are_spared_by_a_network_that_writes_into_them() -> None:
    model = Small()
    model.middle = WritesIntoIt(4, 4, 1)
    cut = cut_network(model, ("stem",), 8)
    images = torch.randn(5, 3, 8, 8)
    features = cut.lower(images)
    kept = features.clone()
    with torch.no_grad():
        assert_close(cut.upper(features), model(images))
    assert torch.equal(features, kept)


@pytest.mark.parametrize(
    "stages",
    [(), ("layer1",), ("stem", "layer2"), ("stem", "layer1", "layer2", "layer3", "layer4", "head")],
)
def test_stages_that_are_not_the_first_are_refused(stages: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="cannot be cut above these stages"):
        cut_network(create_model("resnet10", 2), stages, 32)
