"""What a model file contains; nobody else knows.

`model.safetensors` is the whole model: the weights, and in its metadata under the key "fieldmark"
a JSON text with the architecture, the class names in order and the preprocess. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fieldmark.errors import CheckpointError, FieldmarkError
from fieldmark.files import atomic_path
from fieldmark.models.contract import as_network
from fieldmark.models.registry import create_model
from fieldmark.types import Preprocess

FORMAT: Final = 1
METADATA_KEY: Final = "fieldmark"


@dataclass(frozen=True)
class ModelInfo:
    """What travels with the weights.

    Attributes:
        architecture: name, options, num_classes and in_channels, as `create_model` takes them.
        class_names: in the order of the network's outputs.
        preprocess: how a picture becomes an input.
        history: where the weights come from: versions, recipe, best epoch, figures. For people.
    """

    architecture: Mapping[str, Any]
    class_names: tuple[str, ...]
    preprocess: Preprocess
    history: Mapping[str, Any] = field(default_factory=dict)


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write weights and info into one .safetensors file, atomically.

    Raises:
        OutputError: it cannot be written, for example because the disk is full.
    """
    document = {
        "format": FORMAT,
        "architecture": dict(info.architecture),
        "class_names": list(info.class_names),
        "preprocess": info.preprocess.to_dict(),
        "history": dict(info.history),
    }
    # Contiguous copies on the CPU: safetensors refuses views and other layouts.
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(document)})
        except safetensors.SafetensorError as error:  # a full disk, which `atomic_path` words
            raise OSError(str(error)) from error


def load_model(path: Path) -> tuple[nn.Module, ModelInfo]:
    """Rebuild the network from its file alone; in evaluation mode, on the CPU.

    Raises:
        CheckpointError: no such file, damaged, not one of Fieldmark's, or its parts disagree.
    """
    info = load_info(path)
    try:
        model = create_model(
            str(info.architecture["name"]),
            num_classes=info.architecture["num_classes"],
            in_channels=info.architecture["in_channels"],
            **info.architecture["options"],
        )
    except (FieldmarkError, TypeError, KeyError) as error:
        raise CheckpointError(
            "the model file names a network this version cannot build",
            given=f"{path}: {dict(info.architecture)}",
            fix="use the version of Fieldmark that wrote the file",
        ) from error
    _load_strictly(model, load_tensors(path), path)
    return model.eval(), info


def load_info(path: Path) -> ModelInfo:
    """Read what travels with the weights, without the weights.

    Raises:
        CheckpointError: as `load_model`.
    """
    info = find_info(path)
    if info is None:
        raise CheckpointError(
            "this file holds weights but not a whole Fieldmark model",
            given=path,
            valid="a model.safetensors that `fieldmark train` wrote",
            fix="to start a training from bare weights, use --weights",
        )
    return info


def find_info(path: Path) -> ModelInfo | None:
    """As `load_info`, but None for a file of bare weights."""
    text = (_read_metadata(path) or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise CheckpointError(
                "this model file has another format",
                given=f"{path}: format {document['format']}",
                valid=f"format {FORMAT}",
                fix="install the version of Fieldmark that wrote it",
            )
        info = ModelInfo(
            architecture=dict(document["architecture"]),
            class_names=tuple(map(str, document["class_names"])),
            preprocess=Preprocess.from_dict(document["preprocess"]),
            history=dict(document["history"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(path, error) from error
    if info.architecture.get("num_classes") != len(info.class_names):
        raise _damaged(path, "as many class names as outputs are needed")
    if info.architecture.get("in_channels") != info.preprocess.channels:
        raise _damaged(path, "network and preprocess disagree about the channels")
    return info


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The bare weights of any .safetensors file.

    Raises:
        CheckpointError: no such file, or not a whole .safetensors file.
    """
    _check_exists(path)
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def load_weights(model: nn.Module, path: Path) -> str:
    """Start `model` from a file's weights; returns a sentence saying what was taken.

    All weights must fit but the classifier's, which starts anew where the class counts differ.

    Raises:
        CheckpointError: no such file, damaged, or made for another network.
    """
    tensors, network = load_tensors(path), as_network(model)
    last = next(reversed(model.state_dict()))  # the classifier's bias: heads come last
    num_classes = tensors[last].numel() if last in tensors else network.num_classes
    if num_classes in (0, network.num_classes):  # 0: no classifier; said as a wrong shape
        _load_strictly(model, tensors, path)
        return f"weights from {path}, classifier included"
    wanted = network.num_classes
    network.reset_classifier(num_classes)
    _load_strictly(model, tensors, path)
    network.reset_classifier(wanted)
    return f"weights from {path}; a new classifier, for {wanted} classes instead of {num_classes}"


def _load_strictly(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    own = model.state_dict()
    # torchvision's oldest files lack these counters, which nothing is computed from.
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    tensors = {**counters, **tensors}
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
            given=f"{path}; "
            + "; ".join(f"{what}: {_first(keys)}" for what, keys in findings if keys),
            valid="every weight of the network, each in its shape",
            fix="name the --model (and its options) that the weights were made for",
        )
    model.load_state_dict(tensors, strict=True)


def _read_metadata(path: Path) -> dict[str, str] | None:
    _check_exists(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] | None = file.metadata()
            return metadata
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            "there is no such model file",
            given=path,
            valid="a run directory that holds model.safetensors, or such a file",
            fix="check the path; `ls runs` shows the runs made here",
        )


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"the model file is damaged or not a .safetensors file: {why}",
        given=path,
        fix="copy it again from where it came, or train again",
    )


def _first(keys: list[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more
