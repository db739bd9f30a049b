"""What "auto" comes to: nothing is left open, nothing the user said is changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.auto import LEARNING_RATES, PRESETS, Facts, settle, settle_augment
from fieldmark.errors import RecipeError
from fieldmark.recipe import AugmentRecipe, Recipe, from_dict, to_dict

PHOTOS = Facts(all_grey=False, typical_side_px=375, min_size_px=32, has_norm=True, num_train=244)
DIGITS = Facts(all_grey=True, typical_side_px=8, min_size_px=1, has_norm=True, num_train=1438)

# Measured from the pictures, or known on the machine only.
LEFT_OPEN = {"data.mean", "data.std", "data.cache", "device", "precision"}

MODES = ["scratch", "finetune", "frozen", "partial"]
OPTIMIZERS = ["sgd", "adam", "adamw"]

facts = st.builds(
    Facts,
    all_grey=st.booleans(),
    typical_side_px=st.integers(1, 5000),
    min_size_px=st.integers(1, 300),
    has_norm=st.booleans(),
    num_train=st.integers(1, 10**6),
    has_batch_norm=st.booleans(),
)
# A valid value that no preset and no rule would choose, for every word that may say "auto".
OWN_WORDS: dict[str, Any] = {
    "mode": "finetune",
    "data.resize": "squash",
    "data.interpolation": "bicubic",
    "data.channel_order": "bgr",
    "optimizer.weight_decay": 0.0321,
    "data.size": 333,
    "data.channels": 3,
    "data.crop_fraction": 0.77,
    "optimizer.lr": 0.0123,
    "augment.preset": "none",
    "augment.crop_scale": (0.11, 0.22),
    "augment.crop_ratio": (0.9, 1.2),
    "augment.hflip": 0.123,
    "augment.vflip": 0.234,
    "augment.rotate_degrees": 12.3,
    "augment.brightness": 0.345,
    "augment.contrast": 0.456,
    "augment.saturation": 0.567,
    "augment.hue": 0.0678,
    "augment.policy": "randaugment",
    "augment.erase": 0.321,
    "augment.mixup": 0.432,
    "augment.cutmix": 0.543,
    "transfer.head": "linear",
    "transfer.views": 3,
    "transfer.head_first": False,
    "transfer.norms": "train",
}
STORES_VIEWS = ("frozen", "partial")
MIXING = ("augment.mixup", "augment.cutmix")


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted words and their values."""
    words: dict[str, Any] = {}
    for name, value in vars(recipe).items():
        if dataclasses.is_dataclass(value):
            words |= {f"{name}.{word}": v for word, v in vars(value).items()}
        else:
            words[name] = value
    return words


def recipe_of(mode: str, optimizer: str, **words: Any) -> Recipe:
    needed = {"mode": mode, "optimizer.name": optimizer}
    if mode == "partial" and "mode" not in words:
        needed["training.freeze_through"] = "layer2"
    return Recipe().with_settings(needed | words)


def test_the_own_words_cover_every_word_that_settle_settles() -> None:
    open_words = {word for word, value in flat(Recipe()).items() if value == "auto"}
    assert open_words - LEFT_OPEN == set(OWN_WORDS)


@given(st.sampled_from(MODES), st.sampled_from(OPTIMIZERS), facts)
def test_no_auto_is_left_and_nothing_else_changes(mode: str, optimizer: str, f: Facts) -> None:
    recipe = recipe_of(mode, optimizer)
    settled, said = settle(recipe, f)
    before, after = flat(recipe), flat(settled)
    assert {word for word, value in after.items() if value == "auto"} == LEFT_OPEN
    assert {word for word in after if after[word] != before[word]} <= set(OWN_WORDS)
    assert from_dict(to_dict(settled)) == settled  # a valid recipe, also after a trip to the disk
    assert settle(settled, f) == (settled, [])  # settled once and for all
    about_views = mode in STORES_VIEWS
    about_norms = mode in ("finetune", "partial") and f.has_batch_norm
    assert len(said) == 6 + about_views + about_norms
    assert all(": " in line for line in said)  # what, and why


