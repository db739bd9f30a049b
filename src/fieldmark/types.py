"""The words of Fieldmark as types. No torch here: these travel through files and the command line.

Legend of shape names used in every file:
    b  pictures in a batch      n  pictures in a part        k  classes
    c  channels (1 or 3)        h, w  height and width, px
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from fieldmark.errors import CheckpointError, check_choice

Part = Literal["train", "val", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "val", "test")
MAX_SIZE_PX: Final = 8192  # of a network's input


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        path: a file, or a picture inside a bundle: `train-images-idx3-ubyte.gz#17`, `digits#17`.
        label: the class name; empty when unknown.
        part: train, val or test; empty before the split.
        group: pictures of one group (a patient, a film, a set of near-duplicates) stay together
            when parts are drawn; empty for a picture that stands alone.
    """

    path: str
    label: str
    part: Part | Literal[""] = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that was found but not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The deterministic way from a picture to a network input. There is no other one.

    Attributes:
        size: height and width of the input, px.
        channels: 1 (grey) or 3 (RGB).
        mean, std: per channel, on the scale where white is 1.
        resize: "crop" keeps the proportions (short side to `round(size / crop_fraction)`, then the
            centre); "squash" forces the whole picture into the square.
        crop_fraction: the share of the short side that the centre crop keeps, in (0, 1].
        interpolation: how pixels are resampled (antialiased in either case).
        channel_order: how the network is given colours. "bgr" is for weights that were trained so,
            as Caffe's and Keras' early ones; `mean` and `std` are in the order of RGB all the same.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        check_choice("resize", self.resize, ("crop", "squash"), error=CheckpointError)
        check_choice(
            "interpolation", self.interpolation, ("bilinear", "bicubic"), error=CheckpointError
        )
        check_choice("channel_order", self.channel_order, ("rgb", "bgr"), error=CheckpointError)
        per_channel_ok = len(self.mean) == len(self.std) == self.channels
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if (
            self.channels not in (1, 3)
            or not 1 <= self.size <= MAX_SIZE_PX
            or not 0 < self.crop_fraction <= 1
            or (self.channel_order == "bgr" and self.channels != 3)
            or not (per_channel_ok and finite and all(s > 0 for s in self.std))
        ):
            raise CheckpointError(
                "this preprocess makes no sense",
                given=asdict(self),
                valid=f"size 1-{MAX_SIZE_PX} px, 1 or 3 channels, a finite mean and a positive std "
                "for each channel, 0 < crop_fraction <= 1, bgr with 3 channels only",
                fix="train the model again, or get the model file anew",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Inverse of `to_dict`, after a trip through JSON (tuples arrive as lists)."""
        names = {field.name for field in fields(cls)}
        # Files written before there was a channel_order are all of RGB.
        if not isinstance(values, Mapping) or set(values) | {"channel_order"} != names:
            raise CheckpointError(
                "the model file does not describe its preprocess as this version does",
                given=values,
                valid=sorted(names),
                fix="use the version of Fieldmark that wrote the file",
            )
        try:
            return cls(
                size=int(values["size"]),
                channels=int(values["channels"]),
                mean=tuple(float(x) for x in values["mean"]),
                std=tuple(float(x) for x in values["std"]),
                resize=values["resize"],
                crop_fraction=float(values["crop_fraction"]),
                interpolation=values["interpolation"],
                channel_order=values.get("channel_order", "rgb"),
            )
        except (TypeError, ValueError, OverflowError) as error:  # Overflow: JSON's Infinity
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                "the model file's preprocess holds values of the wrong kind",
                given=values,
                fix="train the model again, or get the model file anew",
            ) from error


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured figure with its 95 % interval and the number of pictures it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f}, n={self.n})"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one picture; `error` is set, and the rest empty, when it could not look.

    Attributes:
        path: the picture.
        class_names: all classes, in the model's order.
        probabilities: one a class, in the same order, summing to 1.
    """

    path: str
    class_names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def top(self, k: int = 1) -> list[tuple[str, float]]:
        """The `k` likeliest classes with their probabilities, likeliest first."""
        pairs = zip(self.class_names, self.probabilities, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])[:k]

    @property
    def label(self) -> str | None:
        """The likeliest class; None when the picture could not be read."""
        return self.top(1)[0][0] if self.error is None else None
