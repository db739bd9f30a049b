"""A hidden layer in place of the classifier, and linear heads written into it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fieldmark.checkpoint import ModelInfo, load_model, load_tensors, load_weights, save_model
from fieldmark.errors import CheckpointError, ModelError
from fieldmark.models.contract import Network, as_network
from fieldmark.models.heads import HiddenHead, check_exportable, hidden_head, set_classifier
from fieldmark.models.registry import check_options, create_model
from fieldmark.models.summary import summarize
from fieldmark.types import Preprocess

# One of each way to end, ours and timm's.
NAMES = (
    *("resnet10", "c3resnet18", "vgg11", "alexnet_half"),
    *("timm/resnet18", "mobilenetv2_035", "vit_tiny_patch16_224", "convnext_atto", "timm/vgg11"),
)
SMALL = ("resnet10", "mobilenetv2_035")


def on_meta(name: str, **options: Any) -> Network:
    with torch.device("meta"):
        return as_network(create_model(name, 3, **options))


def module(network: Network) -> nn.Module:
    assert isinstance(network, nn.Module)
    return network


def head_of(network: Network) -> HiddenHead:
    (found,) = (it for it in module(network).modules() if isinstance(it, HiddenHead))
    return found


def pictures(size_px: int = 64) -> Tensor:
    return torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(3))


def shapes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in head.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_becomes_two_layers_and_nothing_else_changes(name: str) -> None:
    plain, network = on_meta(name), on_meta(name, head_hidden=7, head_dropout=0.25)
    (old,) = plain.classifiers
    assert network.classifiers == (f"{old}.3",)
    assert hidden_head(network) == old
    assert hidden_head(plain) is None
    before, after = module(plain).state_dict(), module(network).state_dict()
    num_features = before[f"{old}.weight"].shape[1]
    assert [type(layer) for layer in head_of(network)] == [
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
    ]
    assert shapes(head_of(network)) == {
        "0.weight": (7, num_features),
        "0.bias": (7,),
        "3.weight": (3, 7),
        "3.bias": (3,),
    }
    assert head_of(network)[2].p == 0.25
    kept = {key: tuple(value.shape) for key, value in before.items() if f"{old}." not in key}
    assert kept == {k: tuple(v.shape) for k, v in after.items() if not k.startswith(f"{old}.")}


@pytest.mark.parametrize("name", NAMES)
def test_the_new_layers_are_in_the_head_stage(name: str) -> None:
    network = on_meta(name, head_hidden=7)
    stages = network.stage_modules()
    assert tuple(stages) == network.stages == on_meta(name).stages
    held = [set(torch.nn.ModuleList(modules).parameters()) for modules in stages.values()]
    assert set(head_of(network).parameters()) <= held[-1]
    assert sum(map(len, held)) == len(list(module(network).parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_keep_the_hidden_layer(name: str) -> None:
    network = on_meta(name, head_hidden=7)
    first = head_of(network)[0]
    network.reset_classifier(5)
    assert head_of(network)[0] is first
    assert shapes(head_of(network))["3.weight"] == (5, 7)
    assert network.num_classes == network.architecture["num_classes"] == 5
    again = on_meta(name, **network.architecture["options"])
    again.reset_classifier(5)
    assert shapes(module(again)) == shapes(module(network))


@pytest.mark.parametrize("name", SMALL)
def test_it_computes_what_its_layers_say(name: str) -> None:
    network = as_network(create_model(name, 3, head_hidden=6).eval())
    caught: list[Tensor] = []
    head = head_of(network)
    head.register_forward_hook(lambda _, inputs, output: caught.extend([inputs[0], output]))
    logits_bk = network(pictures())
    torch.testing.assert_close(caught[1], logits_bk)
    state = head.state_dict()
    hidden = (caught[0] @ state["0.weight"].T + state["0.bias"]).clamp(min=0)
    torch.testing.assert_close(logits_bk, hidden @ state["3.weight"].T + state["3.bias"])
    torch.testing.assert_close(
        network.forward_head(network.forward_features(pictures())), logits_bk
    )


@pytest.mark.parametrize("name", SMALL)
def test_options_say_it_only_where_it_is(name: str) -> None:
    words = {"head_hidden": 7, "head_dropout": 0.0}
    built = on_meta(name, head_hidden=7).architecture["options"]
    assert built.items() >= words.items()
    assert check_options(name, {"head_hidden": 7}) == built
    without = on_meta(name, head_hidden=0).architecture["options"]
    assert without == on_meta(name).architecture["options"]
    assert not without.keys() & words.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_model_file_rebuilds_it(name: str, tmp_path: Path) -> None:
    model = create_model(name, 3, head_hidden=6, head_dropout=0.5).eval()
    info = ModelInfo(
        architecture=as_network(model).architecture,
        class_names=("ant", "bee", "cat"),
        preprocess=Preprocess(64, 3, (0.5,) * 3, (0.25,) * 3, crop_fraction=1.0),
    )
    save_model(tmp_path / "model.safetensors", model, info)
    loaded, found = load_model(tmp_path / "model.safetensors")
    assert found.architecture == info.architecture
    assert torch.equal(loaded(pictures()), model(pictures()))


@pytest.mark.parametrize("name", SMALL)
def test_a_summary_has_a_row_for_each_layer(name: str) -> None:
    model = create_model(name, 3, head_hidden=6)
    (end,) = (hidden_head(as_network(model)),)
    rows = summarize(model, channels=3, size_px=64).rows[-4:]
    assert [row.name for row in rows] == [f"{end}.{i}" for i in range(4)]
    assert {row.stage for row in rows} == {"head"}
    assert rows[-1].num_parameters == 6 * 3 + 3


@pytest.mark.parametrize("name", SMALL)
def test_weights_with_a_plain_classifier_still_load(name: str) -> None:
    torch.manual_seed(0)
    tensors = create_model(name, 1000).state_dict()
    model = create_model(name, 3, head_hidden=6)
    network, drawn = as_network(model), copy.deepcopy(head_of(as_network(model)).state_dict())
    said = load_weights(model, tensors, "w.safetensors", None)
    assert said == "weights from w.safetensors; a new head with a hidden layer, for 3 classes"
    end = hidden_head(network)
    for key, value in model.state_dict().items():
        if not key.startswith(f"{end}."):
            assert torch.equal(value, tensors[key]), key
    assert all(torch.equal(v, drawn[k]) for k, v in head_of(network).state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_weights_with_a_hidden_layer_load_into_either(name: str) -> None:
    tensors = create_model(name, 5, head_hidden=6).state_dict()
    same = create_model(name, 3, head_hidden=6)
    said = load_weights(same, tensors, "w", None)
    assert said == "weights from w; a new classifier, for 3 classes instead of 5"
    end = hidden_head(as_network(same))
    assert torch.equal(same.state_dict()[f"{end}.0.weight"], tensors[f"{end}.0.weight"])
    plain = create_model(name, 3)
    assert load_weights(plain, tensors, "w", None).endswith(
        "a new head without a hidden layer, for 3 classes"
    )
    with pytest.raises(CheckpointError, match="made for another network"):
        load_weights(create_model(name, 3, head_hidden=8), tensors, "w", None)


def test_a_backbone_alone_and_one_that_is_not_whole() -> None:
    tensors = create_model("resnet10", 5).state_dict()
    bare = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    model = create_model("resnet10", 3, head_hidden=6)
    assert "a new head with a hidden layer" in load_weights(model, bare, "w", None)
    del tensors["conv1.weight"]
    with pytest.raises(CheckpointError, match=r"conv1\.weight"):
        load_weights(model, tensors, "w", None)


def test_imagenet_weights_load_below_a_hidden_layer(shared_data: Path) -> None:
    tensors = load_tensors(shared_data.parent / "data/weights/mobilenetv2_100_imagenet.safetensors")
    model = create_model("mobilenetv2_100", 2, pad_type="same", head_hidden=512)
    assert "a new head with a hidden layer" in load_weights(model, tensors, "w", None)
    assert torch.equal(model.state_dict()["conv_head.weight"], tensors["conv_head.weight"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head_hidden": -1}, ("head_hidden", "whole number", "-1")),
        ({"head_hidden": 2.5}, ("head_hidden", "whole number", "2.5")),
        ({"head_hidden": True}, ("head_hidden", "whole number", "True")),
        ({"head_hidden": 8, "head_dropout": 1.0}, ("dropout is out of range", "1.0")),
        ({"head_hidden": 8, "head_dropout": "no"}, ("head_dropout", "a number", "'no'")),
        ({"head_dropout": 0.5}, ("there is none", "head_hidden=512")),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_wrong_words_are_said(name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        on_meta(name, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [("deit_tiny_distilled_patch16_224", "2 of them"), ("timm/dla34", "fc, a Conv2d")],
)
def test_networks_that_end_otherwise_say_so(name: str, found: str) -> None:
    with pytest.raises(ModelError, match="does not end in one linear layer") as caught:
        on_meta(name, head_hidden=8)
    assert found in str(caught.value)


def test_a_typing_error_finds_the_option() -> None:
    with pytest.raises(ModelError, match="'head_hidden'"):
        on_meta("resnet10", head_hiden=8)


@pytest.mark.parametrize("name", [*SMALL, "timm/dla34"])
def test_a_linear_head_is_the_classifier(name: str) -> None:
    model = create_model(name, 3).eval()
    network = as_network(model)
    body = model if name == "resnet10" else model.net
    layer = body.get_submodule(network.classifiers[0])
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    caught: list[Tensor] = []
    layer.register_forward_hook(lambda _, inputs, __: caught.append(inputs[0].flatten(1)))
    weight_kd, bias_k = torch.randn(3, layer.weight.shape[1]), torch.randn(3)
    set_classifier(network, weight_kd, bias_k)
    with torch.no_grad():
        logits_bk = model(pictures())
    torch.testing.assert_close(logits_bk, caught[0] @ weight_kd.T + bias_k, atol=1e-3, rtol=1e-4)
    assert layer.weight.requires_grad


def test_a_linear_head_that_does_not_fit_is_refused() -> None:
    network = as_network(create_model("resnet10", 3))
    with pytest.raises(ModelError, match="does not fit") as caught:
        set_classifier(network, torch.zeros(2, 512), torch.zeros(2))
    assert "weights (2, 512), biases (2,)" in str(caught.value)
    assert "weights (3, 512), biases (3,)" in str(caught.value)
    hidden = as_network(create_model("resnet10", 3, head_hidden=8))
    with pytest.raises(ModelError, match="has its hidden layer before it"):
        set_classifier(hidden, torch.zeros(3, 512), torch.zeros(3))
    set_classifier(hidden, torch.ones(3, 8), torch.zeros(3))
    assert (head_of(hidden)[3].weight == 1).all()
    with pytest.raises(ModelError, match="2 of them"):
        set_classifier(
            on_meta("deit_tiny_distilled_patch16_224"), torch.zeros(3, 192), torch.zeros(3)
        )


def test_libraries_that_cannot_build_it_are_named() -> None:
    network = on_meta("resnet10", head_hidden=8)
    with pytest.raises(ModelError, match="torchvision has no resnet10 with a hidden layer"):
        check_exportable(network.architecture, "torchvision")
    check_exportable(on_meta("resnet10").architecture, "torchvision")
    check_exportable({"name": "resnet18", "options": {}}, "timm")
