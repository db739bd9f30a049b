"""The form of a frozen network that computes the same fastest.

In evaluation mode a batch norm multiplies each channel by a number and adds another, and so does a
convolution's own weight and bias: the norm can be folded into the convolution before it (Jacob et
al., arXiv:1712.05877, section 3.2), and one pass over each map less is made. Maps are laid out with
the channels last, as the CPU's and the GPU's kernels for convolutions like them.

`benchmarks/frozen_forms.py` measures this form beside others: bfloat16 is faster still, but changes
the features by some hundredths, and TorchScript is deprecated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

LIMIT: Final = 1e-4  # the largest difference that is put up with, of the features' largest value
CONVS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# timm's, by name: importing timm takes seconds. Others of its convolutions change their weights
# before they use them, and others of its norms are none in evaluation mode.
TIMM_CONV: Final = ("timm.layers.conv2d_same", "Conv2dSame")
TIMM_NORM: Final = ("timm.layers.norm_act", "BatchNormAct2d")

T = TypeVar("T")


class InferenceForm(nn.Module):
    """A network for pictures alone: in evaluation mode, without gradients.

    Attributes:
        difference: the largest difference to the original that was measured, as a share of the
            features' largest value.
        num_folded: batch norms that are no longer there.
    """

    def __init__(
        self, net: nn.Module, *, channels_last: bool, difference: float, num_folded: int
    ) -> None:
        super().__init__()
        self.net, self.channels_last = net, channels_last
        self.difference, self.num_folded = difference, num_folded
        self.eval()

    def forward(self, images_bchw: Tensor) -> Tensor:
        """What the original gives, of one shape and contiguous."""
        with torch.no_grad():
            if self.channels_last:
                images_bchw = images_bchw.contiguous(memory_format=torch.channels_last)
            features: Tensor = self.net(images_bchw)
            return features.contiguous()

    def train(self, mode: bool = True) -> InferenceForm:
        """Nothing but evaluation mode."""
        super().train(False)
        return self


def inference_form(lower: nn.Module, example_bchw: Tensor) -> InferenceForm:
    """The fastest form of `lower` that gives what it gives; `lower` stays as it is.

    A form whose features differ by more than `LIMIT` from the original's is not taken: then the
    norms stay where they are, or else everything.

    Args:
        lower: pictures to one tensor, such as `cut.Cut.lower`.
        example_bchw: pictures like those it is for, two or more, on its device.
    """
    # cuDNN may round to 10 bits where nobody says otherwise: far more than folding ever changes.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _try_forms(lower, example_bchw)


def _try_forms(lower: nn.Module, example_bchw: Tensor) -> InferenceForm:
    modes = [(module, module.training) for module in lower.modules()]
    lower.eval()
    try:
        with torch.no_grad():
            expected = lower(example_bchw)
            found = watch(lower, lambda: lower(example_bchw))
    finally:
        for module, training in modes:
            module.training = training
    for pairs in [found.pairs, []] if found.pairs else [[]]:
        net = _copy_of(lower, found.called)
        for pair in pairs:
            _fold(net, pair)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                # A new tensor, as convolutions that did not run share theirs with the original.
                weight = module.weight.detach().clone(memory_format=torch.channels_last)
                module.weight = nn.Parameter(weight, requires_grad=False)
        form = InferenceForm(net, channels_last=True, difference=0, num_folded=len(pairs))
        form.difference = difference_of(form(example_bchw), expected)
        if form.difference <= LIMIT:
            return form
    net = _copy_of(lower, found.called)
    return InferenceForm(net, channels_last=False, difference=0, num_folded=0)


def difference_of(features: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value of `expected`; inf for other shapes,
    NaN where either has one."""
    if features.shape != expected.shape:
        return float("inf")
    features, expected = features.detach().cpu(), expected.detach().cpu()  # Apple's have no double
    scale = expected.abs().max().double()
    apart = (features.double() - expected.double()).abs().max()
    return 0.0 if not apart and not scale.isnan() else float(apart / scale)


