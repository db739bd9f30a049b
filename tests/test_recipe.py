from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import fieldmark
from fieldmark.errors import RecipeError
from fieldmark.recipe import WORDS as SETTING_OF
from fieldmark.recipe import (
    AugmentRecipe,
    DataRecipe,
    OptimizerRecipe,
    Recipe,
    TrainingRecipe,
    Words,
    from_dict,
    load_recipe,
    parse_setting,
    to_toml,
)

AUTO = st.just("auto")
SHARE = st.floats(0, 1)
TEXT = st.text(max_size=8)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
PAIR_UP_TO_1 = st.lists(st.floats(0.01, 1), min_size=2, max_size=2).map(lambda x: sorted(x))


def numbers_per_channel(low: float, high: float) -> st.SearchStrategy[list[float]]:
    number = st.floats(low, high)
    return st.sampled_from((1, 3)).flatmap(lambda n: st.lists(number, min_size=n, max_size=n))


# What each word may be, as TOML has it. A new word of the recipe must be entered here.
WORDS: dict[str, st.SearchStrategy[Any]] = {
    "source": TEXT,
    "mode": st.sampled_from(("scratch", "finetune", "frozen", "partial")),
    "seed": st.integers(0, 2**63 - 1),
    "device": TEXT,
    "precision": st.sampled_from(("auto", "float32", "bfloat16", "float16")),
    "data.size": AUTO | st.integers(1, 4096),
    "data.channels": st.sampled_from(("auto", 1, 3)),
    "data.resize": st.sampled_from(("crop", "squash")),
    "data.crop_fraction": AUTO | st.floats(0.01, 1),
    "data.interpolation": st.sampled_from(("bilinear", "bicubic")),
    "data.mean": AUTO | numbers_per_channel(0, 1),
    "data.std": AUTO | numbers_per_channel(0.001, 1000),
    "data.channel_order": st.sampled_from(("auto", "rgb", "bgr")),
    "data.val_fraction": st.floats(0, 0.49),
    "data.test_fraction": st.floats(0, 0.5),
    "data.val_is_val": st.booleans(),
    "data.train_limit": st.integers(0, 10**12),
    "data.class_names": st.lists(TEXT, max_size=3),
    "data.strict": st.booleans(),
    "data.cache": st.sampled_from(("auto", "ram", "gpu", "disk", "none")),
    "data.depth": st.integers(1, 100),
    "data.group_by": TEXT.map(re.escape),
    "data.quick_check": st.booleans(),
    "model.name": TEXT,
    "model.weights": TEXT,
    "model.options": st.dictionaries(TEXT, PLAIN | st.lists(PLAIN, max_size=2), max_size=3),
    "optimizer.name": st.sampled_from(("sgd", "adam", "adamw")),
    "optimizer.lr": AUTO | st.floats(0, 1000),
    "optimizer.momentum": st.floats(0.1, 0.9999),
    "optimizer.nesterov": st.booleans(),
    "optimizer.betas": st.lists(st.floats(0, 0.9999), min_size=2, max_size=2),
    "optimizer.weight_decay": st.floats(0, 100),
    "optimizer.clip_norm": st.floats(0, 1e9),
    "schedule.name": st.sampled_from(("constant", "step", "cosine", "one_cycle")),
    "schedule.warmup_epochs": st.floats(0, 1e6),
    "schedule.step_epochs": st.integers(1, 10**6),
    "schedule.gamma": SHARE,
    "schedule.rise_fraction": SHARE,
    "training.epochs": st.integers(1, 10**6),
    "training.batch_size": st.integers(1, 10**6),
    "training.label_smoothing": st.floats(0, 0.99),
    "training.class_weights": st.sampled_from(("none", "balanced")),
    "training.sampling": st.sampled_from(("shuffle", "balanced")),
    "training.patience": st.integers(0, 10**6),
    "training.ema_decay": st.floats(0, 0.9999),
    "training.freeze_through": st.text(min_size=1, max_size=8),
    "augment.preset": st.sampled_from(("auto", "none", "light", "standard", "strong")),
    "augment.crop_scale": AUTO | PAIR_UP_TO_1,
    "augment.crop_ratio": AUTO | PAIR_UP_TO_1.map(lambda x: [10 * value for value in x]),
    "augment.hflip": AUTO | SHARE,
    "augment.vflip": AUTO | SHARE,
    "augment.rotate_degrees": AUTO | st.floats(0, 180),
    "augment.brightness": AUTO | SHARE,
    "augment.contrast": AUTO | SHARE,
    "augment.saturation": AUTO | SHARE,
    "augment.hue": AUTO | st.floats(0, 0.5),
    "augment.policy": st.sampled_from(("auto", "none", "randaugment", "trivialaugment")),
    "augment.num_ops": st.integers(1, 10),
    "augment.magnitude": st.integers(0, 30),
    "augment.erase": AUTO | SHARE,
    "augment.mixup": AUTO | st.floats(0, 100),
    "augment.cutmix": AUTO | st.floats(0, 100),
    "transfer.head": st.sampled_from(("auto", "own", "linear", "mlp", "logistic")),
    "transfer.hidden": st.integers(1, 10**5),
    "transfer.views": AUTO | st.integers(0, 1000),
    "transfer.folds": st.integers(2, 1000) | st.just(0),
    "transfer.head_first": AUTO | st.booleans(),
    "transfer.stage_lr_decay": st.floats(1e-6, 1),
    "transfer.unfreeze_every": st.integers(0, 10**6),
    "transfer.norms": st.sampled_from(("auto", "train", "eval")),
}


