"""Other ends for a network: one hidden layer in place of its classifier, or a given linear one.

The hidden layer is an option of every network, so that it is said in `architecture` and a model
file rebuilds it. Its layers take the classifier's place and name: `fc` becomes `fc.0` and `fc.3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from fieldmark.errors import ModelError
from fieldmark.models.contract import Network, check_dropout, fresh_linear

HEAD_OPTIONS: Final[dict[str, Any]] = {"head_hidden": 0, "head_dropout": 0.0}
CLASSIFIER: Final = "classifier"  # a part's name, see `parts_of`; no stage has it
MOST_HIDDEN: Final = 65536
FIRST, LAST = "0", "3"  # of HiddenHead's layers, those with weights


class HiddenHead(nn.Sequential):
    """Linear(d, hidden) - ReLU - Dropout - Linear(hidden, k): features (b, d) to logits (b, k)."""

    @classmethod
    def in_place_of(cls, old: nn.Linear, hidden: int, dropout: float) -> HiddenHead:
        """Freshly drawn as torch draws linear layers, on the device of `old`."""
        first = fresh_linear(old, hidden)
        last = nn.Linear(hidden, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
        return cls(first, nn.ReLU(), nn.Dropout(dropout), last)

    def reset(self, num_classes: int) -> None:
        """A fresh last layer; the hidden one stays as it is."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        self[-1] = fresh_linear(last, num_classes)


