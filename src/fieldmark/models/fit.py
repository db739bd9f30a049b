"""Weights that were made for a network much like this one: what is taken, adapted, left, refused.

Tensors in, tensors out; reading files is the checkpoint's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from fieldmark.errors import CheckpointError
from fieldmark.models.contract import Network
from fieldmark.models.heads import FIRST, LAST, hidden_head
from fieldmark.models.layouts import from_timm
from fieldmark.models.timm_bridge import TimmNetwork, fit_timm_tensors

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Classes:
    """What the outputs mean: those of the weights (None: nobody says), and those wanted."""

    of_weights: Sequence[str] | None = None
    wanted: Sequence[str] | None = None
    num_leading: int = 0  # outputs of the weights before the first class: a background class


def fit_tensors(
    network: Network,
    own: Tensors,
    tensors: Tensors,
    source: str,
    classes: Classes = Classes(),
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights for every place of `network`, out of `tensors`.

    The first convolutions are adapted to the number of channels, and the classifier is kept where
    the number of classes is the same (its rows in the order of the wanted names, where both sets
    of names are known and hold the same names), else it stays as it is in `own`.

    Args:
        own: the network's state dict, freshly drawn.
        source: where the tensors come from, for errors.

    Returns:
        A state dict, and a phrase for each thing that is not simply taken over.

    Raises:
        CheckpointError: anything else is missing, unknown, of another shape or kind, or not finite.
    """
    check_kinds(own, tensors, source)  # before anything is computed from them
    failures: list[Exception] = []
    fitted = _own_names(network, tensors, failures)
    check_kinds(own, fitted, source)
    said: list[str] = []
    for layer in network.first_convs:
        said += _adapt_input(f"{layer}.weight", own, fitted)
    said += _fit_classifiers(network, own, fitted, classes, source)
    # torchvision's oldest files lack these counters, which nothing is computed from.
    for key in own:
        if key.endswith("num_batches_tracked"):
            fitted.setdefault(key, own[key])
    if not network.first_convs:
        _check_channels(network, own, fitted, source)
    try:
        check_fits(own, fitted, source)
    except CheckpointError as error:
        raise error from (failures[0] if failures else None)
    return fitted, said


def count_ends(
    network: Network, tensors: Tensors, source: str, num_leading: int = 0
) -> tuple[int, int]:
    """How many classes and channels the network has that `tensors` were made for.

    Args:
        num_leading: as in `Classes`; these outputs are no classes.

    Returns:
        The counts; the channels are those of `network` where it has no first convolution that
        could tell.

    Raises:
        CheckpointError: the first convolution or the classifier is not among them, or their shapes
            say nothing, or no output is left for a class.
    """
    check_kinds({}, tensors, source)
    named = _own_names(network, tensors)
    wanted = (*network.classifiers[:1], *network.first_convs[:1])
    missing = [f"{layer}.weight" for layer in wanted if f"{layer}.weight" not in named]
    if missing or not network.classifiers:
        raise CheckpointError(
            "these weights were made for another network, or they are not all of it",
            given=f"{source}; missing: {_first(missing or ['a classifier'])}",
            fix="name the network they were made for",
        )
    shapes = {layer: tuple(named[f"{layer}.weight"].shape) for layer in wanted}
    classifier, *first = shapes.values()
    is_vector = any(len(shape) < 2 for shape in first)
    if not classifier or is_vector or any(0 in shape for shape in shapes.values()):
        raise CheckpointError(
            "the first or last layer of these weights has a shape that makes no sense",
            given=f"{source}; " + ", ".join(f"{layer}: {shapes[layer]}" for layer in wanted),
            valid="(classes, ...) and (features, channels, ...)",
            fix="get the file again, or name the network that it was made for",
        )
    _check_leading(classifier[0], num_leading, source)
    return classifier[0] - num_leading, first[0][1] if first else network.in_channels


def _check_leading(num_outputs: int, num_leading: int, source: str) -> None:
    if 0 < num_outputs <= num_leading:
        raise CheckpointError(
            "the label_offset of these weights leaves none of their outputs for a class",
            given=f"{source}; label_offset {num_leading}, {num_outputs} outputs",
            valid=f"0 to {num_outputs - 1}: how many outputs come before the first class",
            fix="put label_offset right in the config.json beside the weights, or leave it out",
        )


