"""Networks by name: counts from the papers, options, what a checkpoint needs, and wrong words."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from fieldmark.errors import ModelError
from fieldmark.models import registry
from fieldmark.models.registry import check_options, create_model, list_models, model_card


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("alexnet", {}, 61_100_840),
        ("alexnet_half", {}, 16_630_440),
        ("alexnet_half", {"num_classes": 5}, 14_591_685),
        ("vgg16", {}, 138_357_544),
        ("resnet18", {}, 11_689_512),
        ("resnet18", {"num_classes": 10, "in_channels": 1}, 11_175_370),
        (
            "resnet18",
            {"num_classes": 10, "in_channels": 1, "conv_bias": True, "norm_shortcut": False},
            11_178_378,
        ),
        ("resnet50", {}, 25_557_032),
        ("resnet50", {"num_classes": 4}, 23_516_228),
        # Biases of 53 convolutions, 26_560 of them: Keras prints 25,636,712, which counts the
        # norms' running figures too, two a channel (53_120).
        ("resnet50_keras2017", {}, 25_583_592),
        ("resnet50_keras", {}, 25_583_592),
        # Where the stride and the padding sit changes no weight.
        (
            "resnet50",
            {"num_classes": 4, "stride_on_first_1x1": True, "pool_padding": 0},
            23_516_228,
        ),
    ],
)
def test_parameter_counts_are_those_published(
    name: str, arguments: dict[str, Any], expected: int
) -> None:
    with torch.device("meta"):
        assert count(create_model(name, **arguments)) == expected


def test_listing_the_networks_does_not_wait_for_torch_to_load_its_compiler() -> None:
    """Torch loads it (more than a second) to draw normal numbers on the meta device."""
    script = (
        "import sys\n"
        "from fieldmark.models.registry import list_models\n"
        "list_models()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_cards_tell_what_the_networks_are() -> None:
    cards = {card.name: card for card in list_models()}
    assert list(cards) == list(dict.fromkeys(cards))
    assert {card.family for card in cards.values()} == {"AlexNet", "VGG", "ResNet", "C3ResNet"}
    assert cards["vgg16"].num_parameters == 138_357_544
    assert cards["alexnet"].min_size_px == 63
    assert cards["vgg11"].min_size_px == 32
    assert cards["resnet152"].min_size_px == 1
    assert not cards["vgg16"].has_norm
    assert cards["vgg16_bn"].has_norm
    assert cards["resnet10"].has_norm
    assert (cards["resnet50"].year, cards["resnet50"].paper) == (2015, "arXiv:1512.03385")
    assert all(card.default_size_px >= card.min_size_px for card in cards.values())
    assert model_card("resnet34") is cards["resnet34"]
    layers = {"vgg11": 11, "vgg19_bn": 19, "resnet10": 10, "resnet34": 34, "resnet152": 152}
    for name, num_layers in layers.items():  # the number in a name counts the weight layers
        with torch.device("meta"):
            model = create_model(name)
        on_the_way = [
            layer_name
            for layer_name, layer in model.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear) and "downsample" not in layer_name
        ]
        assert len(on_the_way) == num_layers


def test_listing_the_networks_leaves_the_random_numbers_alone() -> None:
    registry._card.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list_models()
    assert torch.equal(torch.rand(3), expected)


def test_one_seed_gives_one_network() -> None:
    torch.manual_seed(1)
    first = create_model("resnet10", num_classes=3).state_dict()
    torch.manual_seed(1)
    second = create_model("resnet10", num_classes=3).state_dict()
    third = create_model("resnet10", num_classes=3).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"conv_bias": True, "stride_on_first_1x1": True, "pool_padding": 0}),
        ("resnet18", {"norm_shortcut": False}),
        ("resnet50_keras2017", {}),
        ("resnet50_keras", {"norm_eps": 0.002, "conv_bias": False}),
        ("c3resnet18", {}),
        ("alexnet_half", {"dropout": 0.25, "lrn": True}),
        ("vgg13_bn", {"dropout": 0}),
    ],
)
def test_architecture_survives_json_and_builds_the_same_again(
    name: str, options: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = create_model(name, 6, 2, **options)
        told = json.loads(json.dumps(model.architecture))
        again = create_model(
            told["name"], told["num_classes"], told["in_channels"], **told["options"]
        )
    assert str(again) == str(model)  # every layer with its settings
    assert again.architecture == model.architecture
    assert options.items() <= told["options"].items()


def test_dropout_is_what_was_asked() -> None:
    with torch.device("meta"):
        for name in ("alexnet", "vgg16"):
            for asked, expected in (({}, 0.5), ({"dropout": 0.2}, 0.2), ({"dropout": 0}, 0.0)):
                model = create_model(name, **asked)
                rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
                assert rates == [expected, expected]


def test_textbook_resnet_has_biases_and_bare_shortcuts() -> None:
    model = create_model("resnet18", 10, 1, conv_bias=True, norm_shortcut=False)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is not None and not conv.bias.any() for conv in convs)
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.0.bias"} == {
        key for key in model.state_dict() if key.startswith("layer2.0.downsample")
    }


def test_weights_start_as_the_docstrings_say() -> None:
    torch.manual_seed(0)
    resnet = create_model("resnet18")
    kernel = resnet.layer3[0].conv2.weight  # fan-out 256 * 9, rectified: variance 2 / fan-out
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.01)
    assert (resnet.bn1.weight == 1).all()
    vgg = create_model("vgg11", num_classes=10)
    kernel = vgg.features[16].weight  # 512 channels out
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert vgg.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not vgg.classifier[3].bias.any()
    vgg.reset_classifier(20)
    assert vgg.classifier[6].weight.std().item() == pytest.approx(0.01, rel=0.02)
    alexnet = create_model("alexnet_half", num_classes=10)
    bound = 1 / math.sqrt(2048)  # uniform within 1 / sqrt(fan-in)
    assert bound * 0.99 < alexnet.classifier[4].weight.abs().max().item() <= bound


@pytest.mark.parametrize(
    ("call", "phrases"),
    [
        ({"name": "resnet81"}, ["unknown model", "'resnet81'", "did you mean 'resnet18'?"]),
        ({"name": "VGG16"}, ["unknown model", "did you mean 'vgg16'?"]),
        ({"name": "xyz"}, ["unknown model", "alexnet", "vgg16", "resnet18"]),
        (
            {"name": "vgg16", "drop_out": 0.1},
            ["unknown option of vgg16", "valid:  dropout", "did you mean 'dropout'?"],
        ),
        (
            {"name": "resnet18", "depth": 3},
            ["conv_bias, norm_shortcut, stride_on_first_1x1, pool_padding, norm_eps"],
        ),
        (
            {"name": "c3resnet18", "norm_eps": 1e-3},
            ["c3resnet18 has no options", "'norm_eps'", "num_classes, in_channels", "leave it out"],
        ),
        ({"name": "resnet18", "classes": 3}, ["unknown option", "did you mean 'num_classes'?"]),
        ({"name": "resnet18", "channels": 1}, ["unknown option", "did you mean 'in_channels'?"]),
        ({"name": "vgg16", "dropout": "much"}, ["option dropout of vgg16", "'much'", "a number"]),
        ({"name": "vgg16", "dropout": True}, ["option dropout of vgg16", "a number"]),
        ({"name": "vgg16", "dropout": 1.0}, ["dropout is out of range", "1.0"]),
        ({"name": "alexnet", "dropout": float("nan")}, ["dropout is out of range", "nan"]),
        ({"name": "resnet18", "conv_bias": 1}, ["option conv_bias of resnet18", "true or false"]),
        ({"name": "resnet18", "pool_padding": 1.0}, ["option pool_padding", "a whole number"]),
        ({"name": "resnet18", "pool_padding": 2}, ["pool_padding", "2", "0, 1"]),
        ({"name": "resnet18", "norm_eps": 0}, ["norm_eps is out of range", "0.0", "above 0"]),
        ({"name": "resnet18", "norm_eps": -1e-5}, ["norm_eps is out of range", "-1e-05"]),
        ({"name": "resnet50_keras", "norm_eps": 1}, ["norm_eps is out of range", "1.0"]),
        ({"name": "resnet18", "norm_eps": float("nan")}, ["norm_eps is out of range", "nan"]),
        (
            {"name": "resnet50_keras2017", "norm_eps": "small"},
            ["option norm_eps of resnet50_keras2017", "'small'", "a number", "(norm_eps = 0.001)"],
        ),
        ({"name": "alexnet", "lrn": 1}, ["option lrn of alexnet", "true or false", "lrn = False"]),
        (
            {"name": "resnet18", "stride_on_first_1x1": True},
            ["resnet18 has no 1x1", "resnet50, resnet101, resnet152, resnet50_keras2017"],
        ),
        (
            {"name": "resnet18", "num_classes": 0},
            ["num_classes must be a whole number", "1 or more"],
        ),
        ({"name": "resnet18", "num_classes": 2.0}, ["num_classes must be a whole number", "2.0"]),
        ({"name": "resnet18", "num_classes": True}, ["num_classes must be a whole number", "True"]),
        ({"name": "vgg11", "in_channels": 0}, ["in_channels must be a whole number", "1 for grey"]),
        ({"name": "alexnet", "in_channels": "3"}, ["in_channels must be a whole number", "'3'"]),
    ],
)
def test_wrong_words_get_an_answer(call: dict[str, Any], phrases: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ModelError) as caught:
        create_model(**call)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_options_can_be_checked_without_building_anything() -> None:
    assert check_options("vgg16", {"dropout": 0}) == {"dropout": 0.0}
    assert check_options("resnet10", {})["pool_padding"] == 1
    # What create_model takes by itself is no option, wherever it comes from.
    with pytest.raises(ModelError, match="unknown option of resnet10"):
        check_options("resnet10", {"num_classes": 3})


def test_an_unknown_card_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown model"):
        model_card("resnet")
