"""A recipe: everything that decides a run, as typed words with their units. TOML on disk.

Recipes are frozen; derive one from another with `dataclasses.replace` or `with_settings`. A key
nobody knows is an error with a suggestion, never ignored. Words that may say "auto" are settled
in `fieldmark.auto` before a run starts, and the run's own `recipe.toml` holds what was settled.
Only mean, std, device, precision and cache may say "auto" there: pictures and machine decide them.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypedDict, get_type_hints

import tomli_w

from fieldmark.errors import RecipeError, check_choice
from fieldmark.ranges import MEANINGS, NUMBERS, RANGES, check_meaning, check_number, check_numbers
from fieldmark.typed import build

Auto = Literal["auto"]


class Words(TypedDict, total=False):
    """The words that the command line and `fieldmark.train` share; None is as good as not given.

    Beside its type each has the setting it stands for, which says more about it.
    """

    model: Annotated[str | None, "model.name"]
    weights: Annotated[str | None, "model.weights"]
    mode: Annotated[str | None, "mode"]
    freeze_through: Annotated[str | None, "training.freeze_through"]
    head: Annotated[str | None, "transfer.head"]
    hidden: Annotated[int | None, "transfer.hidden"]
    views: Annotated[int | Auto | None, "transfer.views"]
    folds: Annotated[int | None, "transfer.folds"]
    head_first: Annotated[bool | Auto | None, "transfer.head_first"]
    stage_lr_decay: Annotated[float | None, "transfer.stage_lr_decay"]
    unfreeze_every: Annotated[int | None, "transfer.unfreeze_every"]
    norms: Annotated[str | None, "transfer.norms"]
    class_weights: Annotated[str | None, "training.class_weights"]
    sampling: Annotated[str | None, "training.sampling"]
    epochs: Annotated[int | None, "training.epochs"]
    batch_size: Annotated[int | None, "training.batch_size"]
    size: Annotated[int | Auto | None, "data.size"]
    lr: Annotated[float | Auto | None, "optimizer.lr"]
    optimizer: Annotated[str | None, "optimizer.name"]
    schedule: Annotated[str | None, "schedule.name"]
    augment: Annotated[str | None, "augment.preset"]
    seed: Annotated[int | None, "seed"]
    device: Annotated[str | None, "device"]
    cache: Annotated[str | None, "data.cache"]
    depth: Annotated[int | None, "data.depth"]
    group_by: Annotated[str | None, "data.group_by"]
    val_is_val: Annotated[bool | None, "data.val_is_val"]
    strict: Annotated[bool | None, "data.strict"]


_HINTS = get_type_hints(Words, include_extras=True)
WORDS: Final[dict[str, str]] = {
    "source": "source",  # for `fieldmark.train` an argument of its own: it may be no name
    **{word: hint.__metadata__[0] for word, hint in _HINTS.items()},
}


@dataclass(frozen=True)
class DataRecipe:
    """Which pictures, and how a picture becomes a network input."""

    size: int | Auto = "auto"  # px, height and width of the input
    channels: Literal["auto", 1, 3] = "auto"  # auto: 1 where every picture is grey, else 3
    resize: Literal["auto", "crop", "squash"] = "auto"  # crop keeps the proportions
    crop_fraction: float | Auto = "auto"  # share of the short side the centre crop keeps
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    mean: tuple[float, ...] | Auto = "auto"  # per channel, 0-1; auto: of the training pictures
    std: tuple[float, ...] | Auto = "auto"
    channel_order: Literal["auto", "rgb", "bgr"] = "auto"  # bgr: for weights that were trained so
    val_fraction: float = 0.1  # of each class, where the source has no such part
    test_fraction: float = 0.1
    val_is_val: bool = False  # select on a given val/ instead of keeping it for the final test
    train_limit: int = 0  # train on a stratified draw of so many pictures; 0: all
    class_names: tuple[str, ...] = ()  # new names for the classes, in their order
    strict: bool = False  # a picture that cannot be read stops the run
    cache: Literal["auto", "ram", "gpu", "disk", "none"] = "auto"  # where decoded pictures are kept
    depth: int = 1  # the class is the folder so far below the source
    group_by: str = ""  # regular expression on paths: what it finds (its first group) goes together
    quick_check: bool = True  # look for duplicates first, and keep them in one part where we draw


@dataclass(frozen=True)
class ModelRecipe:
    """Which network."""

    name: str = "resnet18"
    weights: str = "none"  # imagenet, a tag, a run, a file, hf:org/name, https://...#sha256=HEX
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the network's builder


@dataclass(frozen=True)
class OptimizerRecipe:
    """How a gradient becomes a step."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float | Auto = "auto"  # peak, per step
    momentum: float = 0.9  # sgd only
    nesterov: bool = False  # sgd only
    betas: tuple[float, float] = (0.9, 0.999)  # adam and adamw only
    weight_decay: float | Auto = "auto"  # never on biases and norms
    clip_norm: float = 0.0  # largest global gradient norm; 0: no clipping


