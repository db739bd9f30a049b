"""Ways to run a network in two parts: as a row of modules, or by its own `forward` with gaps.

Networks written out here are rows of modules and are cut like one. timm's do something between
their modules that no list of them tells (positions are added, tokens picked). Their upper part is
the network's own `forward` in which what lies below is not computed: each module there gives zeros
of the shape that it gave when the network was watched, and the last one gives the features. What
the network does between them it then does to zeros, which costs next to nothing.

These ways are guesses, best first; `cut` tries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn

from fieldmark.errors import ModelError
from fieldmark.models.contract import Network, as_network
from fieldmark.models.heads import parts_of
from fieldmark.models.timm_bridge import TimmNetwork

NUM_WATCHED: Final = 2  # pictures


class Way(Protocol):
    """How a network is run in two parts. Plain values alone, so that copies are of no model."""

    @property
    def boundary(self) -> str:
        """The module whose output the features are."""

    def part_below(self, model: nn.Module) -> nn.Module: ...

    def run_above(self, model: nn.Module, features: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Row:
    """The modules of the parts, one after another.

    Attributes:
        num_below: how many of them are below.
    """

    num_below: int
    boundary: str

    def part_below(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(*_row(as_network(model))[: self.num_below])

    def run_above(self, model: nn.Module, features: Tensor) -> Tensor:
        for module in _row(as_network(model))[self.num_below :]:
            features = module(features)
        return features


@dataclass(frozen=True)
class Outline:
    """The shape of a tensor, its first side that of `NUM_WATCHED` pictures."""

    shape: tuple[int, ...]

    def zeros(self, features: Tensor) -> Tensor:
        """Such a tensor for as many pictures as `features` has; one number in memory."""
        first, *others = self.shape or (1,)
        per_picture, rest = divmod(first, NUM_WATCHED)
        num = first if rest else per_picture * len(features)
        return features.new_zeros(()).expand(num, *others)


@dataclass(frozen=True)
class Call:
    """A module's turn in a pass.

    Attributes:
        name: of the module, within the model.
        nth: how often it had been called, this call included.
        output: an `Outline`, or a list or tuple of them.
    """

    name: str
    nth: int
    output: Any


@dataclass(frozen=True)
class Replay:
    """The network's own `forward`, or `forward_head`, without what the calls would compute.

    Attributes:
        entry: name of the method.
        start: outline of what it is given.
        calls: those that are left out, in order; the last one gives the features. Without any, the
            features are what the method is given.
    """

    entry: str
    start: Any
    calls: tuple[Call, ...]

    @property
    def boundary(self) -> str:
        return f"{self.calls[-1].name}#{self.calls[-1].nth}" if self.calls else "forward_features"

    def part_below(self, model: nn.Module) -> nn.Module:
        return UpTo(model, self)

    def run_above(self, model: nn.Module, features: Tensor) -> Tensor:
        method = getattr(model, self.entry)
        if not self.calls:
            return cast("Tensor", method(features))
        with _left_out(model, self.calls, features):
            return cast("Tensor", method(_zeros(self.start, features)))


class UpTo(nn.Module):
    """The network up to the last call of a `Replay`: nothing above it is computed."""

    def __init__(self, network: nn.Module, replay: Replay) -> None:
        super().__init__()
        self.network, self.replay = network, replay

    def forward(self, images_bchw: Tensor) -> Tensor:
        given: Any = images_bchw
        if self.replay.entry == "forward_head":
            given = as_network(self.network).forward_features(images_bchw)
        if not self.replay.calls:
            return cast("Tensor", given)
        last, num_calls = self.replay.calls[-1], 0

        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal num_calls
            num_calls += 1
            if num_calls == last.nth:
                raise Reached(output)

        handle = self.network.get_submodule(last.name).register_forward_hook(stop)
        try:
            getattr(self.network, self.replay.entry)(given)
        except Reached as reached:
            return cast("Tensor", reached.output)
        finally:
            handle.remove()
        raise ModelError(f"{last.name} did not run", fix="train the network whole")


class Reached(Exception):  # noqa: N818  no error: the way out of somebody else's forward
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def find_ways(model: nn.Module, parts_below: Sequence[str], images_bchw: Tensor) -> Iterator[Way]:
    """Ways to cut `model` above these parts; what makes the smallest features comes first.

    Args:
        model: in evaluation mode; keeps `contract.Network`.
        images_bchw: `NUM_WATCHED` of them.

    Raises:
        Exception: whatever the network raises on these pictures.
    """
    network = as_network(model)
    if not isinstance(model, TimmNetwork):
        yield _cut_row(network, parts_below)
        return
    with torch.no_grad():
        if len(parts_below) >= len(network.stages) - 1:
            start = network.forward_features(images_bchw)
            yield from _cut_calls(model, parts_below, "forward_head", start)
        yield from _cut_calls(model, parts_below, "forward", images_bchw)


def _row(network: Network) -> list[nn.Module]:
    return [module for part in parts_of(network).values() for module in part]


def _cut_row(network: Network, parts_below: Sequence[str]) -> Row:
    parts, row = parts_of(network), _row(network)
    num_below = sum(len(parts[part]) for part in parts_below)
    while _is_sure(row[num_below]):
        num_below += 1
    names = {module: name for name, module in cast("nn.Module", network).named_modules()}
    return Row(num_below, names[row[num_below - 1]])


def _is_sure(module: nn.Module) -> bool:
    """Whether it has no weights and gives the same in training as in evaluation: no dropout."""
    drops = [m for m in module.modules() if "drop" in type(m).__name__.lower()]
    return not _holds_tensors(module) and all(
        getattr(drop, "p", getattr(drop, "drop_prob", None)) == 0 for drop in drops
    )


def _holds_tensors(module: nn.Module, recurse: bool = True) -> bool:
    held = (module.parameters(recurse), module.buffers(recurse))
    return any(True for tensors in held for _ in tensors)


@dataclass
class Seen:
    """A call as it was watched."""

    module: nn.Module
    call: Call
    is_below: bool
    output: Any = None


def _cut_calls(
    model: nn.Module, parts_below: Sequence[str], entry: str, start: Tensor
) -> Iterator[Replay]:
    """Candidates for a cut of what `entry` does with `start`."""
    seen = _watch(model, parts_below, lambda: getattr(model, entry)(start))
    # Up to where the first weights above are used. An activation is made once and may run on
    # either side: where it runs is told by what runs before it.
    starts_above = (
        i
        for i, it in enumerate(seen)
        if not it.is_below and _holds_tensors(it.module, recurse=False)
    )
    seen = seen[: next(starts_above, len(seen))]
    last = max((i for i, it in enumerate(seen) if it.is_below), default=-1)
    if last < 0 and entry == "forward":
        return
    ends = [last]
    for i in range(last + 1, len(seen)):
        if not _is_sure(seen[i].module):
            break
        ends.append(i)
    for end in reversed(ends):
        left_out = [it for i, it in enumerate(seen) if i <= end and (it.is_below or i > last)]
        features = left_out[-1].output if left_out else start
        if isinstance(features, Tensor) and len(features) == NUM_WATCHED:
            calls = tuple(Call(it.call.name, it.call.nth, _outline(it.output)) for it in left_out)
            yield Replay(entry, _outline(start), calls)


def _watch(model: nn.Module, parts_below: Sequence[str], run: Callable[[], object]) -> list[Seen]:
    """The calls in `run`, in order: of what is below, but not what these call in turn; and above
    of whatever holds weights itself or is without any."""
    parts = parts_of(as_network(model))
    below = {m for part in parts_below for top in parts[part] for m in top.modules()}
    above = {m for part in parts.values() for top in part for m in top.modules()} - below
    num_calls: dict[nn.Module, int] = {}
    inside: list[nn.Module] = []  # calls that are going on, of which what is called is no matter
    seen: list[Seen] = []
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        covers = module in below or not _holds_tensors(module)
        counts = covers or _holds_tensors(module, recurse=False)

        def before(_: nn.Module, inputs: Any) -> None:
            num_calls[module] = num_calls.get(module, 0) + 1
            if counts and not inside:
                seen.append(Seen(module, Call(name, num_calls[module], None), module in below))
            if covers:
                inside.append(module)

        def after(_: nn.Module, inputs: Any, output: Any) -> None:
            if covers:
                inside.pop()
                if not inside:
                    seen[-1].output = output

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        if module in below or module in above:
            watch(name, module)
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _outline(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Outline(tuple(value.shape))
    if isinstance(value, tuple | list):
        return type(value)(_outline(item) for item in value)
    return None


def _zeros(outline: Any, features: Tensor) -> Any:
    if isinstance(outline, Outline):
        return outline.zeros(features)
    if isinstance(outline, tuple | list):
        return type(outline)(_zeros(item, features) for item in outline)
    return None


@contextmanager
def _left_out(model: nn.Module, calls: Sequence[Call], features: Tensor) -> Iterator[None]:
    """Until the last of `calls` has been made, these modules compute nothing."""
    modules = {call.name: model.get_submodule(call.name) for call in calls}
    own = {name: vars(module).get("forward") for name, module in modules.items()}
    position = 0

    def put_back() -> None:
        for name, module in modules.items():
            vars(module).pop("forward", None)
            if own[name] is not None:  # somebody else has replaced it
                vars(module)["forward"] = own[name]

    def stand_in(name: str) -> Callable[..., Any]:
        def forward(*_: object, **__: object) -> Any:
            nonlocal position
            call = calls[position]
            if call.name != name:
                raise ModelError(f"{name} ran in place of {call.name}", fix="train it whole")
            position += 1
            if position < len(calls):
                return _zeros(call.output, features)
            put_back()
            return features

        return forward

    try:
        for name, module in modules.items():
            vars(module)["forward"] = stand_in(name)
        yield
    finally:
        put_back()
