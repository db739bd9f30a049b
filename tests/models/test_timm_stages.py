"""timm's networks in stages: complete, in order, by names to type; and frozen means frozen."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
from torch import nn

from fieldmark.models import timm_stages
from fieldmark.models.registry import create_model
from fieldmark.models.timm_bridge import TimmNetwork, create_timm
from fieldmark.models.timm_stages import Probe, cut, resolve
from fieldmark.models.timm_zoo import public_name, timm_names
from fieldmark.training.freeze import freeze, train_mode

LAYERS = tuple(f"layer{i}" for i in (1, 2, 3, 4))


def stages_in(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}.{i}" for i in range(count))


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("resnet26d", LAYERS),
        ("convnext_atto", stages_in("stages", 4)),
        ("vit_tiny_patch16_224", stages_in("blocks", 12)),
        ("deit_tiny_distilled_patch16_224", stages_in("blocks", 12)),
        ("swin_s3_tiny_224", stages_in("layers", 4)),
        ("efficientnet_b0", stages_in("blocks", 7)),
        ("mobilenetv2_100", stages_in("blocks", 7)),
        ("mobilenetv3_small_050", stages_in("blocks", 6)),
        ("regnetx_002", ("s1", "s2", "s3", "s4")),
        ("densenet121", tuple(f"features.denseblock{i}" for i in (1, 2, 3, 4))),
        ("mixer_s32_224", stages_in("blocks", 8)),
        ("coatnet_nano_rw_224", stages_in("stages", 4)),
        ("levit_128s", stages_in("stages", 3)),
        ("efficientformer_l1", stages_in("stages", 4)),
        ("repvgg_a0", stages_in("stages", 4)),
        ("cspresnet50", stages_in("stages", 4)),
        ("hrnet_w18_small", ("layer1", "stage2", "stage3", "stage4")),
        ("twins_svt_small", stages_in("blocks", 4)),
        ("vgg11", tuple(f"features.{i}" for i in (3, 6, 8, 11, 13, 16, 18))),  # convolutions
        ("pit_ti_224", stages_in("transformers", 3)),  # has no grouping of its own
        ("poolformer_s12", stages_in("stages", 4)),  # nor this one
        ("rdnet_tiny", stages_in("dense_stages", 7)),  # nor stages in its grouping
    ],
)
def test_stages_have_the_names_that_the_families_have(name: str, between: tuple[str, ...]) -> None:
    with torch.device("meta"):
        assert create_model(public_name(name)).stages == ("stem", *between, "head")


def assert_complete(model: TimmNetwork) -> None:
    staged = model.stage_modules()
    assert tuple(staged) == model.stages
    assert len(set(model.stages)) == len(model.stages) >= 3
    assert (model.stages[0], model.stages[-1]) == ("stem", "head")
    found = Counter(
        id(tensor)
        for modules in staged.values()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
    assert found == Counter(id(tensor) for tensor in (*model.parameters(), *model.buffers()))
    head = {id(p) for module in staged["head"] for p in module.parameters()}
    for layer in model.classifiers:
        assert {id(p) for p in model.net.get_submodule(layer).parameters()} <= head


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_names()[::25])
def test_every_weight_and_buffer_lies_in_exactly_one_stage(name: str) -> None:
    with torch.device("meta"):
        model = create_timm(name, 7)
        assert_complete(model)
        model.reset_classifier(3)
        assert_complete(model)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "visformer_tiny", "efficientvim_m1", "pit_ti_224"]
)
def test_weights_of_no_layer_have_a_stage_too(name: str) -> None:
    with torch.device("meta"):
        model = create_timm(name, 7)
        assert_complete(model)
    keys = list(model.state_dict())
    assert list(model.net.state_dict()) == keys  # asking for stages registers nothing
    loose = [
        module
        for modules in model.stage_modules().values()
        for module in modules
        if isinstance(module, nn.ParameterList)
    ]
    assert len(loose) == (3 if name == "visformer_tiny" else 1)  # positions in three stages


@pytest.mark.parametrize(
    ("name", "through"),
    [
        ("timm/resnet26d", "layer2"),
        ("efficientnet_b0", "blocks.3"),
        ("vit_tiny_patch16_224", "blocks.5"),
        ("levit_128s", "stages.0"),
        ("repvgg_a0", "stages.3"),  # all but the head
        ("pit_ti_224", "transformers.0"),
    ],
)
def test_frozen_means_frozen(name: str, through: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3)
    stages = model.stages[: model.stages.index(through) + 1]
    frozen = {
        id(tensor)
        for stage in stages
        for module in model.stage_modules()[stage]
        for tensor in (*module.parameters(), *module.buffers())
    }
    freeze(model, stages)
    train_mode(model, model, stages)
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in model.parameters() if not p.requires_grad} == {
        id(p) for p in model.parameters() if id(p) in frozen
    }

    images = torch.randn(2, 3, 224, 224)
    nn.functional.cross_entropy(model(images), torch.tensor([0, 2])).backward()
    torch.optim.SGD(trained, lr=0.1).step()

    after = {**dict(model.net.named_parameters()), **dict(model.net.named_buffers())}
    running = [key for key in after if key.endswith("running_mean")]
    assert all(torch.equal(after[k], before[k]) for k in before if id(after[k]) in frozen)
    moved = [k for k in running if not torch.equal(after[k], before[k])]
    assert set(moved) == {k for k in running if id(after[k]) not in frozen}
    for layer in model.classifiers:
        assert not torch.equal(after[f"{layer}.bias"], before[f"{layer}.bias"])


def test_the_head_is_what_runs_in_the_head_alone() -> None:
    """So that features may be computed once for a network that is frozen but for its head."""
    model = create_timm("mobilenetv3_small_050", 3).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(images)
        for module in model.stage_modules()["head"]:
            for parameter in module.parameters():
                parameter.normal_()
        assert torch.equal(model.forward_features(images), features)
        for stage in model.stages[:-1]:
            for module in model.stage_modules()[stage]:
                for parameter in module.parameters():
                    parameter.zero_()
        assert not torch.equal(model.forward_features(images), features)


def test_stages_follow_the_weights_to_another_device_or_type() -> None:
    model = create_timm("vit_tiny_patch16_224", 3, depth=1, img_size=32).double()
    assert_complete(model)
    loose = model.stage_modules()["stem"][0]
    assert isinstance(loose, nn.ParameterList)
    assert model.net.cls_token in set(loose)
    loose.requires_grad_(False)
    assert not model.net.cls_token.requires_grad


def test_without_a_pass_the_stages_are_still_complete() -> None:
    for name in ("resnet26d", "vit_tiny_patch16_224", "efficientnet_b0", "pit_ti_224"):
        with torch.device("meta"):
            net = timm.create_model(name)
        classifier = net.pretrained_cfg["classifier"]
        stages = cut(net, (classifier,), Probe())
        found = Counter(
            id(p) for stage in stages for module in resolve(net, stage) for p in module.parameters()
        )
        assert found == Counter(map(id, net.parameters()))
        head = {id(p) for module in resolve(net, stages[-1]) for p in module.parameters()}
        assert {id(p) for p in net.get_submodule(classifier).parameters()} <= head
        assert 3 <= len(stages) <= 14


def test_a_pass_that_fails_is_done_without() -> None:
    class Fails(nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    seen = timm_stages.probe(Fails(), 3, 8)
    assert isinstance(seen.failure, NotImplementedError)
    assert (seen.features, seen.head, seen.logits_shape) == ({}, {}, None)


def test_tensors_of_a_module_that_has_children_are_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(1))
            self.scale = nn.Parameter(torch.ones(1))
            rows = (nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.BatchNorm2d(4)))
            self.stages = nn.Sequential(*rows)
            self.head = nn.Linear(4, 2)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return self.stages(x * self.scale - self.mean)

        def forward_head(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mean((2, 3)))

    net = Net()
    keys = list(net.state_dict())
    seen = timm_stages.probe(net, 3, 8)
    assert (seen.logits_shape, seen.first_convs) == ((1, 2), ())  # it is given a scaled picture
    stages = cut(net, ("head",), seen)
    assert [stage.name for stage in stages] == ["stem", "stages.0", "stages.1", "head"]
    (loose,) = resolve(net, stages[0])
    assert [id(p) for p in loose.parameters()] == [id(net.scale)]
    assert [id(b) for b in loose.buffers()] == [id(net.mean)]
    assert list(net.state_dict()) == keys
