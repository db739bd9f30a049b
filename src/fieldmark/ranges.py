"""What the numbers of a recipe may be: smallest, largest, and what they count."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fieldmark.errors import RecipeError


class Range(NamedTuple):
    """Of one number."""

    low: float
    high: float
    unit: str


class Meaning(NamedTuple):
    """Of a word that says something in some modes alone.

    Attributes:
        modes: those, the usual one first; all of them need weights.
        idle: what it may say in the others, as it asks for nothing.
        reason: why only there.
    """

    word: str
    modes: tuple[str, ...]
    idle: tuple[object, ...]
    reason: str


class Numbers(NamedTuple):
    """Of each number of a tuple; `rising` wants the smaller one first."""

    low: float
    high: float
    rising: bool = False


RANGES: Final = {
    "seed": Range(0, 2**63 - 1, "a whole number"),
    "data.size": Range(1, 4096, "px"),
    "data.crop_fraction": Range(0.01, 1, "share of the short side"),
    "data.val_fraction": Range(0, 0.9, "share of the pictures"),
    "data.test_fraction": Range(0, 0.9, "share of the pictures"),
    "data.train_limit": Range(0, 10**12, "pictures"),
    "data.depth": Range(1, 100, "folders below the source"),
    "optimizer.lr": Range(0, 1000, "learning rate"),
    "optimizer.momentum": Range(0, 0.9999, "momentum"),
    "optimizer.weight_decay": Range(0, 100, "weight decay"),
    "optimizer.clip_norm": Range(0, 1e9, "gradient norm"),
    "schedule.warmup_epochs": Range(0, 1e6, "epochs"),
    "schedule.step_epochs": Range(1, 10**6, "epochs"),
    "schedule.gamma": Range(0, 1, "factor"),
    "schedule.rise_fraction": Range(0, 1, "share of the steps"),
    "training.epochs": Range(1, 10**6, "epochs"),
    "training.batch_size": Range(1, 10**6, "pictures"),
    "training.label_smoothing": Range(0, 0.99, "share"),
    "training.patience": Range(0, 10**6, "epochs"),
    "training.ema_decay": Range(0, 0.999999, "decay per step"),
    "transfer.hidden": Range(1, 10**5, "units"),
    "transfer.views": Range(0, 1000, "views a picture"),
    "transfer.folds": Range(0, 1000, "folds"),
    "transfer.stage_lr_decay": Range(1e-6, 1, "factor a stage"),
    "transfer.unfreeze_every": Range(0, 10**6, "epochs"),
    "augment.hflip": Range(0, 1, "probability"),
    "augment.vflip": Range(0, 1, "probability"),
    "augment.rotate_degrees": Range(0, 180, "degrees"),
    "augment.brightness": Range(0, 1, "share"),
    "augment.contrast": Range(0, 1, "share"),
    "augment.saturation": Range(0, 1, "share"),
    "augment.hue": Range(0, 0.5, "turns of the colour circle"),
    "augment.magnitude": Range(0, 30, "bins of 31"),
    "augment.num_ops": Range(1, 10, "operations a picture"),
    "augment.erase": Range(0, 1, "probability"),
    "augment.mixup": Range(0, 100, "alpha of the Beta distribution"),
    "augment.cutmix": Range(0, 100, "alpha of the Beta distribution"),
}

NUMBERS: Final = {
    "data.mean": Numbers(0.0, 1.0),
    "data.std": Numbers(1e-6, 1000.0),
    "augment.crop_scale": Numbers(0.01, 1.0, rising=True),
    "augment.crop_ratio": Numbers(0.1, 10.0, rising=True),
    "optimizer.betas": Numbers(0.0, 0.99999),
}

STORED: Final = ("frozen", "partial")  # modes whose features can be stored, in several views

LINEAR_HEADS: Final = ("linear", "logistic")  # in mode frozen the classifier trains alone

# Words that would be ignored are refused.
MEANINGS: Final = (
    Meaning(
        "training.freeze_through", ("partial",), ("",), "the other modes say themselves what trains"
    ),
    Meaning(
        "transfer.head",
        ("frozen", "finetune", "partial"),
        ("auto", "own", "linear", "logistic"),
        "it goes on top of a trained network",
    ),
    Meaning(
        "transfer.head",
        ("frozen", "finetune"),
        ("auto", "own", "linear", "mlp"),
        "it is fitted to features that stand still",
    ),
    Meaning(
        "transfer.views",
        ("frozen", "partial"),
        ("auto", 0),
        "what a frozen part makes of a picture is stored",
    ),
    Meaning("transfer.folds", ("frozen",), (0,), "so many heads are trained on stored features"),
    Meaning(
        "transfer.head_first",
        ("finetune", "partial"),
        ("auto", False),
        "where trained stages train on, a head drawn at random would spoil them first",
    ),
    Meaning(
        "transfer.stage_lr_decay",
        ("finetune", "partial"),
        (1,),
        "several trained stages go on training",
    ),
    Meaning(
        "transfer.unfreeze_every",
        ("finetune", "partial"),
        (0,),
        "several trained stages go on training",
    ),
    Meaning(
        "transfer.norms",
        ("finetune", "partial", "frozen"),
        ("auto", "train"),
        "a network from random weights has no statistics yet",
    ),
)


def check_meaning(value: Any, mode: str, meaning: Meaning) -> None:
    """Raise RecipeError where a word asks for what there is not in that mode."""
    word, flag = meaning.word, "--" + meaning.word.partition(".")[2].replace("_", "-")
    if mode not in meaning.modes and value not in meaning.idle:
        raise RecipeError(
            f"{flag} {value} means nothing in mode {mode}",
            given=f"mode = {mode}, {word} = {value}",
            valid=f"in mode {' or '.join(meaning.modes)}: {meaning.reason}",
            fix=f"take --mode {meaning.modes[0]} with --weights, or leave {flag} out",
        )


def check_number(name: str, value: Any, limits: Range) -> None:
    """Raise RecipeError where a number is out of its range; "auto" always passes."""
    # `not (low <= value <= high)` also refuses NaN, which compares false with everything.
    if value != "auto" and not (limits.low <= value <= limits.high):
        raise RecipeError(
            f"{name} is out of range",
            given=value,
            valid=f"{limits.low:g} to {limits.high:g} ({limits.unit})",
            fix=f"set {name} to a value in that range",
        )


def check_numbers(name: str, values: Any, limits: Numbers) -> None:
    """Raise RecipeError where a tuple has a number out of range, or the greater one first."""
    if values == "auto":
        return
    in_range = values and all(limits.low <= x <= limits.high for x in values)
    if not in_range or (limits.rising and values[0] > values[1]):
        order = ", the smaller one first" if limits.rising else ""
        raise RecipeError(
            f"{name} is out of range",
            given=values,
            valid=f"numbers from {limits.low:g} to {limits.high:g}{order}",
            fix=f"set {name} to numbers in that range",
        )
