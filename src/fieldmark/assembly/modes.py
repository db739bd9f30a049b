"""Which modes of training are compared, and the recipe of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from fieldmark.assembly.network import find_weights
from fieldmark.errors import DownloadError, RecipeError, check_choice
from fieldmark.models.contract import Network
from fieldmark.models.registry import sketch
from fieldmark.pretrained import Pretrained, published_weights
from fieldmark.progress import Progress
from fieldmark.ranges import MEANINGS
from fieldmark.recipe import WORDS, Recipe, TransferRecipe
from fieldmark.training.freeze import frozen_stages

_THROUGH: Final = "training.freeze_through"
MODES: Final = ("scratch", "frozen", "partial", "finetune")
TRAINED: Final = MODES[1:]  # start from trained weights
# Words that say something in some modes alone: each mode gets those that are for it.
_OF_SOME_MODES: Final = frozenset(meaning.word for meaning in MEANINGS) | {"transfer.hidden"}


def without_mode(recipe: Recipe, progress: Progress) -> tuple[Recipe, str]:
    """The recipe without a mode of its own, and the stage that it freezes through, if any."""
    if recipe.mode == "auto":
        return recipe, ""
    progress.say(
        f"the recipe is for mode {recipe.mode}; here its other words are those of every mode"
    )
    stage = recipe.training.freeze_through
    open_recipe = replace(recipe, mode="auto", training=replace(recipe.training, freeze_through=""))
    return open_recipe, stage


def with_published_weights(recipe: Recipe, progress: Progress) -> tuple[Recipe, Pretrained | None]:
    """The recipe with the weights that are published for its network, as most modes need some, and
    these; where there are none or they cannot be had now, as it is, and None.

    Raises:
        FieldmarkError: no such network, or its weights' file is damaged.
    """
    name = recipe.model.name
    if not published_weights(name):
        return recipe, None
    named = replace(recipe, model=replace(recipe.model, weights="imagenet"))
    progress.say(
        f"weights imagenet: none are named, and {name} has these (--weights none: without)"
    )
    try:
        return named, find_weights(named, progress)
    except DownloadError as error:
        progress.say(str(error))
        return recipe, None


def choose_modes(
    recipe: Recipe,
    wanted: Sequence[str] | None,
    of_some: Mapping[str, Any],
    own_stage: str,
    progress: Progress,
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The modes to train, and the words of some modes with the stage that partial needs.

    Raises:
        RecipeError: a mode that is none or not possible, a stage that is none, or a word that no
            mode takes.
    """
    chosen = possible_modes(recipe, wanted, progress)
    check_meant(of_some, chosen)
    if "partial" not in chosen:
        return chosen, dict(of_some)
    network = sketch(recipe.model.name, recipe.model.options)
    stage = of_some.get(_THROUGH) or own_stage or middle_stage(network)
    if stage is None:
        progress.say(f"{recipe.model.name} has one stage below its head: there is no partial")
        return tuple(mode for mode in chosen if mode != "partial"), dict(of_some)
    of_some = {**of_some, _THROUGH: stage}
    frozen_stages(network, recipe_of("partial", recipe, of_some, ""))  # or says which there are
    stages = ", ".join(network.stages)
    progress.say(f"partial is frozen through {stage} of {stages} (--freeze-through STAGE)")
    return chosen, of_some


def possible_modes(
    recipe: Recipe, wanted: Sequence[str] | None, progress: Progress
) -> tuple[str, ...]:
    """The modes to train, in the order of `MODES`; says which are not possible.

    Raises:
        RecipeError: one of `wanted` is no mode, or needs weights and none are named.
    """
    for mode in wanted or ():
        check_choice("mode", mode, MODES)
    if recipe.model.weights != "none":
        return tuple(mode for mode in MODES if not wanted or mode in wanted)
    impossible = [mode for mode in wanted or () if mode in TRAINED]
    if impossible:
        raise RecipeError(
            f"{' and '.join(impossible)} start from trained weights, and none are named",
            given=f"--modes {','.join(wanted or ())}",
            valid="scratch alone, where no weights are named",
            fix=f"add {_way_to_weights(recipe)}",
        )
    if not wanted:
        progress.say(without_weights(recipe))
    return ("scratch",)


def without_weights(recipe: Recipe) -> str:
    """Why there is scratch alone, and what to do."""
    return (
        "No weights are named, and without them only scratch can be trained: frozen, partial and "
        f"finetune start from trained weights. For these add {_way_to_weights(recipe)}."
    )


def _way_to_weights(recipe: Recipe) -> str:
    published = published_weights(recipe.model.name)
    if published:
        return f"--weights {published[0].tag}"
    return f"--weights with a run or a file (nothing is published for {recipe.model.name})"


def middle_stage(network: Network) -> str | None:
    """The stage to freeze through where nobody says: the middle one below the head. None where
    there is no stage left that would train as `frozen` does not.
    """
    below_head = network.stages[:-1]
    return below_head[(len(below_head) - 1) // 2] if len(below_head) > 1 else None


def part_words(
    words: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked for, as dotted settings: of every mode, and of some modes alone."""
    given = {WORDS[word]: value for word, value in words.items() if value is not None}
    given.update(settings)
    of_some = {word: value for word, value in given.items() if word in _OF_SOME_MODES}
    return {word: value for word, value in given.items() if word not in of_some}, of_some


def recipe_of(mode: str, recipe: Recipe, of_some: Mapping[str, Any], source: str) -> Recipe:
    """The recipe of one mode: as asked for, trained on the parts that `source` names.

    What has been done once for all modes (looking for copies, grouping, drawing) is not done again,
    and words that mean nothing in this mode keep their defaults.
    """
    asked = {f"transfer.{word}": value for word, value in asdict(recipe.transfer).items()}
    asked = {**asked, **of_some}
    kept = {word: value for word, value in asked.items() if means(word, value, mode)}
    if kept.get("transfer.head") != "mlp":
        kept.pop("transfer.hidden", None)
    once = {"depth": 1, "group_by": "", "quick_check": False, "train_limit": 0}
    return replace(recipe, mode="auto", transfer=TransferRecipe()).with_settings(
        {
            "source": source,
            "mode": mode,
            "model.weights": "none" if mode == "scratch" else recipe.model.weights,
            **{f"data.{word}": value for word, value in once.items()},
            **kept,
        }
    )


def means(word: str, value: object, mode: str) -> bool:
    """Whether a word with this value says something, or does no harm, in a mode."""
    return all(
        mode in meaning.modes or value in meaning.idle
        for meaning in MEANINGS
        if meaning.word == word
    )


def check_meant(of_some: Mapping[str, Any], chosen: Sequence[str]) -> None:
    """Raise RecipeError for a word that would be ignored, as none of these modes takes it."""
    for word, value in of_some.items():
        if any(means(word, value, mode) for mode in chosen):
            continue
        valid = [mode for mode in MODES if means(word, value, mode)]
        raise RecipeError(
            f"{word} = {value} means nothing in {' and '.join(chosen)}",
            given=f"{word} = {value}, modes {','.join(chosen)}",
            valid=f"with {' or '.join(valid)} among the modes" if valid else None,
            fix="add one of these to --modes, or leave that word out",
        )
