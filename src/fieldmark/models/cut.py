"""A network in two: what is frozen below a boundary between parts, and what trains above it.

A frozen part gives the same features for the same picture in every epoch, so it need run but once.
`lower` makes the features, `upper` trains on them, and both are the network itself: no weight is
copied. That the two compute what the whole does is not argued but tried, before anybody trains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from fieldmark.errors import ModelError
from fieldmark.models.contract import Network, as_network
from fieldmark.models.heads import HEAD_OPTIONS, body_of, parts_of
from fieldmark.models.replay import NUM_WATCHED, Way, find_ways

NUM_TRIED: Final = 3  # pictures: not as many as are watched, as any number must go through
TOLERANCE: Final = 1000  # roundings, of the largest value: 1.2e-4 of it in float32


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its weights.

    Attributes:
        lower: pictures (b, c, h, w) to features, one tensor; in evaluation mode whatever `train()`
            says, and without gradients.
        upper: features to logits (b, k).
        feature_shape: of one picture's features.
        boundary: where the cut is, and of which network but for its weights and classes; part of
            the key under which features may be kept.
    """

    lower: nn.Module
    upper: Upper
    feature_shape: tuple[int, ...]
    boundary: str


def cut_network(model: nn.Module, parts_below: Sequence[str], size_px: int) -> Cut:
    """Cut `model` above `parts_below`, and try the parts on random pictures.

    Pooling and whatever else has no weights at the start of the upper part goes below, as it makes
    features smaller and would be done again in every epoch. The model stays as it was.

    Args:
        parts_below: the first of `heads.parts_of` the network, one or more; not the last.
        size_px: height and width of the pictures.

    Raises:
        ModelError: no such parts, or the parts do not compute what the whole does; then the
            frozen part has to run in every epoch.
    """
    network = as_network(model)
    below, parts = tuple(parts_below), tuple(parts_of(network))
    if below != parts[: len(below)] or not 0 < len(below) < len(parts):
        raise ModelError(
            f"{network.name} cannot be cut above these stages",
            given=", ".join(below) or "no stage",
            valid=f"the first of {', '.join(parts[:-1])}, in this order, one or more",
            fix="name the stages from the input on",
        )
    failures: list[str] = []
    with _as_it_was(model):
        generator = torch.Generator().manual_seed(0)
        weight = next(model.parameters())
        shape = (NUM_TRIED, network.in_channels, size_px, size_px)
        images = torch.randn(shape, generator=generator).to(weight.device, weight.dtype)
        training = model.training
        model.eval()
        try:
            for way in find_ways(model, below, images[:NUM_WATCHED]):
                lower, upper = Lower(way.part_below(model)), Upper(model, way)
                try:
                    feature_shape = _try_out(model, below, lower, upper, images)
                except Exception as error:
                    failures.append(str(error).partition("\n")[0])
                else:
                    upper.training = training
                    return Cut(lower, upper, feature_shape, _describe(network, way))
        except ModelError:  # our own words for pictures that the network does not admit
            raise
        except Exception as error:  # a network may fail in any way on what it is not made for
            failures.append(str(error).partition("\n")[0])
    raise ModelError(
        f"{network.name} cannot be run in two parts above {below[-1]}",
        given=failures[0] if failures else "more than one tensor passes there",
        fix="train it whole: its frozen part is then run in every epoch",
    )


class Lower(nn.Module):
    """The frozen part: pictures (b, c, h, w) to features."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.training = False

    def forward(self, images_bchw: Tensor) -> Tensor:
        with torch.no_grad(), _evaluating(self.part):
            features: Tensor = self.part(images_bchw)
        return features

    def train(self, mode: bool = True) -> Lower:
        """Nothing: the modules are the network's, and their modes its own affair."""
        return self


