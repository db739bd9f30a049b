"""What timm has, by name: cards without building, a table that is true, and published weights."""

from __future__ import annotations

import random
import re

import pytest
import timm
import torch

from fieldmark.errors import ModelError
from fieldmark.models import timm_table, timm_zoo
from fieldmark.models.contract import as_network
from fieldmark.models.registry import (
    MODEL_NAMES,
    create_model,
    list_models,
    list_timm_models,
    model_card,
)
from fieldmark.models.timm_table import Measured, build_and_measure, measure
from fieldmark.models.timm_zoo import is_timm, preprocess_of, timm_names, timm_weights
from fieldmark.types import Preprocess

NAN, INF, HUGE = float("nan"), float("inf"), 10**400  # all of which Python reads from JSON


@pytest.fixture(scope="module")
def cards() -> dict[str, timm_zoo.ModelCard]:
    return {card.name: card for card in list_timm_models()}


def test_every_classifier_of_the_installed_timm_is_listed_under_a_name_that_works(
    cards: dict[str, timm_zoo.ModelCard],
) -> None:
    bare = [name.removeprefix("timm/") for name in cards]
    # Encoders are halves of larger models.
    assert bare == [name for name in timm.list_models() if not name.endswith("_enc")]
    assert not set(cards) & set(MODEL_NAMES)
    assert {"timm/resnet18", "timm/vgg16", "convnext_tiny"} <= set(cards)
    assert [card.name for card in list_models()] == list(MODEL_NAMES)  # ours stay ours


def test_the_table_is_that_of_the_pinned_timm() -> None:
    """A new timm in constraints.txt: run `python benchmarks/timm_table.py`."""
    if timm.__version__ != "1.0.31":
        pytest.skip(f"the table was made with timm 1.0.31; here is {timm.__version__}")
    assert list(timm_table._table()) == list(timm_names())


def test_the_table_says_what_networks_really_have() -> None:
    table = timm_table._table()
    light = [name for name, row in table.items() if row.parameters < 30e6]
    here = [name for name in light if name in timm_names()]
    for name in random.Random(0).sample(here, 12):
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=1000)
        assert table[name].parameters == sum(p.numel() for p in net.parameters())
    # As published: Table 9 of the ConvNeXt paper, table 5 of ViT-S in "How to train your ViT".
    assert table["convnext_tiny"].parameters == pytest.approx(28.6e6, rel=0.002)
    assert table["vit_small_patch16_224"].parameters == pytest.approx(22.1e6, rel=0.005)


def test_networks_that_the_table_lacks_are_built_and_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {
        name: timm_table._table()[name]
        for name in ("vgg11", "inception_v3", "vit_tiny_patch16_224")
    }
    assert known["vgg11"] == Measured(132_863_336, 32, False)
    assert known["inception_v3"].min_size_px == 96  # 75 px in truth; the sizes tried are coarse
    assert known["vit_tiny_patch16_224"].min_size_px == 224
    monkeypatch.setattr(timm_table, "_table", dict)
    build_and_measure.cache_clear()
    for name, row in known.items():
        assert measure(name) == row


@pytest.mark.parametrize(
    ("name", "has_norm"),
    [
        ("vgg11", False),
        ("nf_resnet26", False),
        ("vit_tiny_patch16_224", True),
        ("resnetv2_50d_gn", True),
        ("efficientnet_b0", True),
        ("convnext_atto_rms", True),
    ],
)
def test_norms_of_any_kind_count(name: str, has_norm: bool) -> None:
    public = timm_zoo.public_name(name)
    assert model_card(public).has_norm is has_norm
    with torch.device("meta"):
        modules = list(create_model(public, 2).modules())
    assert any(map(timm_table.is_norm, modules)) is has_norm


def test_cards_tell_what_timm_knows_and_no_more(cards: dict[str, timm_zoo.ModelCard]) -> None:
    convnext = cards["convnextv2_atto"]
    # Of ResNet-18, timm names the paper that its weights are from, six years younger.
    assert (convnext.family, convnext.year, convnext.paper) == ("convnext", None, None)
    assert (convnext.default_size_px, convnext.min_size_px) == (224, 32)
    assert cards["timm/resnet18"].family == "resnet"
    vit = cards["vit_base_patch16_384"]
    assert (vit.default_size_px, vit.min_size_px) == (384, 384)
    # A tag may have been trained at another size than its network's default one.
    tagged = model_card("vit_base_patch16_clip_224.openai")
    assert (tagged.name, tagged.default_size_px) == ("vit_base_patch16_clip_224.openai", 224)
    assert all(card.min_size_px <= card.default_size_px for card in cards.values())


@pytest.mark.parametrize(
    "name", ["convnext_atto", "timm/resnet18", "timm/vgg11", "ghostnetv2_100", "inception_v3"]
)
def test_networks_admit_the_smallest_size_that_their_card_names(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 2).train()
        size_px = model_card(name).min_size_px
        assert as_network(model).min_size_px == size_px
        assert model(torch.zeros(4, 3, size_px, size_px)).shape == (4, 2)
        with pytest.raises(ModelError, match=f"at least {size_px} px"):
            model(torch.zeros(4, 3, size_px - 1, size_px))


def test_listing_builds_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **words: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(timm, "create_model", refuse)
    assert len(list_timm_models()) == len(timm_names())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("convnext_at", ["convnext_atto", "convnext_atto_ols", "convnext_atto_rms"]),
        ("resnet18", None),
        ("*/resnet18", ["timm/resnet18"]),
        ("resnet?8", ["timm/resnet18"]),
        ("vgg1[16]", ["timm/vgg11", "timm/vgg16"]),
        ("CONVNEXT_ATTO_O", ["convnext_atto_ols"]),
        ("nothing_of_the_kind", []),
    ],
)
def test_networks_are_found_by_a_part_of_their_name_or_a_pattern(
    pattern: str, expected: list[str] | None
) -> None:
    found = [card.name for card in list_timm_models(pattern)]
    if expected is None:
        assert "timm/resnet18" in found
        assert all("resnet18" in name for name in found)
    else:
        assert found == expected