@given(st.sets(st.sampled_from(sorted(OWN_WORDS))), st.sampled_from(MODES), facts)
def test_a_word_given_is_never_overwritten(names: set[str], mode: str, f: Facts) -> None:
    words = {name: OWN_WORDS[name] for name in names}
    mode = words.pop("mode", mode)
    if mode not in STORES_VIEWS or "augment.preset" in words:
        words.pop("transfer.views", None)  # refused, see below
    if mode in STORES_VIEWS:
        for word in MIXING:  # said to be 0, see below
            words.pop(word, None)
    recipe = recipe_of(mode, "adamw", **words)
    settled, _ = settle(recipe, f)
    words["mode"] = recipe.mode
    assert {name: flat(settled)[name] for name in words} == words


def test_weights_are_fine_tuned_unless_said_otherwise() -> None:
    settled, said = settle(Recipe().with_settings({"model.weights": "runs/x"}), PHOTOS)
    assert settled.mode == "finetune"
    assert settled.optimizer.lr == LEARNING_RATES["adam", "finetune"]
    assert "mode finetune: weights are named" in said
    assert settle(Recipe(), PHOTOS)[0].mode == "scratch"


# What the modes take ------------------------------------------------------------------------------


def test_fine_tuning_starts_from_a_good_head_where_there_are_weights() -> None:
    weights = {"model.weights": "imagenet"}
    settled, said = settle(Recipe().with_settings(weights), PHOTOS)
    assert settled.transfer.head_first is True
    assert "head first: a head drawn at random would spoil the trained weights" in said
    assert settle(recipe_of("partial", "adamw", **weights), PHOTOS)[0].transfer.head_first is True
    for mode in ("frozen", "scratch"):
        settled, said = settle(recipe_of(mode, "adamw", **weights), PHOTOS)
        assert settled.transfer.head_first is False
        assert not any("head first" in line for line in said)
    told = Recipe().with_settings({**weights, "transfer.head_first": False})
    assert settle(told, PHOTOS)[0].transfer.head_first is False


@pytest.mark.parametrize("mode", STORES_VIEWS)
def test_without_views_nothing_is_augmented(mode: str) -> None:
    settled, _ = settle(recipe_of(mode, "adamw", **{"transfer.views": 0}), PHOTOS)
    assert settled.augment.preset == "none"
    assert settled.augment.crop_scale == (1.0, 1.0)
    assert settled.transfer.views == 0
    named = {"transfer.views": 0, "augment.preset": "strong"}
    assert any("0 views" in line for line in settle(recipe_of(mode, "adamw", **named), PHOTOS)[1])
    with pytest.raises(RecipeError, match="nothing may change them"):
        settle(recipe_of(mode, "adamw", **{"transfer.views": 0, "augment.hflip": 0.5}), PHOTOS)


@pytest.mark.parametrize("mode", STORES_VIEWS)
@pytest.mark.parametrize(
    ("num_train", "views"),
    [(1, 4), (244, 4), (2000, 4), (2600, 3), (4000, 2), (8000, 1), (10**6, 1)],
)
def test_few_pictures_are_stored_in_many_views(mode: str, num_train: int, views: int) -> None:
    f = dataclasses.replace(PHOTOS, num_train=num_train)
    settled, said = settle(recipe_of(mode, "adamw"), f)
    assert settled.transfer.views == views
    assert f"views {views}: {num_train:,} pictures make {views * num_train:,} features" in said


def test_without_augmentation_there_is_one_view_and_no_more_can_be_asked_for() -> None:
    plain = recipe_of("frozen", "adamw", **{"augment.preset": "none"})
    settled, said = settle(plain, PHOTOS)
    assert settled.transfer.views == 0
    assert "views 0: without augmentation a picture always looks the same" in said
    with pytest.raises(RecipeError, match="all views of a picture are alike") as caught:
        settle(plain.with_settings({"transfer.views": 4}), PHOTOS)
    assert "--augment standard" in str(caught.value)
    # One word of augmentation is enough, whatever the preset is called.
    mirrored = plain.with_settings({"augment.hflip": 0.5})
    assert settle(mirrored, PHOTOS)[0].transfer.views == 4
    mirrored = mirrored.with_settings({"transfer.views": 3})
    assert settle(mirrored, PHOTOS)[0].transfer.views == 3