def all_words() -> list[str]:
    """Every dotted word of a recipe, read off the dataclasses themselves."""
    words = []
    for field in dataclasses.fields(Recipe):
        section = getattr(Recipe(), field.name)
        if dataclasses.is_dataclass(section):
            words += [f"{field.name}.{inner.name}" for inner in dataclasses.fields(section)]
        else:
            words.append(field.name)
    return words


def value_of(recipe: Recipe, word: str) -> Any:
    value: Any = recipe
    for name in word.split("."):
        value = getattr(value, name)
    return list(value) if isinstance(value, tuple) else value


def on_one_line(value: Any) -> str:
    """`value` as TOML that fits behind --set: lists and tables inline."""
    if isinstance(value, dict):
        pairs = (f"{on_one_line(key)} = {on_one_line(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(on_one_line, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").removesuffix("\n")


# The modes in which words ask for something; with what they may say in all of them.
MODES_OF: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "training.freeze_through": (("partial",), ("",)),
    "transfer.head": (("frozen", "finetune"), ("auto", "own", "linear")),
    "transfer.views": (("frozen", "partial"), ("auto", 0)),
    "transfer.folds": (("frozen",), (0,)),
    "transfer.head_first": (("finetune", "partial"), ("auto", False)),
    "transfer.stage_lr_decay": (("finetune", "partial"), (1.0,)),
    "transfer.unfreeze_every": (("finetune", "partial"), (0,)),
    "transfer.norms": (("frozen", "finetune", "partial"), ("auto", "train")),
}


def companions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The words without which those of `settings` would be refused: the first that needs a mode
    gets it, and others that do not go with it say nothing."""
    needed: dict[str, Any] = {}
    asking = [w for w, (_, idle) in MODES_OF.items() if settings.get(w, idle[0]) not in idle]
    if asking:
        needed["mode"] = MODES_OF[asking[0]][0][0]
        for word in asking[1:]:
            modes, idle = MODES_OF[word]
            if needed["mode"] not in modes:
                needed[word] = idle[0]
    if settings.get("transfer.hidden", 512) != 512:
        needed |= {"transfer.head": "mlp"}
        needed.setdefault("mode", "frozen")
    elif settings.get("transfer.head") == "logistic" and needed["mode"] == "finetune":
        needed["transfer.head_first"] = True
    if needed.get("mode", settings.get("mode")) == "partial":
        needed.setdefault("training.freeze_through", settings.get("training.freeze_through", "x"))
    if settings.get("schedule.warmup_epochs"):
        needed["schedule.name"] = "cosine"
    return needed


@st.composite
def settings_of_a_run(draw: st.DrawFn) -> dict[str, Any]:
    words = draw(st.lists(st.sampled_from(list(WORDS)), unique=True, max_size=12))
    settings = {word: draw(WORDS[word]) for word in words}
    settings |= companions(settings)
    return settings


def test_the_table_above_holds_every_word_of_a_recipe() -> None:
    assert list(WORDS) == all_words()


def kinds_of(hint: Any) -> set[Any]:
    """The types a hint admits; a choice of texts is a text."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {str if get_origin(member) is Literal else member for member in members}


@pytest.mark.parametrize("word", get_type_hints(Words))
def test_the_words_of_a_training_have_the_types_of_their_settings(word: str) -> None:
    *sections, name = SETTING_OF[word].split(".")
    owner: Any = Recipe
    for section in sections:
        owner = get_type_hints(owner)[section]
    wanted = kinds_of(get_type_hints(owner)[name])
    assert kinds_of(get_type_hints(Words)[word]) == {*wanted, type(None)}