def _own_names(
    network: Network, tensors: Tensors, failures: list[Exception] | None = None
) -> dict[str, Tensor]:
    """`tensors` under the network's own names, if they came under others that are known."""
    if isinstance(network, TimmNetwork):
        return dict(fit_timm_tensors(network, tensors, failures))
    return dict(from_timm(network.name, tensors))


def check_kinds(own: Tensors, tensors: Tensors, source: str) -> None:
    """Raise CheckpointError where `tensors` hold what no weights are made of: numbers of less than
    16 bits or with an imaginary part, no numbers at all, or whole ones where `own` has others."""
    other = []
    for key, tensor in tensors.items():
        wanted = own.get(key)
        odd = _is_odd(tensor)
        if not odd and wanted is not None:
            odd = (wanted.is_floating_point() and not tensor.is_floating_point()) or (
                tensor.is_meta and not wanted.is_meta
            )
        if odd:
            other.append(f"{key} ({_kind(tensor)})")
    if other:
        raise CheckpointError(
            "these weights hold numbers of another kind than a network computes with",
            given=f"{source}; {_first(other)}",
            valid="floating point of 16 bits or more, as in float16, bfloat16 and float32",
            fix="save them as float32, or get the weights that were not quantized",
        )


def _is_odd(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    tiny = tensor.is_floating_point() and tensor.element_size() < 2
    return not dense or tiny or tensor.is_complex()


def _kind(tensor: Tensor) -> str:
    words = [str(tensor.dtype)]
    if tensor.layout != torch.strided:
        words.append(str(tensor.layout))
    words += ["nested"] * tensor.is_nested + ["without values"] * tensor.is_meta
    return " ".join(words).replace("torch.", "")


def check_fits(own: Tensors, tensors: Tensors, source: str) -> None:
    """Raise CheckpointError unless `tensors` hold what `own` holds, finite, in its shapes and of
    its kind (floating point, or not)."""
    check_kinds(own, tensors, source)
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in tensors and own[key].shape != tensors[key].shape
    ]
    if missing or unknown or misshapen:
        findings = (("missing", missing), ("unknown", unknown), ("wrong shape", misshapen))
        raise CheckpointError(
            "these weights were made for another network",
            given=f"{source}; "
            + "; ".join(f"{what}: {_first(keys)}" for what, keys in findings if keys),
            valid="every weight of the network, each in its shape",
            fix="name the --model (and its options) that the weights were made for",
        )
    broken = [
        key
        for key, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise CheckpointError(
            "these weights hold values that are not finite",
            given=f"{source}; in {_first(broken)}",
            fix="get the file again; if it stays so, the training that wrote it had failed",
        )


def _check_channels(network: Network, own: Tensors, fitted: Tensors, source: str) -> None:
    """Say it where nothing but the number of channels keeps weights from fitting: in a network that
    rearranges the picture first, the first layer has some multiple of the channels as its inputs.
    """
    if own.keys() != fitted.keys():
        return
    theirs = {
        prod(fitted[key].shape) * network.in_channels / prod(own[key].shape)
        for key in own
        if fitted[key].shape != own[key].shape
        if fitted[key].shape[:1] == own[key].shape[:1]
        if fitted[key].dim() == own[key].dim() and 0 not in own[key].shape
    }
    num_misshapen = sum(fitted[key].shape != own[key].shape for key in own)
    channels = theirs.pop() if len(theirs) == 1 and num_misshapen == 1 else 0
    if channels >= 1 and channels == int(channels):
        raise CheckpointError(
            f"the first layer of {network.name} cannot be adapted to another number of channels",
            given=f"{source}, made for {int(channels)}; data.channels is {network.in_channels}",
            valid=f"--set data.channels={int(channels)}",
            fix=f"add --set data.channels={int(channels)}, or take another --model",
        )


def _adapt_input(key: str, own: Tensors, fitted: dict[str, Tensor]) -> list[str]:
    """Another number of channels for a first convolution, (out, channels, h, w).

    To one channel: the sum, which gives a grey picture the answer that its copy in every channel
    would get. To more: repeated in turn and scaled, so that as much comes in as before. Both are
    what timm does (timm/models/_manipulate.py, `adapt_input_conv`). The sum is exact where mean
    and std are the same in every channel, and close to it elsewhere: they are averaged then.
    """
    if key not in fitted or key not in own:
        return []  # said as missing
    shape, own_shape = fitted[key].shape, own[key].shape
    but_channels = (shape[:1] + shape[2:], own_shape[:1] + own_shape[2:])
    if len(shape) != len(own_shape) or but_channels[0] != but_channels[1] or 0 in shape:
        return []  # said as of another shape
    theirs, wanted = shape[1], own_shape[1]
    if theirs == wanted:
        return []
    weight = fitted[key].float()
    if wanted == 1:
        fitted[key] = weight.sum(dim=1, keepdim=True)
        return [f"the first convolution's {theirs} channels summed into one"]
    copies = -(-wanted // theirs)  # rounded up
    repeated = weight.repeat(1, copies, *[1] * (weight.dim() - 2))[:, :wanted]
    fitted[key] = repeated * (theirs / wanted)
    channels = "channel" if theirs == 1 else f"{theirs} channels"
    return [f"the first convolution's {channels} repeated for {wanted}"]


def _fit_classifiers(
    network: Network, own: Tensors, fitted: dict[str, Tensor], classes: Classes, source: str
) -> list[str]:
    said = _fit_head(network, own, fitted)
    if said:
        return said
    keys = [f"{layer}.{part}" for layer in network.classifiers for part in ("weight", "bias")]
    keys = [key for key in keys if key in own]
    if not keys:  # the features are the classes: there is nothing to be new
        return []
    there = [key for key in keys if key in fitted]
    if not there:
        fitted.update({key: own[key] for key in keys})
        return [f"it has no classifier: a new one, for {network.num_classes} classes"]
    for key in there:
        if fitted[key].dim():
            _check_leading(fitted[key].shape[0], classes.num_leading, source)
        fitted[key] = fitted[key][classes.num_leading :] if fitted[key].dim() else fitted[key]
    counts = {fitted[key].shape[0] for key in there if fitted[key].dim()}
    if counts == {network.num_classes}:
        return _order_classes(fitted, there, classes)
    if len(counts) == 1 and 0 not in counts:
        for key in there:  # but what a class is told from must be the same
            if fitted[key].shape[1:] == own[key].shape[1:]:
                fitted[key] = own[key]
        return [f"a new classifier, for {network.num_classes} classes instead of {counts.pop()}"]
    return []  # said as of another shape


def _fit_head(network: Network, own: Tensors, fitted: dict[str, Tensor]) -> list[str]:
    """Where one side has a hidden layer in place of the classifier and the other has not, what ends
    the network stays as it is in `own`."""
    if len(network.classifiers) != 1:
        return []
    end = hidden_head(network)
    name = network.classifiers[0] if end is None else end
    with_hidden, plain = (
        [f"{name}.{layer}{kind}" for layer in layers for kind in ("weight", "bias")]
        for layers in ((f"{FIRST}.", f"{LAST}."), ("",))
    )
    ours, others = (plain, with_hidden) if end is None else (with_hidden, plain)
    theirs = [key for key in others if key in fitted]
    if any(key in fitted for key in ours) or not (theirs or end):
        return []
    for key in theirs:
        del fitted[key]
    fitted.update({key: own[key] for key in ours if key in own})
    hidden = "with" if end else "without"
    return [f"a new head {hidden} a hidden layer, for {network.num_classes} classes"]


def _order_classes(fitted: dict[str, Tensor], keys: Sequence[str], classes: Classes) -> list[str]:
    theirs, wanted = classes.of_weights, classes.wanted
    if theirs is None or wanted is None:
        return ["classifier included"]
    if list(theirs) == list(wanted):
        return ["classifier included, for the same classes"]
    if sorted(theirs) != sorted(wanted):
        return [
            f"classifier included, though its classes are called {_first(list(theirs))} "
            f"and yours {_first(list(wanted))}"
        ]
    rows = torch.tensor([list(theirs).index(name) for name in wanted])
    for key in keys:
        fitted[key] = fitted[key][rows]
    return ["classifier included, its classes put in the order of yours"]


def _first(keys: Sequence[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more