@pytest.mark.parametrize("mode", MODES)
def test_stored_views_are_not_mixed_and_that_is_said(mode: str) -> None:
    settled, said = settle(recipe_of(mode, "adamw", **{"augment.preset": "strong"}), PHOTOS)
    mixed = (settled.augment.mixup, settled.augment.cutmix)
    line = f"mixup 0, cutmix 0: stored views (mode {mode}) cannot be mixed as pictures"
    if mode in STORES_VIEWS:
        assert mixed == (0, 0)
        assert line in said
        assert line not in settle(recipe_of(mode, "adamw"), PHOTOS)[1]  # nobody asked
    else:
        assert mixed == (0.2, 1.0)
        assert line not in said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("batch_size", "norms", "why"),
    [
        (32, "train", "batches of 32 give good statistics"),
        (16, "train", "batches of 16 give good statistics"),
        (15, "eval", "statistics of batches of 15 would be too uncertain"),
        (1, "eval", "statistics of batches of 1 would be too uncertain"),
    ],
)
def test_batch_norm_keeps_its_statistics_where_new_ones_would_be_worse(
    mode: str, batch_size: int, norms: str, why: str
) -> None:
    recipe = recipe_of(mode, "adamw", **{"training.batch_size": batch_size})
    settled, said = settle(recipe, PHOTOS)
    if mode in ("finetune", "partial"):
        assert settled.transfer.norms == norms
        assert f"norms {norms}: {why}" in said
    else:
        assert settled.transfer.norms == "train"
        assert not any(line.startswith("norms") for line in said)
    without = dataclasses.replace(PHOTOS, has_batch_norm=False)
    settled, said = settle(recipe, without)
    assert settled.transfer.norms == "train"
    assert not any(line.startswith("norms") for line in said)


@given(st.sampled_from(MODES))
def test_the_head_is_the_networks_own_unless_said_otherwise(mode: str) -> None:
    assert settle(recipe_of(mode, "adamw"), PHOTOS)[0].transfer.head == "own"


# The rest -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.01), ("adam", 0.0), ("sgd", 5e-4)])
def test_the_weight_decay_is_the_optimizers_own(optimizer: str, decay: float) -> None:
    """0.01 added to Adam's gradient keeps AlexNet at chance; decoupled, in AdamW, it is usual."""
    settled, said = settle(recipe_of("scratch", optimizer), PHOTOS)
    assert settled.optimizer.weight_decay == decay
    assert f"weight decay {decay:g}: usual for {optimizer}" in said


@pytest.mark.parametrize(
    ("typical_px", "min_px", "size"),
    [
        (8, 1, 32),
        (28, 1, 32),
        (40, 32, 32),
        (41, 32, 64),
        (64, 1, 64),
        (65, 1, 224),  # a photo, however small
        (4000, 32, 224),
        (28, 33, 64),  # what the network admits comes first
        (28, 63, 64),  # AlexNet
        (64, 65, 96),
        (28, 299, 320),
        (4000, 299, 299),
    ],
)
def test_the_size_follows_from_pictures_and_network(
    typical_px: int, min_px: int, size: int
) -> None:
    f = dataclasses.replace(PHOTOS, typical_side_px=typical_px, min_size_px=min_px)
    settled, said = settle(Recipe(), f)
    assert settled.data.size == size
    assert said[0] == f"size {size} px: pictures are typically {typical_px} px"


@given(facts)
def test_the_network_always_admits_the_size_chosen(f: Facts) -> None:
    size = settle(Recipe(), f)[0].data.size
    assert isinstance(size, int)
    assert f.min_size_px <= size <= 4096


