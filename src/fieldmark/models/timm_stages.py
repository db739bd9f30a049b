"""timm's networks cut into stages, along timm's own grouping of their layers.

timm groups parameters for learning rates that fall from layer to layer (`group_matcher`). Coarse
groups are what people call stages. The grouping leaves gaps (activations, norms between two
groups, what it takes for the head), which one pass on the meta device fills: it shows what runs in
`forward_features`, what in `forward_head`, and in which order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from fieldmark.models.twin import meta_twin

HEAD: Final = -1  # the head's group, whatever timm's number for it
NOTHING: Final = "?"  # no layer's name: falls where timm puts what it has no group for


@dataclass(frozen=True, slots=True)
class Probe:
    """What one pass through a network shows.

    Attributes:
        features, head: modules by the order in which `forward_features` and `forward_head` first
            call them, as {name: position}. Empty where no pass was possible.
        first_convs: convolutions that are given the picture itself.
        logits_shape: what comes out for one picture; None where no pass was possible.
        failure: why no pass was possible.
    """

    features: dict[str, int] = field(default_factory=dict)
    head: dict[str, int] = field(default_factory=dict)
    first_convs: tuple[str, ...] = ()
    logits_shape: tuple[int, ...] | None = None
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage by names: modules, and the tensors that it has of modules it shares with others."""

    name: str
    modules: tuple[str, ...]
    tensors: tuple[str, ...]