@dataclass(frozen=True)
class Pair:
    """A convolution and the norm that alone is given what it puts out, by their names."""

    conv: str
    norm: str


@dataclass(frozen=True)
class Watched:
    """What one pass shows: which modules ran, and which pairs can be folded."""

    called: frozenset[nn.Module]
    pairs: list[Pair]


class CountUses(TorchFunctionMode):
    """How often tensors out of convolutions are used, by modules or by any function of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[int, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., T],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> T:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, int | torch.Size | torch.device | torch.dtype):  # a mere look
            for tensor in _tensors([*args, *(kwargs or {}).values()]):
                if id(tensor) in self.uses:
                    self.uses[id(tensor)] += 1
        return result


def watch(net: nn.Module, run: Callable[[], object]) -> Watched:
    """Watch a pass through `net`, which stays as it is."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    num_calls: dict[nn.Module, int] = {}
    puts_out: dict[int, tuple[nn.Module, Tensor]] = {}  # holds the tensor, so that its id stays
    candidates: list[tuple[nn.Module, nn.Module, int]] = []
    counter = CountUses()

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        num_calls[module] = num_calls.get(module, 0) + 1
        given = id(inputs[0]) if inputs else None
        if given in puts_out and _is_norm(module):
            candidates.append((puts_out[given][0], module, given))

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        if _is_conv(module):
            puts_out[id(output)] = (module, output)
            counter.uses[id(output)] = 0

    handles = [module.register_forward_pre_hook(before) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    try:
        with counter:
            last = run()
    finally:
        for handle in handles:
            handle.remove()
    outputs = {id(tensor) for tensor in _tensors([last])}
    owners: dict[int, int] = {}
    for module in names:
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    pairs = [
        Pair(names[conv][0], names[norm][0])
        for conv, norm, tensor in candidates
        if counter.uses[tensor] == 1
        and tensor not in outputs
        and all(num_calls[it] == len(names[it]) == 1 for it in (conv, norm))
        and all(owners[id(p)] == 1 for it in (conv, norm) for p in it.parameters())
        and not any(map(_has_hooks, (conv, norm)))
    ]
    return Watched(frozenset(num_calls), pairs)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found


def _is_conv(module: nn.Module) -> bool:
    """Whether it multiplies with its weight as it is."""
    kind = type(module)
    return isinstance(module, CONVS) and (
        any(kind.forward is plain.forward for plain in CONVS)
        or (kind.__module__, kind.__name__) == TIMM_CONV
    )


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm with statistics of its own, and maybe an activation after it."""
    kind = type(module)
    return (
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
        and (
            kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
            or (kind.__module__, kind.__name__) == TIMM_NORM
        )
    )


def _copy_of(net: nn.Module, called: frozenset[nn.Module]) -> nn.Module:
    """A copy in evaluation mode; layers that do not run share their numbers with the original.

    The part above the boundary may be most of a network's weights.
    """
    idle = [m for m in net.modules() if m not in called and not any(True for _ in m.children())]
    memo: dict[int, Any] = {id(t): t for m in idle for t in (*m.parameters(), *m.buffers())}
    for module in called:  # some layers are each other's
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            memo.pop(id(tensor), None)
    twin = copy.deepcopy(net, memo)
    for module in twin.modules():
        module.training = False
    return twin


def _fold(net: nn.Module, pair: Pair) -> None:
    conv, norm = net.get_submodule(pair.conv), net.get_submodule(pair.norm)
    assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    folded = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
    net.set_submodule(pair.conv, folded)
    act, drop = getattr(norm, "act", None), getattr(norm, "drop", None)
    after = [step for step in (drop, act) if not isinstance(step, nn.Identity | None)]
    net.set_submodule(pair.norm, nn.Sequential(*after) if after else nn.Identity())