def test_a_size_below_what_the_network_admits_is_refused_with_the_way_out() -> None:
    f = dataclasses.replace(PHOTOS, min_size_px=63)
    recipe = Recipe().with_settings({"model.name": "alexnet", "data.size": 62})
    with pytest.raises(RecipeError, match="alexnet does not admit pictures that small") as caught:
        settle(recipe, f)
    for words in ("given:  size 62 px", "63 px or more", "--size 63", "another --model"):
        assert words in str(caught.value)
    assert settle(recipe.with_settings({"data.size": 63}), f)[0].data.size == 63


def test_photos_and_digits_each_get_what_suits_them() -> None:
    photos, said = settle(Recipe(), PHOTOS)
    assert (photos.data.channels, photos.data.crop_fraction) == (3, 0.875)
    assert photos.augment.preset == "standard"
    assert photos.augment.hflip == 0.5
    assert "3 channels: the pictures have colour" in said
    assert "augmentation standard: usual for 244 photos; strong from 50 epochs on" in said

    digits, said = settle(Recipe(), DIGITS)
    assert (digits.data.channels, digits.data.crop_fraction) == (1, 1.0)
    assert digits.augment.preset == "light"
    assert digits.augment.hflip == digits.augment.vflip == 0  # a mirrored digit is another sign
    assert "1 channel: every picture is grey" in said
    assert "augmentation light: usual for small grey pictures" in said


def test_only_small_grey_pictures_are_taken_for_signs() -> None:
    """A mirrored digit is another sign; a mirrored X-ray, or a photo of 32 px, is none."""
    small, _ = settle(Recipe().with_settings({"data.size": 32}), PHOTOS)
    assert (small.data.crop_fraction, small.augment.preset) == (1.0, "standard")
    grey, _ = settle(Recipe().with_settings({"data.channels": 1}), PHOTOS)
    assert (grey.data.crop_fraction, grey.augment.preset) == (0.875, "standard")


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_learning_rates_are_ordered_as_training_wants_them(mode: str, has_norm: bool) -> None:
    f = dataclasses.replace(PHOTOS, has_norm=has_norm)
    rates = {name: flat(settle(recipe_of(mode, name), f)[0])["optimizer.lr"] for name in OPTIMIZERS}
    assert rates["adam"] == rates["adamw"] < rates["sgd"]
    scratch = flat(settle(recipe_of("scratch", "sgd"), PHOTOS)[0])["optimizer.lr"]
    assert rates["sgd"] <= scratch
    if mode == "scratch" and not has_norm:
        assert rates["adam"] == 2e-4  # the AlexNet write-up's


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_head_of_one_layer_takes_longer_steps_where_there_are_few(name: str) -> None:
    def rate(num_train: int, mode: str = "frozen", **words: Any) -> float:
        f = dataclasses.replace(PHOTOS, num_train=num_train, **words)
        settled, said = settle(recipe_of(mode, name), f)
        lr = settled.optimizer.lr
        assert isinstance(lr, float)
        few = ", in so few steps" if mode == "frozen" and lr > 0.001 else ""
        assert f"learning rate {lr:g}: usual for {name}, {mode}{few}" in said
        return lr

    assert rate(224) == 0.005  # 140 steps: at most five times the table's
    assert rate(512) == pytest.approx(1.3 / 320, abs=6e-6)
    assert rate(10_000) == LEARNING_RATES["adam", "frozen"]  # and never below it
    rates = [rate(num) for num in range(50, 2000, 50)]
    assert rates == sorted(rates, reverse=True)
    assert rate(224, has_linear_head=False) == LEARNING_RATES["adam", "frozen"]
    assert rate(224, "finetune") == LEARNING_RATES["adam", "finetune"]


def test_every_learning_rate_of_the_table_can_come_about() -> None:
    found = {
        settle(
            recipe_of(mode, name),
            dataclasses.replace(PHOTOS, has_norm=norm, has_linear_head=False),
        )[0].optimizer.lr
        for mode in MODES
        for name in OPTIMIZERS
        for norm in (True, False)
    }
    assert found == set(LEARNING_RATES.values())