def probe(net: nn.Module, in_channels: int, size_px: int) -> Probe:
    """Send a picture without numbers through a copy of `net`, which stays as it is."""
    twin: Any = meta_twin(net)
    dtype = next((p.dtype for p in twin.parameters()), torch.float32)
    image = torch.empty(1, in_channels, size_px, size_px, dtype=dtype, device="meta")
    called: dict[str, int] = {}
    first: list[str] = []

    def watch(name: str, module: nn.Module) -> None:
        def before(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            called.setdefault(name, len(called))
            if isinstance(layer, nn.Conv2d) and inputs and inputs[0] is image:
                first.append(name)

        module.register_forward_pre_hook(before)

    for name, module in twin.named_modules():
        if name:
            watch(name, module)
    try:
        with torch.no_grad():
            features = twin.forward_features(image)
            in_features, called = called, {}
            logits = twin.forward_head(features)
    except Exception as error:  # whatever the meta device or a layer cannot do
        return Probe(failure=error)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    return Probe(in_features, called, tuple(first), shape)


def cut(net: nn.Module, classifiers: Iterable[str], seen: Probe) -> tuple[Stage, ...]:
    """The stages of `net`, input to output: `stem`, timm's groups by what they hold, `head`.

    The head is the classifier and whatever runs in `forward_head` alone. Together the stages hold
    every parameter and buffer once.
    """
    group_of = _fill_gaps(_timm_groups(net), net, tuple(classifiers), seen)
    trained = _trained_units(net)
    first_run: dict[int, float] = {}
    for unit, group in group_of.items():
        # An activation is made once and may run in several places; weights say where a stage is.
        position = _position(unit, seen.features) if unit in trained else math.inf
        first_run[group] = min(first_run.get(group, math.inf), position)
    first_run.pop(HEAD, None)
    foremost = min(first_run, default=HEAD)
    if first_run.get(foremost) == math.inf:  # class tokens and the like alone; they do not run
        first_run[foremost] = -1
    names = _names(net, group_of)
    stages: list[Stage] = []
    for group in sorted(first_run, key=lambda group: (first_run[group], group)):
        name = names[group] if stages else "stem"
        stages.append(Stage(name, *_collect(net, group_of, group)))
    return (*stages, Stage("head", *_collect(net, group_of, HEAD)))


def resolve(net: nn.Module, stage: Stage) -> list[nn.Module]:
    """The modules of a stage as they are now, its loose tensors in an `nn.ParameterList`."""
    modules = [net.get_submodule(name) for name in stage.modules]
    if not stage.tensors:
        return modules
    # The list shares the tensors and is no part of the network, so no state-dict key changes.
    loose = nn.ParameterList()
    for name in stage.tensors:
        tensor = _find(net, name)
        if isinstance(tensor, nn.Parameter):
            loose.append(tensor)
        else:
            assert isinstance(tensor, Tensor)
            loose.register_buffer(name.replace(".", "_"), tensor, persistent=False)
    return [loose, *modules]


def _units(net: nn.Module) -> list[str]:
    """The names of what cannot be cut, as registered: modules without children, and the tensors
    of modules with children."""
    units: list[str] = []
    for name, module in net.named_modules():
        if name and not any(True for _ in module.children()):
            units.append(name)
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        units += [f"{name}.{tensor}".lstrip(".") for tensor, _ in own]
    return units


def _trained_units(net: nn.Module) -> dict[str, str]:
    """The units that hold parameters, each with the name of one of them."""
    units = set(_units(net))
    names = [name for name, _ in net.named_parameters()]
    return {name if name in units else name.rpartition(".")[0]: name for name in names}


def _timm_groups(net: nn.Module) -> dict[str, int | None]:
    """timm's group of each unit; None where timm names none."""
    from timm.models._manipulate import group_with_matcher  # here: importing timm takes seconds

    units = _units(net)
    # A unit with weights is known to timm by them; another one by its own name alone.
    known_by = {unit: unit for unit in units} | _trained_units(net)
    try:
        matcher = cast("Any", net).group_matcher(coarse=True)
    except (AttributeError, AssertionError):  # MetaFormer and some others have none; RDNet refuses
        return {unit: _child_group(net, unit) for unit in units}
    names = (*known_by.values(), NOTHING)
    number = group_with_matcher(iter([(name, name) for name in names]), matcher, reverse=True)
    groups = {
        unit: None if number[name] == number[NOTHING] else number[name]
        for unit, name in known_by.items()
    }
    found = {groups[unit] for unit in _trained_units(net)} - {None}
    if len(found) < 2:  # its patterns fit another layout, as LeViT's did up to timm 1.0.30
        return {unit: _child_group(net, unit) for unit in units}
    # A group without weights, as of each activation in timm's VGG, is no stage.
    return {unit: group if group in found else None for unit, group in groups.items()}


def _child_group(net: nn.Module, unit: str) -> int | None:
    """For the few without a grouping: their children in order, rows of stages one by one."""
    children = dict(net.named_children())
    rows = {
        name: len(list(child.children()))
        for name, child in children.items()
        if all(
            inner.isdigit() and any(True for _ in stage.children())
            for inner, stage in child.named_children()
        )
    }
    rows = {name: length for name, length in rows.items() if length > 1}
    top, _, rest = unit.partition(".")
    if not rows:
        return list(children).index(top) if top in children else 0
    if top in rows:
        before = list(rows)[: list(rows).index(top)]
        return 1 + sum(rows[name] for name in before) + int(rest.partition(".")[0])
    first_row = list(children).index(next(iter(rows)))
    return 0 if top not in children or list(children).index(top) < first_row else None


def _fill_gaps(
    given: dict[str, int | None], net: nn.Module, classifiers: tuple[str, ...], seen: Probe
) -> dict[str, int]:
    """A group for every unit: the head's, timm's, or that of what runs before it."""
    filled: dict[str, int] = {}
    in_order = sorted(given, key=lambda unit: _position(unit, seen.features))  # else as registered
    first = next((given[unit] for unit in in_order if given[unit] is not None), None)
    last = 0 if first is None else first
    trained = _trained_units(net)
    for unit in in_order:
        group = given[unit]
        runs_in_features = _position(unit, seen.features) < math.inf
        if runs_in_features and unit not in trained and "." not in unit:
            group = None  # a pattern for names may catch, with a norm, what runs elsewhere
        runs_in_head = _position(unit, seen.head) < math.inf
        in_classifier = any(f"{unit}.".startswith(f"{name}.") for name in classifiers)
        if in_classifier or (runs_in_head and not runs_in_features):
            filled[unit] = HEAD
        elif group is not None:
            filled[unit] = last = group
        elif runs_in_features or (not seen.features and unit not in trained):
            filled[unit] = last
        else:  # nothing that makes the features: an auxiliary classifier, weights of the head
            filled[unit] = HEAD
    return filled


def _position(unit: str, called: Mapping[str, int]) -> float:
    """When a unit, or else the module around it that is called, first runs; infinity for never."""
    while unit:
        if unit in called:
            return called[unit]
        unit = unit.rpartition(".")[0]
    return math.inf


def _collect(
    net: nn.Module, group_of: Mapping[str, int], group: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The largest modules that are of one group altogether, and its tensors beside them.

    Told by the objects and not by their names, as CoaT has layers that several blocks share.
    """
    objects = {_find(net, unit): unit for unit in group_of}
    modules: list[str] = []
    covered: set[str] = set()

    def inside(module: nn.Module) -> set[str]:
        held: list[nn.Module | Tensor] = [
            *module.modules(),
            *module.parameters(),
            *module.buffers(),
        ]
        return {objects[it] for it in held if it in objects}

    def visit(prefix: str, module: nn.Module) -> None:
        for child_name, child in module.named_children():
            units = inside(child)
            groups = {group_of[unit] for unit in units}
            if groups == {group} and not units <= covered:
                modules.append(f"{prefix}{child_name}")
                covered.update(units)
            elif group in groups:
                visit(f"{prefix}{child_name}.", child)

    visit("", net)
    loose = [unit for unit, its in group_of.items() if its == group and unit not in covered]
    return tuple(modules), tuple(loose)


def _find(net: nn.Module, unit: str) -> nn.Module | Tensor:
    owner, _, name = unit.rpartition(".")
    found: nn.Module | Tensor = getattr(net.get_submodule(owner), name)
    return found


def _names(net: nn.Module, group_of: Mapping[str, int]) -> dict[int, str]:
    """A stage is named after the most of it, `blocks.3` rather than the `norm` that follows."""
    groups_in: dict[str, set[int]] = {}
    for unit, group in group_of.items():
        name = unit
        while name:
            groups_in.setdefault(name, set()).add(group)
            name = name.rpartition(".")[0]

    def weight(name: str) -> tuple[bool, int]:
        found = _find(net, name)
        return name[-1].isdigit(), len([*found.modules()] if isinstance(found, nn.Module) else [])

    best: dict[int, str] = {}
    for name, groups in groups_in.items():
        (group, *others) = groups
        if not others and groups_in.get(name.rpartition(".")[0]) != groups:
            best[group] = max(best.get(group, name), name, key=weight)
    # No two groups share a name, but one may be called like the two that have fixed names.
    return {group: f"{name}_" if name in ("stem", "head") else name for group, name in best.items()}
