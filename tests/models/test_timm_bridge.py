"""timm's networks keep Fieldmark's contract, stay timm's own inside, and answer wrong words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fieldmark.checkpoint import ModelInfo, load_model, save_model
from fieldmark.errors import ModelError
from fieldmark.models.contract import Network, as_network
from fieldmark.models.registry import check_options, create_model
from fieldmark.models.resnet import ResNet
from fieldmark.models.timm_bridge import TimmNetwork, create_timm, fit_timm_tensors
from fieldmark.models.timm_sizes import with_size
from fieldmark.types import Preprocess

# A small member of many families, at the smallest size that is quick: name, options, px.
FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    ("convnext_atto", {}, 64),
    ("vit_tiny_patch16_224", {"img_size": 64}, 64),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64}, 64),
    ("swin_s3_tiny_224", {"img_size": 112}, 112),
    ("efficientnet_b0", {}, 64),
    ("mobilenetv2_050", {"pad_type": "same"}, 64),
    ("mobilenetv3_small_050", {}, 64),
    ("regnetx_002", {}, 64),
    ("densenet121", {}, 64),
    ("timm/resnet26d", {"layers": [1, 1, 1, 1]}, 64),
    ("mixer_s32_224", {"img_size": 64}, 64),
    ("coatnet_nano_rw_224", {"img_size": 64}, 64),
    ("levit_128s", {"img_size": 64}, 64),
    ("efficientformer_l1", {}, 224),
    ("repvgg_a0", {}, 64),
    ("cspresnet50", {}, 64),
    ("pit_ti_224", {"img_size": 64}, 64),
    ("crossvit_tiny_240", {}, 240),
]


@pytest.mark.parametrize(("name", "options", "size_px"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_every_family_keeps_the_contract_and_stays_timms_own(
    name: str, options: dict[str, Any], size_px: int
) -> None:
    torch.manual_seed(0)
    model = create_model(name, 5, **options).eval()
    network = as_network(model)
    assert isinstance(network, Network)
    assert isinstance(model, TimmNetwork)
    assert network.name == name.removeprefix("timm/")
    assert (network.num_classes, network.in_channels) == (5, 3)
    assert (network.stages[0], network.stages[-1]) == ("stem", "head")
    assert list(network.stage_modules()) == list(network.stages)

    plain = timm.create_model(network.name, num_classes=5, **options).eval()
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    images = torch.randn(2, 3, size_px, size_px)
    with torch.no_grad():
        logits_bk = model(images)
        in_two_steps = network.forward_head(network.forward_features(images))
        assert logits_bk.shape == (2, 5)
        assert torch.equal(logits_bk, plain(images))
        assert torch.equal(logits_bk, in_two_steps)

    assert all(state[f"{layer}.weight"].shape[1] == 3 for layer in network.first_convs)
    assert all(state[f"{layer}.weight"].shape[0] == 5 for layer in network.classifiers)
    assert network.first_convs
    distilled = ("deit", "levit", "efficientformer", "crossvit")  # two outputs that are averaged
    assert len(network.classifiers) == (2 if name.startswith(distilled) else 1)


def test_our_own_names_win_and_timms_can_be_asked_for() -> None:
    with torch.device("meta"):
        assert isinstance(create_model("resnet18"), ResNet)
        timms = create_model("timm/resnet18")
    assert isinstance(timms, TimmNetwork)
    assert timms.name == "timm/resnet18"
    assert type(timms.net).__module__ == "timm.models.resnet"


def test_our_own_networks_do_not_wait_for_timm() -> None:
    script = (
        "import sys\n"
        "from fieldmark.models.registry import create_model, list_models\n"
        "create_model('resnet10'), list_models()\n"
        "assert 'timm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 96, "drop_path_rate": 0.1}),
        ("convnext_tiny.in12k_ft_in1k", {}),
        ("timm/resnet18", {"layers": (1, 1, 1, 1)}),
        ("mobilenetv2_100", {"pad_type": "same"}),
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
    assert told["name"] == name
    assert str(again) == str(model)  # every layer with its settings
    assert again.architecture == model.architecture == told
    assert check_options(name, options) == told["options"]


def test_a_saved_model_opens_with_plain_timm_in_two_lines(tmp_path: Path) -> None:
    model = create_model("resnet26d", 3, layers=[1, 1, 1, 1]).eval()
    preprocess = Preprocess(64, 3, (0.5,) * 3, (0.5,) * 3)
    info = ModelInfo(model.architecture, ("ant", "bee", "cat"), preprocess)
    save_model(tmp_path / "model.safetensors", model, info)

    plain = timm.create_model("resnet26d", num_classes=3, layers=[1, 1, 1, 1]).eval()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))

    images = torch.randn(2, 3, 64, 64)
    ours, _ = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(plain(images), model(images))
        assert torch.equal(plain(images), ours(images))


def test_modules_around_a_network_load_what_they_saved() -> None:
    average = AveragedModel(create_model("mobilenetv2_050", 3))
    saved = average.state_dict()
    assert "module.conv_stem.weight" in saved  # timm's own name, without "net."
    other = AveragedModel(create_model("mobilenetv2_050", 3))
    other.load_state_dict(saved)
    assert torch.equal(other.module.net.conv_stem.weight, average.module.net.conv_stem.weight)
    del saved["module.conv_stem.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*conv_stem"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("name", ["resnet26d", "convnext_atto", "efficientnet_b0"])
def test_a_new_classifier_is_fresh_and_keeps_pooling_device_and_mode(name: str, pool: str) -> None:
    model = create_model(name, 3, global_pool=pool).double().eval()
    weight = f"{model.classifiers[0]}.weight"
    before = model.state_dict()
    kept = {key: value.clone() for key, value in before.items()}
    model.reset_classifier(7)
    after = model.state_dict()
    assert (model.num_classes, model.architecture["num_classes"]) == (7, 7)
    assert after[weight].shape[0] == 7
    assert after[weight].dtype == torch.float64
    assert not any(module.training for module in model.modules())
    head = {f"{model.classifiers[0]}.{part}" for part in ("weight", "bias")}
    assert all(torch.equal(after[key], kept[key]) for key in after if key not in head)
    # A bright spot: its maximum is far above its mean.
    images = torch.zeros(1, 3, 96, 96, dtype=torch.float64)
    images[..., 40:44, 40:44] = 5
    plain = timm.create_model(name, num_classes=7, global_pool=pool).double().eval()
    plain.load_state_dict(after)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
    with pytest.raises(ModelError, match="num_classes must be a whole number"):
        model.reset_classifier(0)


def test_both_classifiers_of_a_distilled_network_are_replaced() -> None:
    with torch.device("meta"):
        for name in ("repvit_m0_9", "levit_128s", "deit_tiny_distilled_patch16_224"):
            model, other = create_model(name, 3), create_model(name, 7)
            model.reset_classifier(7)
            shapes = {key: value.shape for key, value in model.state_dict().items()}
            assert shapes == {key: value.shape for key, value in other.state_dict().items()}
            assert len(model.classifiers) == 2


def test_other_channels_than_three() -> None:
    with torch.device("meta"):
        for name in ("convnext_atto", "vit_tiny_patch16_224", "timm/resnet26d"):
            model = create_model(name, 4, 1)
            size_px = model.default_size_px
            assert model(torch.zeros(2, 1, size_px, size_px)).shape == (2, 4)
            assert model.state_dict()[f"{model.first_convs[0]}.weight"].shape[1] == 1


@pytest.mark.parametrize(
    ("call", "phrases"),
    [
        (
            {"name": "convnext_tny"},
            ["unknown model", "'convnext_tny'", "resnet18, ", "did you mean 'convnext_tiny'?"],
        ),
        (
            {"name": "xyz"},
            ["alexnet, ", "and timm's: `fieldmark models --filter WORD`", "take one of the valid"],
        ),
        ({"name": "timm/nonsense"}, ["unknown model", "'timm/nonsense'", "fieldmark models"]),
        ({"name": "timm/resnet1"}, ["did you mean 'timm/resnet18'?"]),
        ({"name": "resnet1"}, ["did you mean 'resnet1"]),
        # timm knows these names still, and gives something else with a warning.
        ({"name": "vit_base_patch16_224_in21k"}, ["unknown model", "did you mean 'vit_base_"]),
        (
            {"name": "convnext_tiny.in1k"},
            ["unknown weights tag of timm's convnext_tiny", "fb_in1k", "did you mean"],
        ),
        ({"name": "gemma4_vit_167m_enc"}, ["unknown model"]),
        (
            {"name": "vit_tiny_patch16_224", "image_size": 128},
            [
                "unknown option of vit_tiny_patch16_224",
                "did you mean 'img_size'?",
                "drop_path_rate",
            ],
        ),
        (
            {"name": "timm/resnet18", "classes": 3},
            ["unknown option of timm/resnet18", "did you mean 'num_classes'?"],
        ),
        ({"name": "timm/resnet18", "pretrained": True}, ["unknown option", "'pretrained'"]),
        ({"name": "timm/resnet18", "features_only": True}, ["unknown option", "'features_only'"]),
        (
            {"name": "vit_tiny_patch16_224", "img_size": "large"},
            ["timm cannot build vit_tiny_patch16_224 like this", "img_size='large'", "leave out"],
        ),
        ({"name": "timm/resnet18", "layers": [1]}, ["timm cannot build timm/resnet18", "[1]"]),
        ({"name": "convnext_atto", "drop_rate": 7}, ["timm cannot build convnext_atto", "7"]),
        (
            {"name": "convnext_atto", "act_layer": nn.ReLU},
            ["option act_layer of convnext_atto must be a plain value", "act_layer='silu'"],
        ),
        (
            {"name": "timm/resnet18", "global_pool": ""},
            ["does not give one number for each class", "given:  global_pool=''", "leave out"],
        ),
        (
            {"name": "convnext_atto", "global_pool": "", "num_classes": 3},
            ["does not give one number for each class", "224 px gave: "],
        ),
        ({"name": "convnext_atto", "num_classes": 0}, ["num_classes must be a whole number"]),
        ({"name": "convnext_atto", "in_channels": True}, ["in_channels must be a whole number"]),
    ],
)
def test_wrong_words_get_an_answer(call: dict[str, Any], phrases: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ModelError) as caught:
        create_model(**call)
    for phrase in phrases:
        assert phrase in str(caught.value)
    assert len(str(caught.value)) < 1500  # not 1371 names


@pytest.mark.parametrize(
    ("word", "value", "instead"),
    [
        ("num_classes", 5, "an output for each class"),
        ("in_channels", 1, "--set data.channels=1 or 3"),
        ("name", "resnet26", "--model"),
    ],
)
@pytest.mark.parametrize("ask", [check_options, lambda name, options: with_size(name, options, 64)])
def test_what_a_recipe_says_elsewhere_is_no_option(
    ask: Any, word: str, value: object, instead: str
) -> None:
    with pytest.raises(ModelError, match=f"{word} is no option of a network") as caught:
        ask("test_resnet", {word: value})
    assert f"given:  {word}={value!r} among the options of test_resnet" in str(caught.value)
    assert instead in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "phrases"),
    [
        ((3, 224, 224), torch.float32, ["takes a batch of pictures", "image[None]"]),
        ((1, 1, 224, 224), torch.float32, ["3 channels", "1 channels"]),
        ((1, 3, 224, 224), torch.uint8, ["floating-point"]),
        ((1, 3, 192, 224), torch.float32, ["pictures of 224 px and no others", "192 px high"]),
    ],
)
def test_pictures_that_do_not_fit_are_told(
    shape: tuple[int, ...], dtype: torch.dtype, phrases: list[str]
) -> None:
    with torch.device("meta"):
        model = create_timm("vit_tiny_patch16_224")
        images = torch.zeros(shape, dtype=dtype)
    for call in (model, model.forward_features):
        with pytest.raises(ModelError) as caught:
            call(images)
        for phrase in phrases:
            assert phrase in str(caught.value)


def test_position_embeddings_are_resized_as_timm_itself_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2).state_dict()
    published["pos_embed"] = torch.randn_like(published["pos_embed"])
    save_file(published, tmp_path / "weights.safetensors")
    options = {"img_size": 128, "depth": 2}
    by_timm = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=True,
        num_classes=5,
        pretrained_cfg_overlay={
            "file": str(tmp_path / "weights.safetensors"),
            "num_classes": 5,
            "custom_load": False,
        },
        **options,
    ).state_dict()

    fitted = fit_timm_tensors(create_timm("vit_tiny_patch16_224", 5, **options), published)

    assert fitted["pos_embed"].shape == (1, 1 + 8 * 8, 192)
    assert published["pos_embed"].shape == (1, 1 + 14 * 14, 192)
    assert fitted.keys() == by_timm.keys()
    assert all(torch.equal(fitted[key], by_timm[key]) for key in by_timm)


def test_old_layouts_are_renamed_and_others_left_as_they_are() -> None:
    with torch.device("meta"):
        convnext = create_timm("convnext_atto", 5)
        resnet = create_timm("timm/resnet18", 5)
    own = convnext.state_dict()
    old_names = {  # as Facebook published ConvNeXt
        "stem.0.": "downsample_layers.0.0.",
        "stem.1.": "downsample_layers.0.1.",
        "head.norm.": "norm.",
        "head.fc.": "head.",
    }
    old = {}
    for key, value in own.items():
        for new, published in old_names.items():
            key = published + key.removeprefix(new) if key.startswith(new) else key
        for number in (1, 2, 3):
            key = key.replace(f"stages.{number}.downsample", f"downsample_layers.{number}")
        for new, published in ((".conv_dw.", ".dwconv."), (".mlp.fc", ".pwconv")):
            key = key.replace(new, published)
        old[key.replace(".blocks.", ".")] = value
    assert set(old) & set(own) == set()
    fitted = fit_timm_tensors(convnext, old)
    assert {key: value.shape for key, value in fitted.items()} == {
        key: value.shape for key, value in own.items()
    }

    tensors = dict(resnet.state_dict())
    assert fit_timm_tensors(resnet, tensors) == tensors
    nonsense = {"a.b": torch.zeros(2)}
    for network in (convnext, resnet):  # the strict check says what is wrong with it
        assert fit_timm_tensors(network, nonsense) == nonsense
    with torch.device("meta"):
        crossvit = create_timm("crossvit_tiny_240", 5)
    assert set(fit_timm_tensors(crossvit, {"pos_embed.0": torch.zeros(1)})) == {"pos_embed_0"}


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv3_small_050", "convnext_atto"])
def test_a_new_classifier_starts_near_chance(name: str) -> None:
    """timm draws some from +- 1 / sqrt(classes): with two, the first loss was about 7."""
    network = create_timm(name, 2)
    for fresh in ("built", "reset"):
        if fresh == "reset":
            network.reset_classifier(2)
        for layer in network.classifiers:
            weight = network.net.get_submodule(layer).weight
            assert weight.std() <= weight[0].numel() ** -0.5, fresh
        features = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(0))
        logits = torch.nn.functional.linear(features.relu() * 2, weight.flatten(1))
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(64) % 2)
        assert loss < 1.5, (fresh, loss)
