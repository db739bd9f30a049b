"""Trainings that start from trained weights, small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import fieldmark as fm
from fieldmark.assembly import trainee
from fieldmark.errors import ModelError
from fieldmark.models.contract import as_network
from fieldmark.models.registry import create_model
from fieldmark.progress import Silent
from fieldmark.training.features import compute_features

QUICK: dict[str, Any] = {
    "model": "resnet10",
    "size": 32,
    "epochs": 2,
    "batch_size": 8,
    "device": "cpu",
    "augment": "none",
}


class Said(Silent):
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def line(self, beginning: str) -> str:
        """The one line that begins so."""
        (line,) = (line for line in self.lines if line.startswith(beginning))
        return line

    def has(self, words: str) -> bool:
        return any(words in line for line in self.lines)


def transfer(source: object, out: Path, weights: object, **words: Any) -> fm.Run:
    return fm.train(
        str(source), out=out, weights=str(weights), **{"progress": Silent(), **QUICK, **words}
    )


def tensors(model: Path) -> dict[str, Tensor]:
    """What is in a model file, or in a run's, under the names that it has there."""
    return load_file(model / "model.safetensors" if model.is_dir() else model)


def random_weights(
    file: Path, name: str, channels: int = 3, classes: int = 5, **options: Any
) -> Path:
    """A file of weights as they are drawn; its batch norms have statistics that do something."""
    torch.manual_seed(0)
    network = create_model(name, classes, channels, **options)
    for key, buffer in network.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), file)
    return file


def keys_below(name: str, stages: int, **options: Any) -> set[str]:
    """The names, in a state dict, of all that is in the first so many stages (negative: but so
    many)."""
    model = create_model(name, 3, **options)
    network = as_network(model)
    inside = {
        id(tensor)
        for stage in network.stages[:stages]
        for module in network.stage_modules()[stage]
        for tensor in module.state_dict(keep_vars=True).values()
    }
    prefix = "net." if hasattr(model, "net") else ""
    state = model.state_dict(keep_vars=True)
    return {key.removeprefix(prefix) for key, tensor in state.items() if id(tensor) in inside}


@contextmanager
def streaming() -> Iterator[None]:
    """No network can be cut in two."""

    def refuse(*args: Any) -> None:
        raise ModelError("no scissors")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainee, "cut_network", refuse)
        yield


@dataclass
class Shown:
    """How many pictures the frozen part was shown, by what was computed of them."""

    of: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.of.values())


@contextmanager
def counting(stop_after: int | None = None) -> Iterator[Shown]:
    """Counts the pictures that go through the frozen part to become features.

    Args:
        stop_after: the user has enough when so many have, and presses Ctrl-C.
    """
    compute: Callable[..., Any] = compute_features
    shown = Shown()

    def counted(*args: Any, title: str, **words: Any) -> Any:
        shown.of.setdefault(title, 0)
        store, contents, views, lower, *rest = args

        class Lower(torch.nn.Module):
            def forward(self, images_bchw: Tensor) -> Tensor:
                if len(images_bchw) > 1 or images_bchw.any():  # a black one asks for the shape
                    if stop_after is not None and shown.total >= stop_after:
                        raise KeyboardInterrupt
                    shown.of[title] += len(images_bchw)
                features: Tensor = lower(images_bchw)
                return features

        return compute(store, contents, views, Lower(), *rest, title=title, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainee, "compute_features", counted)
        yield shown


def same_history(one: fm.Run, other: fm.Run) -> None:
    """Epoch by epoch the same accuracies, and losses to what float32 and a few steps leave."""
    assert len(one.history) == len(other.history)
    for row, like in zip(one.history, other.history, strict=True):
        assert row.train_loss == pytest.approx(like.train_loss, rel=1e-3, abs=1e-4)
        assert row.val_loss == pytest.approx(like.val_loss, rel=1e-3, abs=1e-4)
        assert (row.train_accuracy, row.val_accuracy) == (like.train_accuracy, like.val_accuracy)


def in_parts(
    make_pictures: Callable[..., Path], folder: Path, counts: Mapping[str, Mapping[str, int]]
) -> Path:
    """`{"train": {"ant": 8}, "val": ...}` as folders; no picture is twice there."""
    done: dict[str, int] = {}
    for part, classes in counts.items():
        for label, count in classes.items():
            start = done.get(label, 0)
            # The first ones of a longer series are another part's.
            whole = make_pictures(folder / ".." / f"all-{part}", {label: start + count})
            for number in range(start, start + count):
                target = folder / part / label / f"{number:03d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                (whole / label / f"{number:03d}.png").rename(target)
            done[label] = start + count
    return folder