class Upper(nn.Module):
    """The network from the boundary on; keeps `contract.Network`, so it trains like the whole.

    `forward` takes features. All else is the whole network's, which is `network` and of which the
    state dict is under that name. Not for two threads at once.
    """

    def __init__(self, network: nn.Module, way: Way) -> None:
        super().__init__()
        self.network, self.way = network, way
        self.spares_features = False  # some networks would write into what they are given
        self.training = network.training

    def forward(self, features: Tensor) -> Tensor:
        """Features as `Cut.lower` gives them to logits, shape (b, k)."""
        given = features.clone() if self.spares_features else features
        return self.way.run_above(self.network, given)

    @property
    def whole(self) -> Network:
        return cast("Network", self.network)

    @property
    def net(self) -> nn.Module:
        """Where the names of `classifiers` lead from, as of timm's networks."""
        return body_of(self.whole)

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def stages(self) -> tuple[str, ...]:
        return self.whole.stages

    @property
    def num_classes(self) -> int:
        return self.whole.num_classes

    @property
    def in_channels(self) -> int:
        return self.whole.in_channels

    @property
    def first_convs(self) -> tuple[str, ...]:
        return self.whole.first_convs

    @property
    def classifiers(self) -> tuple[str, ...]:
        return self.whole.classifiers

    @property
    def min_size_px(self) -> int:
        return self.whole.min_size_px

    @property
    def architecture(self) -> dict[str, Any]:
        return self.whole.architecture

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        return self.whole.stage_modules()

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        return self.whole.forward_features(images_bchw)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.whole.forward_head(features)

    def reset_classifier(self, num_classes: int) -> None:
        self.whole.reset_classifier(num_classes)


def _try_out(
    model: nn.Module, below: Sequence[str], lower: Lower, upper: Upper, images_bchw: Tensor
) -> tuple[int, ...]:
    """The shape of one picture's features.

    Raises:
        Exception: the parts do not compute what the whole does, or do not run.
    """
    parts = parts_of(as_network(model))
    tops = [module for part in parts if part not in below for module in parts[part]]
    above = [module for top in tops for module in top.modules() if _has_own_weights(module)]
    with torch.no_grad():
        model.eval()
        features = lower(images_bchw)
        kept = features.clone()
        _compare(above, lambda: model(images_bchw), lambda: upper(features), "evaluation")
        upper.spares_features = not torch.equal(kept, features)
        # What is above trains, as it will: the same dropout with the same seed.
        model.train()
        for part in below:
            for module in parts[part]:
                module.eval()
        _compare(above, lambda: model(images_bchw), lambda: upper(kept), "training")
    return tuple(kept.shape[1:])


def _has_own_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _compare(
    modules: Sequence[nn.Module],
    run_whole: Callable[[], Tensor],
    run_upper: Callable[[], Tensor],
    mode: str,
) -> None:
    """Raise ModelError unless `modules` are given the same in both runs, and both give the same.

    Logits alone would not do: some networks start with weights that make all of them equal.
    """
    whole, upper = _inputs_and_output(modules, run_whole), _inputs_and_output(modules, run_upper)
    if len(whole) != len(upper) or not all(map(_is_close, whole, upper)):
        raise ModelError(f"in {mode} mode its two parts do not compute what the whole does")


def _is_close(one: Tensor, other: Tensor) -> bool:
    limit = TOLERANCE * torch.finfo(one.dtype).eps * one.abs().max()
    return one.shape == other.shape and bool(((one - other).abs() <= limit).all())


def _inputs_and_output(modules: Sequence[nn.Module], run: Callable[[], Tensor]) -> list[Tensor]:
    """What the modules are given in a run, call by call, and then what the run gives."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.extend(it for it in inputs if isinstance(it, Tensor) and it.is_floating_point())

    handles = [module.register_forward_pre_hook(note) for module in modules]
    torch.manual_seed(0)
    try:
        return [run(), *seen]
    finally:
        for handle in handles:
            handle.remove()


def _describe(network: Network, way: Way) -> str:
    # Another head on the same network does not change what comes before it.
    options: dict[str, Any] = network.architecture.get("options", {})
    built = {
        "name": network.name,
        "options": {word: options[word] for word in options if word not in HEAD_OPTIONS},
        "in_channels": network.in_channels,
    }
    return f"{json.dumps(built, sort_keys=True, default=str)} after {way.boundary}"


@contextmanager
def _evaluating(part: nn.Module) -> Iterator[None]:
    """In evaluation mode, and then each module in its own again."""
    modes = [(module, module.training) for module in part.modules()]
    if not any(training for _, training in modes):
        yield
        return
    part.eval()
    try:
        yield
    finally:
        _put_back(part, modes)


def _put_back(part: nn.Module, modes: Sequence[tuple[nn.Module, bool]]) -> None:
    # By `train` first: LeViT drops there what it has kept for evaluation.
    part.train()
    for module, training in modes:
        module.training = training


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Whatever is done to the model inside, its modes, buffers and torch's seeds do not change."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    # fork_rng knows no generators of Apple's GPUs.
    on_apples = any(p.device.type == "mps" for p in model.parameters())
    apples = torch.mps.get_rng_state() if on_apples else None
    try:
        with torch.random.fork_rng(devices=[d for d in devices if d is not None]):
            yield
    finally:
        if apples is not None:
            torch.mps.set_rng_state(apples)
        _put_back(model, modes)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