def test_names_with_and_without_prefix_and_tag() -> None:
    for name in ("resnet18", "timm/resnet18", "convnext_tiny.in12k_ft_in1k", "timm/vgg11.tv_in1k"):
        assert is_timm(name)
    for name in ("", "runs/first", "timm/", "timm/nonsense", "model.safetensors", "../resnet18"):
        assert not is_timm(name)


def test_weights_are_those_of_the_tag_named_then_timms_usual_order() -> None:
    usual = timm_weights("convnext_tiny")
    assert usual[0].tag == timm.get_pretrained_cfg("convnext_tiny").tag == "in12k_ft_in1k"
    assert usual[0].source == "hf:timm/convnext_tiny.in12k_ft_in1k"
    assert usual[0].num_classes == 1000
    named = timm_weights("timm/convnext_tiny.fb_in22k")
    assert (named[0].tag, named[0].num_classes) == ("fb_in22k", 21841)
    assert sorted(w.tag for w in named) == sorted(w.tag for w in usual)
    assert timm_weights("convnext_zepto_rms") == timm_weights("timm/convnext_zepto_rms")
    assert timm_weights("vit_tiny_r_s16_p8_384")[0].preprocess["size"] == 384
    with pytest.raises(ModelError, match="unknown weights tag"):
        timm_weights("convnext_tiny.nobody")
    with pytest.raises(ModelError, match="unknown model"):
        timm_weights("convnext_tin")


def test_weights_come_with_the_preprocess_that_timm_would_use() -> None:
    by_tag = {weights.tag: weights for weights in timm_weights("beit_base_patch16_224")}
    assert Preprocess(channels=3, **by_tag["in22k_ft_in22k_in1k"].preprocess) == Preprocess(
        size=224,
        channels=3,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize="crop",
        crop_fraction=0.9,
        interpolation="bicubic",
        channel_order="rgb",
    )


def test_every_published_set_of_weights_can_be_had_and_says_how_pictures_are_made() -> None:
    num_networks = num_hub = num_hashed = 0
    modes = set()
    for name in timm_names():
        published = timm_weights(name)
        num_networks += bool(published)
        tags = [weights.tag for weights in published]
        assert len(set(tags)) == len(tags)
        for weights in published:
            preprocess = Preprocess(channels=3, **weights.preprocess)
            modes.add((preprocess.resize, preprocess.interpolation))
            if weights.source.startswith("hf:"):
                num_hub += 1
                assert re.fullmatch(r"hf:[\w.-]+/[\w.-]+(/[\w./-]+)?", weights.source)
            else:
                num_hashed += 1
                assert re.fullmatch(r"https://\S+-([0-9a-f]{8,})\.pth#sha256=\1", weights.source), (
                    weights.source
                )
            assert not weights.source.endswith((".npz", ".bin"))
    assert num_networks > 1000
    assert num_hub > 1500
    assert num_hashed >= 15  # legacy_seresnet50 and its like, on GitHub
    assert {("crop", "bilinear"), ("crop", "bicubic"), ("squash", "bicubic")} <= modes


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({}, {}),
        (
            {"input_size": [3, 240, 240], "crop_pct": 1.15, "crop_mode": "border"},
            {"size": 240, "crop_fraction": 1.0, "resize": "crop"},
        ),
        (
            {"crop_mode": "squash", "interpolation": "lanczos"},
            {"resize": "squash", "interpolation": "bicubic"},
        ),
        ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}, {}),
        ({"mean": (0.4, 0.5, 0.6), "std": (1, 1, 1)}, {"mean": (0.4, 0.5, 0.6), "std": (1, 1, 1)}),
        ({"input_size": "3x224x224", "crop_pct": "much", "mean": None}, {}),
        ({"input_size": [224, 224], "crop_pct": 0}, {}),
        ({"input_size": [3, NAN, 224], "crop_pct": NAN}, {}),
        ({"input_size": [3, INF, INF], "crop_pct": INF}, {}),
        ({"input_size": [3, HUGE, HUGE], "crop_pct": HUGE, "mean": [HUGE], "std": [HUGE]}, {}),
        ({"input_size": [3, 9000, 9000]}, {}),
        ({"input_size": [3, 224.5, 224.5]}, {}),
        ({"input_size": [3, -1, 0]}, {}),
        ({"input_size": [True, True, True], "crop_pct": True}, {}),
        ({"mean": [NAN] * 3, "std": [1, 1, 1]}, {}),
        ({"mean": [0.5] * 3, "std": [1, NAN, 1]}, {}),
        ({"mean": [0.5] * 3, "std": [1, INF, 1]}, {}),
        ({"mean": [True] * 3, "std": [True] * 3}, {}),
        ({"mean": [0.5] * 2, "std": [0.5] * 2}, {}),
        ({"input_size": [3, 64, 64], "mean": [0.5] * 4, "std": [0.5] * 4}, {"size": 64}),
        (
            {"input_size": [1, 64, 64], "mean": [0.5], "std": [0.25]},
            {"size": 64, "mean": (0.5,), "std": (0.25,)},
        ),
        ({"mean": [0.5], "std": [0.25]}, {"mean": (0.5,), "std": (0.25,)}),
    ],
)
def test_a_config_from_elsewhere_says_what_makes_sense(
    cfg: dict[str, object], words: dict[str, object]
) -> None:
    assert preprocess_of(cfg) == {"channel_order": "rgb", **words}