def head_options(name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of network `name` parted: the network's own, and those of a hidden layer.

    The second are empty for no hidden layer, else whole: `head_hidden`, units of the layer, and
    `head_dropout`, the share of them dropped in training.

    Raises:
        ModelError: of the wrong type or out of range, or a dropout without a hidden layer.
    """
    own = {word: value for word, value in options.items() if word not in HEAD_OPTIONS}
    given = {word: options[word] for word in HEAD_OPTIONS if word in options}
    hidden, dropout = given.get("head_hidden", 0), given.get("head_dropout", 0.0)
    if type(hidden) is not int or not 0 <= hidden <= MOST_HIDDEN:
        raise ModelError(
            f"option head_hidden of {name} must be a whole number",
            given=repr(hidden),
            valid=f"0 (no hidden layer) to {MOST_HIDDEN}",
            fix="512 is usual",
        )
    if type(dropout) not in (int, float):
        raise ModelError(
            f"option head_dropout of {name} must be a number",
            given=repr(dropout),
            valid="0 (none) up to, not including, 1",
            fix="leave it out",
        )
    check_dropout(dropout)
    if dropout and not hidden:
        raise ModelError(
            "head_dropout is about the hidden layer of the head, and there is none",
            given=f"head_dropout={dropout}, head_hidden={hidden}",
            fix="add head_hidden=512, or leave head_dropout out",
        )
    return own, {"head_hidden": hidden, "head_dropout": float(dropout)} if hidden else {}


def put_hidden_layer(network: Network, hidden: int, dropout: float = 0.0) -> None:
    """Replace the classifier by a freshly drawn `HiddenHead` with as many outputs.

    Raises:
        ModelError: the network does not end in one linear layer.
    """
    name = _only_classifier(network, "a hidden layer")
    old = body_of(network).get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise _other_end(network, "a hidden layer", f"{name}, a {type(old).__name__}")
    body_of(network).set_submodule(name, HiddenHead.in_place_of(old, hidden, dropout))
    network.classifiers = (f"{name}.{LAST}",)
    network.architecture["options"] |= {"head_hidden": hidden, "head_dropout": dropout}


def hidden_head(network: Network) -> str | None:
    """The name of the network's `HiddenHead`, as in the state dict; None where it has none."""
    if len(network.classifiers) != 1:
        return None
    name = network.classifiers[0].rpartition(".")[0]
    is_one = isinstance(body_of(network).get_submodule(name), HiddenHead)
    return name if is_one else None


def reset_hidden_head(network: Network, num_classes: int) -> bool:
    """A fresh last layer for the network's `HiddenHead`; False where it has none."""
    name = hidden_head(network)
    if name is None:
        return False
    head = body_of(network).get_submodule(name)
    assert isinstance(head, HiddenHead)
    head.reset(num_classes)
    network.num_classes = network.architecture["num_classes"] = num_classes
    return True


def set_classifier(network: Network, weight_kd: Tensor, bias_k: Tensor) -> None:
    """Write a linear head, such as logistic regression finds it, into the network's classifier.

    Args:
        weight_kd: (num_classes, d), for the d features that come into that layer.
        bias_k: (num_classes,).

    Raises:
        ModelError: the network does not end in one linear layer (or a 1x1 convolution), or that has
            another shape, or no biases.
    """
    name = _only_classifier(network, "a linear head")
    layer = linear_classifier(network)
    if layer is None:
        kind = type(body_of(network).get_submodule(name)).__name__
        raise _other_end(network, "a linear head", f"{name}, a {kind}")
    shapes = tuple(weight_kd.shape), tuple(bias_k.shape)
    wanted = tuple(layer.weight.shape[:2]), tuple(layer.weight.shape[:1])
    if shapes != wanted or layer.bias is None:
        raise ModelError(
            f"this linear head does not fit where {network.name} has its classifier",
            given=f"weights {shapes[0]}, biases {shapes[1]}",
            valid=f"weights {wanted[0]}, "
            + (f"biases {wanted[1]}" if layer.bias is not None else "and no biases: it has none"),
            fix="fit it on what comes into the classifier, for the network's classes; a network "
            "built with head_hidden has its hidden layer before it",
        )
    with torch.no_grad():
        layer.weight.copy_(weight_kd.reshape(layer.weight.shape))
        layer.bias.copy_(bias_k)


def linear_classifier(network: Network) -> nn.Linear | nn.Conv2d | None:
    """The network's one classifier, where that is a linear layer or a 1x1 convolution."""
    if len(network.classifiers) != 1:
        return None
    layer = body_of(network).get_submodule(network.classifiers[0])
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        return layer
    return layer if isinstance(layer, nn.Linear) else None


def has_linear_head(network: Network) -> bool:
    """Whether the head is one layer on the features: all its weights are the classifier's."""
    layer = linear_classifier(network)
    head = network.stage_modules()[network.stages[-1]]
    return layer is not None and {id(tensor) for tensor in layer.parameters()} == {
        id(tensor) for module in head for tensor in module.parameters()
    }


def parts_of(network: Network) -> dict[str, list[nn.Module]]:
    """What of a network can be frozen: its stages; and where the head has weights below the
    classifier (VGG's two dense layers), the classifier as a part of its own after it.

    Returns:
        As `Network.stage_modules`; the part of its own is called `CLASSIFIER`.
    """
    staged = network.stage_modules()
    layer = linear_classifier(network)
    if layer is None or has_linear_head(network):
        return staged
    head = network.stages[-1]
    return {**staged, head: _without(staged[head], layer), CLASSIFIER: [layer]}


def _without(modules: Iterable[nn.Module], layer: nn.Module) -> list[nn.Module]:
    """These modules but for `layer`; those that hold it are taken apart."""
    row: list[nn.Module] = []
    for module in modules:
        if all(inner is not layer for inner in module.modules()):
            row.append(module)
        elif module is not layer:
            own = list(module.parameters(recurse=False))
            row += [nn.ParameterList(own)] if own else []
            row += _without(module.children(), layer)
    return row


def check_exportable(architecture: Mapping[str, Any], library: str) -> None:
    """Raise ModelError where a hidden layer of ours keeps `library` from building the network."""
    hidden = architecture["options"].get("head_hidden", 0)
    if hidden:
        raise ModelError(
            f"{library} has no {architecture['name']} with a hidden layer in its head",
            given=f"{architecture['name']} (head_hidden={hidden})",
            valid="networks that end in their own classifier",
            fix="train it with --set transfer.head=own or linear to take it elsewhere; Fieldmark "
            "itself needs no export",
        )


def _only_classifier(network: Network, what: str) -> str:
    if len(network.classifiers) == 1:
        return network.classifiers[0]
    found = f"{len(network.classifiers)} of them: {', '.join(network.classifiers)}"
    raise _other_end(network, what, found if network.classifiers else "none")


def _other_end(network: Network, what: str, found: str) -> ModelError:
    return ModelError(
        f"{network.name} does not end in one linear layer, so it cannot be given {what}",
        given=f"classifier: {found}",
        valid="networks whose classifier is one linear layer, as of resnet, vgg, mobilenetv2",
        fix="take the network's own head (--set transfer.head=own), or another network",
    )


def body_of(network: Network) -> nn.Module:
    """Where the names of `classifiers` lead from: timm's networks are one level down."""
    inner = getattr(network, "net", None)
    if isinstance(inner, nn.Module):
        return inner
    assert isinstance(network, nn.Module)
    return network


def without_head_options(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of the network as it is below its classifier."""
    own = {k: v for k, v in architecture.get("options", {}).items() if k not in HEAD_OPTIONS}
    return {**architecture, "options": own}