@dataclass(frozen=True)
class ScheduleRecipe:
    """How the learning rate moves; evaluated at every step."""

    name: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    warmup_epochs: float = 0.0  # linear rise before constant, step, cosine; one_cycle has its own
    step_epochs: int = 2  # step: epochs between two drops
    gamma: float = 0.92  # step: lr = peak * gamma ** (epoch // step_epochs)
    rise_fraction: float = 0.3  # one_cycle: share of all steps spent rising


@dataclass(frozen=True)
class TrainingRecipe:
    """The loop."""

    epochs: int = 20
    batch_size: int = 32
    label_smoothing: float = 0.0  # share of the target spread over all classes
    class_weights: Literal["none", "balanced"] = "none"  # balanced: n / (classes * n_class)
    sampling: Literal["shuffle", "balanced"] = "shuffle"  # balanced: every class equally often
    patience: int = 0  # stop after so many epochs without a better validation; 0: never
    ema_decay: float = 0.0  # exponential moving average of the weights, per step; 0: none
    freeze_through: str = ""  # mode partial: the last frozen stage, say "layer2"


@dataclass(frozen=True)
class TransferRecipe:
    """What becomes of trained weights: the head on top, and how the rest follows it."""

    head: Literal["auto", "own", "linear", "mlp", "logistic"] = "auto"  # auto: the network's own
    hidden: int = 512  # mlp only: units of its hidden layer
    views: int | Auto = "auto"  # frozen, partial: stored views a picture; 0: as evaluation sees it
    folds: int = 0  # frozen: also predict each training picture out of so many folds; 0: do not
    head_first: bool | Auto = "auto"  # finetune, partial: begin with a head trained on features
    stage_lr_decay: float = 1.0  # finetune, partial: lr of a stage / lr of the stage above it
    unfreeze_every: int = 0  # finetune, partial: epochs until one more stage trains; 0: all at once
    norms: Literal["auto", "train", "eval"] = "auto"  # batch norm that trains: statistics of the
    # batch (train), or the stored ones (eval), while its weights and biases train all the same


@dataclass(frozen=True)
class AugmentRecipe:
    """What training pictures go through, and no others. `preset` fills the words left at "auto"."""

    preset: Literal["auto", "none", "light", "standard", "strong"] = "auto"
    crop_scale: tuple[float, float] | Auto = "auto"  # area of the random crop, share of the picture
    crop_ratio: tuple[float, float] | Auto = "auto"  # its width / height
    hflip: float | Auto = "auto"  # probability of a left-right flip
    vflip: float | Auto = "auto"  # probability of an upside-down flip
    rotate_degrees: float | Auto = "auto"  # rotation drawn from +- this
    brightness: float | Auto = "auto"  # factor drawn from 1 +- this
    contrast: float | Auto = "auto"
    saturation: float | Auto = "auto"
    hue: float | Auto = "auto"  # turn drawn from +- this, 0.5 is half the colour circle
    policy: Literal["auto", "none", "randaugment", "trivialaugment"] = "auto"  # torchvision's
    num_ops: int = 2  # randaugment only: operations a picture
    magnitude: int = 9  # randaugment only: 0 to 30
    erase: float | Auto = "auto"  # probability that a rectangle is erased
    mixup: float | Auto = "auto"  # alpha of the Beta that mixes two pictures; 0: none
    cutmix: float | Auto = "auto"  # alpha of the Beta for the area pasted in; 0: none


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    source: str = ""  # folder, manifest CSV, IDX folder, or a known name
    mode: Literal["auto", "scratch", "finetune", "frozen", "partial"] = "auto"
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    transfer: TransferRecipe = field(default_factory=TransferRecipe)

    def __post_init__(self) -> None:
        check_ranges(self)

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """A recipe with dotted keys replaced: `{"optimizer.lr": 0.1, "seed": 3}`.

        Raises:
            RecipeError: unknown key (with a suggestion), wrong type, or value out of range.
        """
        nested = to_dict(self)
        for dotted, value in settings.items():
            *sections, name = dotted.split(".")
            table = nested
            for section in sections:
                table = table.setdefault(section, {})
                if not isinstance(table, dict):
                    raise RecipeError(
                        "a setting goes one level too deep",
                        given=dotted,
                        fix=f"{section!r} is a value, not a section: drop what follows it",
                    )
            table[name] = value
        return from_dict(nested)