@pytest.mark.parametrize(
    ("mode", "num_train", "epochs", "preset"),
    [
        ("scratch", 244, 20, "standard"),  # measured: strong gains nothing
        ("scratch", 244, 49, "standard"),
        ("scratch", 244, 50, "strong"),  # measured: strong gains
        ("scratch", 10_000, 50, "strong"),
        ("scratch", 10_001, 50, "standard"),  # many are not learnt by heart so soon
        ("scratch", 50_000, 99, "standard"),
        ("scratch", 50_000, 100, "strong"),
        ("finetune", 244, 300, "standard"),
        ("frozen", 244, 300, "standard"),
        ("partial", 244, 300, "standard"),
    ],
)
def test_few_photos_seen_often_from_random_weights_are_augmented_strongly(
    mode: str, num_train: int, epochs: int, preset: str
) -> None:
    recipe = recipe_of(mode, "adamw", **{"training.epochs": epochs})
    settled, said = settle(recipe, dataclasses.replace(PHOTOS, num_train=num_train))
    assert settled.augment == settle_augment(AugmentRecipe(preset=preset))  # type: ignore[arg-type]
    (line,) = [line for line in said if line.startswith("augmentation")]
    reasons = {
        "strong": f"{epochs} epochs from random weights would learn {num_train:,} photos by heart",
        "standard": f"usual for {num_train:,} photos; strong from "
        f"{50 if num_train <= 10_000 else 100} epochs on",
    }
    reason = reasons[preset]
    if mode != "scratch":
        reason = "usual for photos and a network that is trained already"
    assert line == f"augmentation {preset}: {reason}"


@given(facts, st.sampled_from(MODES), st.integers(1, 1000), st.integers(1, 1000))
def test_more_pictures_are_never_augmented_more_and_more_epochs_never_less(
    f: Facts, mode: str, epochs: int, more: int
) -> None:
    def strength(num_train: int, num_epochs: int) -> int:
        recipe = recipe_of(mode, "adamw", **{"training.epochs": num_epochs})
        settled, _ = settle(recipe, dataclasses.replace(f, num_train=num_train))
        return list(PRESETS).index(settled.augment.preset)

    assert strength(f.num_train + 100 * more, epochs) <= strength(f.num_train, epochs)
    assert strength(f.num_train, epochs + more) >= strength(f.num_train, epochs)


def test_signs_are_never_mirrored_however_long_the_training() -> None:
    settled, _ = settle(Recipe().with_settings({"training.epochs": 500}), DIGITS)
    assert settled.augment.preset == "light"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_every_word_it_has_and_keeps_its_name(preset: str) -> None:
    recipe = AugmentRecipe(preset=preset, hue=0.4)  # type: ignore[arg-type]
    settled = settle_augment(recipe)
    how = {"num_ops": recipe.num_ops, "magnitude": recipe.magnitude}  # of a policy, in any preset
    assert vars(settled) == {"preset": preset} | how | PRESETS[preset] | {"hue": 0.4}


def test_the_preset_none_changes_nothing() -> None:
    words = dict(PRESETS["none"])
    assert words.pop("crop_scale") == words.pop("crop_ratio") == (1.0, 1.0)
    assert words.pop("policy") == "none"
    assert set(words.values()) == {0.0}


def test_the_table_of_presets_in_the_documentation_is_the_presets() -> None:
    page = (Path(__file__).parent.parent / "docs" / "augmentation.md").read_text("utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    (start,) = [i for i, row in enumerate(rows) if row == ["word", *PRESETS]]
    told = {row[0]: row[1:] for row in rows[start + 2 : start + 2 + len(PRESETS["none"])]}
    assert set(told) == set(PRESETS["none"])
    for word, cells in told.items():
        for preset, cell in zip(PRESETS, cells, strict=True):
            value = PRESETS[preset][word]
            if value == (1.0, 1.0):
                assert cell in ("no random crop", "")
            elif isinstance(value, tuple):
                assert cell == "-".join(f"{number:g}" for number in value)
            else:
                assert cell == (value if isinstance(value, str) else f"{value:g}")