def test_training_and_showing_offer_the_words_that_a_recipe_knows() -> None:
    assert set(SETTING_OF) == {"source", *get_type_hints(Words)}
    for function in (fieldmark.train, fieldmark.show):
        assert get_type_hints(function)["words"] == Unpack[Words]
    package = Path(fieldmark.__file__).parent
    assert (package / "py.typed").is_file(), "mypy ignores the hints of a package without it"


@given(settings_of_a_run())
def test_a_recipe_comes_back_from_toml_as_it_went(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
) -> None:
    recipe = Recipe().with_settings(settings)
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8", newline="\n")
    assert load_recipe(path) == recipe
    for word, value in settings.items():
        assert value_of(recipe, word) == value


@pytest.mark.parametrize("word", list(WORDS))
@given(data=st.data())
def test_every_word_can_be_set_from_the_command_line(word: str, data: st.DataObject) -> None:
    value = data.draw(WORDS[word])
    parsed_word, parsed_value = parse_setting(f"{word}={on_one_line(value)}")
    assert parsed_word == word
    settings = companions({word: parsed_value}) | {word: parsed_value}
    recipe = Recipe().with_settings(settings)
    assert value_of(recipe, word) == value
    untouched = [other for other in WORDS if other not in settings]
    assert all(value_of(recipe, other) == value_of(Recipe(), other) for other in untouched)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=1e-4", 1e-4),  # the number YAML reads as a text
        ("optimizer.lr=.5", 0.5),
        ("optimizer.lr = -.5e-3 ", -0.5e-3),
        ("optimizer.lr=5.", 5.0),
        ("training.epochs=5", 5),
        ("optimizer.nesterov=true", True),
        ("mode=frozen", "frozen"),
        ("mode='frozen'", "frozen"),
        ("device=cuda:1", "cuda:1"),
        ("model.weights=runs/a=b.safetensors", "runs/a=b.safetensors"),
        ("training.freeze_through=", ""),
        ('data.class_names=["蚂蚁", "蜜蜂"]', ["蚂蚁", "蜜蜂"]),
        ("source=D:\\new pictures", "D:\\new pictures"),
    ],
)
def test_a_setting_is_read_as_people_write_it(text: str, expected: object) -> None:
    _, value = parse_setting(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("text", ["optimizer.lr", "=3", " = 3", ""])
def test_a_setting_without_name_or_value_shows_how_to_write_one(text: str) -> None:
    with pytest.raises(RecipeError, match="needs a name and a value") as caught:
        parse_setting(text)
    assert "--set optimizer.weight_decay=0.05" in str(caught.value)


@given(st.sampled_from(list(WORDS)), st.text())
def test_no_setting_whatever_ends_in_a_traceback(word: str, value: str) -> None:
    parsed = dict([parse_setting(f"{word}={value}")])
    try:
        recipe = Recipe().with_settings(parsed)
    except RecipeError as error:
        assert "  do:  " in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(recipe, Recipe)


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("optimzer.lr", "did you mean optimizer?"),
        ("optimizer.learning_rate", "take one of the valid words"),
        ("optimizer.weight_deca", "did you mean optimizer.weight_decay?"),
        ("training.weight_decay", "did you mean optimizer.weight_decay?"),
        ("epochs", "did you mean training.epochs?"),
        ("epoch", "did you mean training.epochs?"),
        ("training.name", "did you mean model.name or optimizer.name or schedule.name?"),
        ("zzzz", "take one of the valid words"),
    ],
)
def test_an_unknown_word_is_an_error_with_a_suggestion(word: str, suggestion: str) -> None:
    with pytest.raises(RecipeError, match="unknown setting") as caught:
        Recipe().with_settings({word: 1})
    assert suggestion in str(caught.value)


def test_every_word_in_the_wrong_section_is_sent_to_its_own() -> None:
    sections = {word.partition(".")[0] for word in WORDS if "." in word}
    top_level = {field.name for field in dataclasses.fields(Recipe)}
    for word in WORDS:
        _, _, name = word.rpartition(".")
        for section in (f"{section}." for section in sections):
            if f"{section}{name}" not in WORDS:
                with pytest.raises(RecipeError) as caught:
                    Recipe().with_settings({f"{section}{name}": 1})
                assert word in str(caught.value).splitlines()[-1]
        if name not in top_level:
            with pytest.raises(RecipeError) as caught:
                Recipe().with_settings({name: 1})
            assert word in str(caught.value).splitlines()[-1]