def check_ranges(recipe: Recipe) -> None:
    """Raise RecipeError for the first value, or pair of values, that cannot mean anything."""
    for name, limits in RANGES.items():
        check_number(name, _value(recipe, name), limits)
    for name, numbers in NUMBERS.items():
        check_numbers(name, _value(recipe, name), numbers)
    data, training, transfer = recipe.data, recipe.training, recipe.transfer
    optimizer, schedule = recipe.optimizer, recipe.schedule
    if data.val_fraction + data.test_fraction >= 1:
        raise RecipeError(
            "nothing would be left to train on",
            given=f"val_fraction {data.val_fraction:g} + test_fraction {data.test_fraction:g}",
            valid="a sum below 1",
            fix="lower data.val_fraction or data.test_fraction",
        )
    group_expression(data.group_by)
    if recipe.mode == "partial" and not training.freeze_through:
        raise RecipeError(
            "mode partial needs to know how far the network is frozen",
            given="mode = partial, no training.freeze_through",
            fix="add --freeze-through STAGE; `fieldmark summary MODEL` lists them, of resnet18 "
            "such as layer2",
        )
    for meaning in MEANINGS:
        check_meaning(_value(recipe, meaning.word), mode_of(recipe), meaning)
    if transfer.hidden != TransferRecipe.hidden and transfer.head != "mlp":
        raise RecipeError(
            "only the head mlp has a hidden layer",
            given=f"transfer.head = {transfer.head}, transfer.hidden = {transfer.hidden}",
            fix="add --head mlp, or leave --hidden out",
        )
    if transfer.head == "logistic" and recipe.mode != "frozen" and transfer.head_first is False:
        raise RecipeError(
            "a logistic regression is fitted before all weights train, or not at all",
            given="transfer.head = logistic, transfer.head_first = false",
            fix="leave --no-head-first out, or take --head linear",
        )
    if transfer.folds == 1:
        raise RecipeError(
            "one fold leaves nothing to train on",
            given="transfer.folds = 1",
            valid="2 or more, or 0 for none",
            fix="--folds 5 is usual",
        )
    if schedule.warmup_epochs and schedule.name == "one_cycle":
        raise RecipeError(
            "one_cycle has a rise of its own and takes no warm-up",
            given=f"schedule.warmup_epochs = {schedule.warmup_epochs:g}",
            fix="set schedule.rise_fraction instead, or take --schedule cosine",
        )
    if optimizer.nesterov and optimizer.momentum == 0:
        raise RecipeError(
            "Nesterov momentum needs a momentum",
            given="optimizer.nesterov = true, optimizer.momentum = 0",
            fix="set optimizer.momentum to 0.9, or optimizer.nesterov to false",
        )


def mode_of(recipe: Recipe) -> Literal["scratch", "finetune", "frozen", "partial"]:
    """The recipe's mode; where it says "auto", what follows from whether weights are named."""
    if recipe.mode != "auto":
        return recipe.mode
    return "scratch" if recipe.model.weights == "none" else "finetune"


def _value(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from TOML.

    Raises:
        RecipeError: no such file, not TOML, unknown key, wrong type or range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe: {error.strerror}",
            given=path,
            fix="check the path given to --recipe",
        ) from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise RecipeError(
            f"the recipe is not TOML: {error}",
            given=path,
            fix="compare it with the recipe.toml of any run",
        ) from error
    try:
        return from_dict(values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML text; `load_recipe` of it gives an equal recipe."""
    return tomli_w.dumps(to_dict(recipe))


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values; tuples become lists as TOML has them."""
    return {
        key: {name: list(v) if isinstance(v, tuple) else v for name, v in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in dataclasses.asdict(recipe).items()
    }


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Inverse of `to_dict`; checks every key, type and range."""
    recipe: Recipe = build(Recipe, values)
    return recipe


def parse_setting(text: str) -> tuple[str, Any]:
    """`section.field=value` from the command line; the value is read as TOML, else as a string.

    Raises:
        RecipeError: no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            "a setting needs a name and a value",
            given=repr(text),
            valid="section.field=value",
            fix="for example --set optimizer.weight_decay=0.05",
        )
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except ValueError:  # a bare word, a path, or `.5`, which people write and TOML refuses
        parsed = value.strip()
        if re.fullmatch(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", parsed, re.IGNORECASE | re.ASCII):
            parsed = float(parsed)
    return key.strip(), parsed


def assemble(
    base: Recipe | str | Path | None, words: Mapping[str, Any], settings: Mapping[str, Any]
) -> Recipe:
    """A recipe (or its file, or the default one), then the words given, then dotted settings.

    Args:
        words: of `WORDS`; None stands for a word not given.

    Raises:
        RecipeError: unknown word or key, wrong type, or value out of range.
    """
    for word in words:
        check_choice("setting", word, [*WORDS, "recipe", "settings", "out", "name"])
    recipe = base if isinstance(base, Recipe) else load_recipe(Path(base)) if base else Recipe()
    given = {WORDS[word]: value for word, value in words.items() if value is not None}
    return recipe.with_settings({**given, **settings})


def says_epochs(words: Mapping[str, Any], settings: Mapping[str, Any] | None) -> bool:
    """Whether the number of epochs is among these words and settings."""
    return words.get("epochs") is not None or WORDS["epochs"] in (settings or {})


def group_expression(pattern: str) -> re.Pattern[str]:
    """What `data.group_by` means; RecipeError if it is no regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(
            f"group_by is no regular expression: {error}",
            given=pattern,
            valid="Python's regular expressions; the first (group) is what counts, else all of it",
            fix=r"for example '(film\d+)_' for film12_frame003.jpg",
        ) from error
