"""What a training may cost, as types and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fieldmark.progress import duration, size
from fieldmark.ranges import STORED


@dataclass(frozen=True, slots=True)
class ModeEstimate:
    """What a training would cost, measured by a short probe.

    Attributes:
        setup_seconds: before the first epoch: features of all pictures and views, else 0.
        seconds_per_epoch: training and validation.
        seconds_total: for all epochs, with the setup.
        memory_bytes: rough; of the network, its training step and the features.
        steps_measured: training steps that the figures rest on.
        view_seconds: the part of `setup_seconds` that one view of every training picture takes.
    """

    setup_seconds: float
    seconds_per_epoch: float
    seconds_total: float
    memory_bytes: int
    steps_measured: int
    view_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to spend the time.

    Attributes:
        mode: scratch, finetune, frozen or partial.
        views: stored views a picture, where features are stored; 0: as evaluation sees it.
        size: height and width of the input, px.
        epochs: of the training.
    """

    mode: str
    views: int
    size: int
    epochs: int

    @property
    def settings(self) -> dict[str, Any]:
        """As dotted settings of a recipe; views only where they mean something."""
        views = {"transfer.views": self.views} if self.mode in STORED else {}
        words = {"mode": self.mode, "data.size": self.size, "training.epochs": self.epochs}
        return {**words, **views}


def estimate_line(estimate: ModeEstimate, epochs: int) -> str:
    """The estimate for people: `about 4 min: 9.1 s an epoch, 20 epochs after 58 s for features;
    about 900 MB`."""
    total, each = about(estimate.seconds_total), precise(estimate.seconds_per_epoch)
    text = f"about {total}: {each} an epoch, {count_epochs(epochs)}"
    if estimate.setup_seconds:
        text += f" after {precise(estimate.setup_seconds)} for features"
    return f"{text}; about {_about_bytes(estimate.memory_bytes)}"


def mode_words(candidate: Candidate) -> str:
    """`finetune`, `frozen with 4 views`."""
    views = f" with {count_views(candidate.views)}" if candidate.mode in STORED else ""
    return f"{candidate.mode}{views}"


def count_views(views: int) -> str:
    return "no augmented views" if views == 0 else f"{views} view{'s' * (views != 1)}"


def count_epochs(epochs: int) -> str:
    return f"{epochs} epoch{'s' * (epochs != 1)}"


def about(seconds: float) -> str:
    """A duration no more precise than an estimate: half minutes up to ten, then whole ones."""
    if seconds < 59.5:
        return precise(seconds)
    unit = 30 if seconds < 600 else 60 if seconds < 3600 else 600
    return duration(unit * max(1, round(seconds / unit))).removesuffix(" 00 s")


def precise(seconds: float) -> str:
    """A duration, with tenths below ten seconds."""
    if seconds < 0.05:
        return "less than 0.1 s"
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def _about_bytes(num_bytes: int) -> str:
    """Two digits: nobody knows more."""
    unit = 10 ** max(0, len(str(num_bytes)) - 2)
    return size(unit * round(num_bytes / unit)).replace(".0 ", " ")