@pytest.mark.parametrize("word", list(WORDS))
def test_nothing_of_the_wrong_kind_gets_in(word: str) -> None:
    """A list of tables fits no word (a date neither, which TOML also knows)."""
    with pytest.raises(RecipeError, match=f"{word} must be ."):
        Recipe().with_settings({word: [{"a": 1}]} if word != "data.class_names" else {word: 3})


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("mode", "frozne", "did you mean frozen?"),
        ("optimizer.lr", "auot", "did you mean auto?"),
        ("training.epochs", 2.5, "a whole number"),
        ("training.epochs", True, "a whole number"),
        ("optimizer.nesterov", 1, "true or false"),
        ("optimizer.betas", [0.9], "a list of 2 numbers"),
        ("data.channels", 2, "auto, 1 or 3"),
        ("data.channels", True, "auto, 1 or 3"),
        ("data.class_names", "ants", "a list of texts"),
        ("model.name", 18, "a text"),
        ("model.options", "bias", "a table"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_the_right_one(word: str, value: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=f"{word} must be ") as caught:
        Recipe().with_settings({word: value})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "word", [word for word in WORDS if isinstance(value_of(Recipe(), word), float)]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001, 1e300])
def test_no_number_is_nan_infinite_negative_or_absurd(word: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"{word} is out of range"):
        Recipe().with_settings({word: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.001])
@pytest.mark.parametrize(
    "word", [word for word in WORDS if value_of(Recipe(), word) == "auto" and "." in word]
)
def test_what_may_be_auto_is_no_gap_for_nan(word: str, value: float) -> None:
    candidates: list[Any] = [value, [value, value], [value] * 3]
    for candidate in candidates:
        with pytest.raises(RecipeError, match=rf"{word} (is out of range|must be)"):
            Recipe().with_settings({word: candidate})


def test_ranges_are_told_with_their_unit() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(augment=AugmentRecipe(hue=0.7))
    assert str(caught.value).splitlines() == [
        "augment.hue is out of range",
        "  given:  0.7",
        "  valid:  0 to 0.5 (turns of the colour circle)",
        "  do:     set augment.hue to a value in that range",
    ]


def test_a_range_is_given_the_smaller_number_first() -> None:
    with pytest.raises(RecipeError, match="the smaller one first"):
        Recipe(augment=AugmentRecipe(crop_scale=(1.0, 0.08)))


def test_an_empty_mean_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.mean is out of range"):
        Recipe(data=DataRecipe(mean=()))


def test_words_that_contradict_each_other_are_told_so() -> None:
    with pytest.raises(RecipeError, match="nothing would be left to train on"):
        Recipe(data=DataRecipe(val_fraction=0.5, test_fraction=0.5))
    with pytest.raises(RecipeError, match="Nesterov momentum needs a momentum"):
        Recipe(optimizer=OptimizerRecipe(nesterov=True, momentum=0.0))
    with pytest.raises(RecipeError, match="how far the network is frozen") as caught:
        Recipe(mode="partial")
    assert "--freeze-through STAGE" in str(caught.value)
    Recipe(mode="partial", training=TrainingRecipe(freeze_through="layer2"))


def test_words_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(RecipeError) as told:
        Recipe(mode="frozen", training=TrainingRecipe(freeze_through="layer2"))
    assert str(told.value).splitlines() == [
        "--freeze-through layer2 means nothing in mode frozen",
        "  given:  mode = frozen, training.freeze_through = layer2",
        "  valid:  in mode partial: the other modes say themselves what trains",
        "  do:     take --mode partial with --weights, or leave --freeze-through out",
    ]
    with pytest.raises(RecipeError, match="takes no warm-up") as caught:
        Recipe().with_settings({"schedule.warmup_epochs": 2})
    assert "--schedule cosine" in str(caught.value)
    Recipe().with_settings({"schedule.warmup_epochs": 2, "schedule.name": "cosine"})


@pytest.mark.parametrize("mode", ["scratch", "finetune", "frozen", "partial"])
@pytest.mark.parametrize(
    ("word", "value", "modes"),
    [
        ("head", "mlp", "frozen finetune partial"),
        ("head", "logistic", "frozen finetune"),
        ("head", "linear", "scratch frozen finetune partial"),
        ("views", 4, "frozen partial"),
        ("folds", 5, "frozen"),
        ("head_first", True, "finetune partial"),
        ("stage_lr_decay", 0.5, "finetune partial"),
        ("unfreeze_every", 2, "finetune partial"),
        ("norms", "eval", "finetune partial frozen"),
        ("norms", "train", "scratch finetune partial frozen"),
    ],
)
def test_words_of_transfer_are_refused_where_they_mean_nothing(
    mode: str, word: str, value: Any, modes: str
) -> None:
    settings: dict[str, Any] = {"mode": mode, f"transfer.{word}": value}
    if mode == "partial":
        settings["training.freeze_through"] = "layer2"
    if mode in modes.split():
        recipe = Recipe().with_settings(settings)
        assert getattr(recipe.transfer, word) == value
        return
    flag = "--" + word.replace("_", "-")
    with pytest.raises(RecipeError, match=f"{flag} {value} means nothing in mode {mode}") as told:
        Recipe().with_settings(settings)
    advised = re.search(r"take --mode (\w+) with --weights", str(told.value))
    assert advised
    assert advised[1] in modes.split()
    assert f"or leave {flag} out" in str(told.value)


def test_a_mode_left_open_is_the_one_that_the_weights_will_make_it() -> None:
    """So that a word is refused before anything is looked at, not when the mode is settled."""
    decay = {"transfer.stage_lr_decay": 0.5}
    Recipe().with_settings({**decay, "model.weights": "imagenet"})
    with pytest.raises(RecipeError, match="means nothing in mode scratch"):
        Recipe().with_settings(decay)
    with pytest.raises(RecipeError, match="means nothing in mode finetune"):
        Recipe().with_settings({"transfer.views": 2, "model.weights": "imagenet"})


@pytest.mark.parametrize(
    ("settings", "said", "advice"),
    [
        ({"hidden": 64}, "only the head mlp has a hidden layer", "add --head mlp"),
        ({"hidden": 64, "head": "linear"}, "only the head mlp", "leave --hidden out"),
        ({"folds": 1}, "one fold leaves nothing", "--folds 5"),
        ({"head": "logistic", "head_first": False}, "fitted before", "leave --no-head-first out"),
    ],
)
def test_words_of_transfer_that_contradict_each_other(
    settings: dict[str, Any], said: str, advice: str
) -> None:
    mode = "frozen" if "folds" in settings else "finetune"
    words = {f"transfer.{word}": value for word, value in settings.items()}
    with pytest.raises(RecipeError, match=said) as caught:
        Recipe().with_settings({"mode": mode, **words})
    assert advice in str(caught.value)


def test_sections_and_values_are_not_mixed_up() -> None:
    with pytest.raises(RecipeError, match="one level too deep") as caught:
        Recipe().with_settings({"seed.x": 1})
    assert "'seed' is a value, not a section" in str(caught.value)
    with pytest.raises(RecipeError, match="optimizer is a section, not a value") as caught:
        Recipe().with_settings({"optimizer": "adam"})
    assert "optimizer.name" in str(caught.value)


def test_a_network_option_can_be_set_alone() -> None:
    recipe = Recipe().with_settings({"model.options.bias": True, "model.name": "resnet34"})
    assert recipe.model.options == {"bias": True}
    assert Recipe().model.options == {}  # the default is not shared


def test_a_recipe_file_may_say_little_and_the_rest_is_default(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(
        "\ufeff# from Windows\r\nmode = 'frozen'\r\n[optimizer]\r\nlr = 1\r\n".encode()
    )
    recipe = load_recipe(path)
    assert recipe == Recipe(mode="frozen", optimizer=OptimizerRecipe(lr=1.0))
    assert type(recipe.optimizer.lr) is float


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"mode = frozen", "the recipe is not TOML"),
        (b"mode = '\xff\xfe'", "the recipe is not TOML"),
        (b"seed = " + b"9" * 5000, "the recipe is not TOML"),
        (b"optimizer.lr = 1" + b"0" * 400, "optimizer.lr must be a number or auto"),
        (b"epochs = 5", "did you mean training.epochs?"),
        (b"[optimiser]\nlr = 1", "did you mean optimizer?"),
    ],
)
def test_a_recipe_file_that_cannot_be_used_is_told_why(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_a_missing_recipe_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RecipeError, match="cannot read the recipe") as caught:
            load_recipe(path)
        assert str(path) in str(caught.value)
        assert "--recipe" in str(caught.value)


def test_a_recipe_cannot_be_changed_only_derived() -> None:
    recipe = Recipe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 3  # type: ignore[misc]
    assert from_dict({"seed": 3}) == dataclasses.replace(recipe, seed=3)
