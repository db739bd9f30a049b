"""What a model file contains; nobody else knows.

`model.safetensors` is the whole model: the weights, and in its metadata under the key "fieldmark"
a JSON text with the architecture, the class names in order and the preprocess. No pickle: others'
.pth files, which are pickles, are read by torch's unpickler for weights alone, and never written.
"""

from __future__ import annotations

import json
import pickle
import warnings
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
from fieldmark.models.fit import Classes, check_fits, fit_tensors
from fieldmark.models.registry import create_model
from fieldmark.types import Preprocess

FORMAT: Final = 1
METADATA_KEY: Final = "fieldmark"
PICKLED_SUFFIXES: Final = (".pth", ".pt", ".bin")
STATE_DICT_KEYS: Final = ("state_dict", "model_state_dict", "model")  # where trainings keep theirs


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
    save_tensors(path, model.state_dict(), {METADATA_KEY: json.dumps(document)})


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and texts into one .safetensors file, atomically.

    Raises:
        OutputError: it cannot be written, for example because the disk is full.
    """
    # Contiguous copies on the CPU: safetensors refuses views and other layouts.
    copies = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(copies, temporary, metadata=dict(metadata))
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
    tensors = load_tensors(path)
    check_fits(model.state_dict(), tensors, str(path))
    model.load_state_dict(tensors, strict=True)
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
            architecture=_read_architecture(document["architecture"]),
            class_names=_read_class_names(document["class_names"]),
            preprocess=Preprocess.from_dict(document["preprocess"]),
            history=dict(document["history"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(path, error) from error
    if info.architecture["num_classes"] != len(info.class_names):
        raise _damaged(path, "as many class names as outputs are needed")
    if info.architecture["in_channels"] != info.preprocess.channels:
        raise _damaged(path, "network and preprocess disagree about the channels")
    return info


def _read_architecture(given: Any) -> dict[str, Any]:
    """Raises what `find_info` catches: TypeError or ValueError."""
    architecture = dict(given)
    for word, kind in (
        ("name", str),
        ("options", dict),
        ("num_classes", int),
        ("in_channels", int),
    ):
        if type(architecture.get(word)) is not kind:
            raise ValueError(f"{word} of the network is {architecture.get(word)!r}")
    return architecture  # and the keys of the options are texts, as all are in JSON


def _read_class_names(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ValueError("the class names are no list of texts")
    if len(set(given)) != len(given):
        raise ValueError("two classes have the same name")
    return tuple(given)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The bare weights of a .safetensors file, or of a .pth or .pt that torch wrote.

    Raises:
        CheckpointError: no such file, not a whole one, or one that holds more than tensors.
    """
    _check_exists(path)
    if path.suffix.lower() in PICKLED_SUFFIXES:
        return _load_pickled(path)
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def load_weights(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, classes: Classes | None
) -> str:
    """Start `model` from `tensors`; returns a sentence saying what was taken and what adapted.

    All weights must fit but those that `models.fit` adapts: the first convolution to the number of
    channels, the classifier to the classes.

    Raises:
        CheckpointError: they were made for another network.
    """
    network = as_network(model)
    own = model.state_dict()
    fitted, said = fit_tensors(network, own, tensors, source, classes or Classes())
    model.load_state_dict(fitted, strict=True)
    return "; ".join([f"weights from {source}", *said])


def _load_pickled(path: Path) -> dict[str, torch.Tensor]:
    """torch's own unpickler in the mode that builds tensors and plain containers, nothing else."""
    with path.open("rb") as stream:
        if stream.read(64).lstrip().startswith(b"<"):
            raise _damaged(path, "a web page may have been saved in its place", kind="of weights")
    try:
        with warnings.catch_warnings():
            # Of pickles that torch did not write: the error follows.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "this file holds more than weights, and reading that could run a stranger's code",
            given=path,
            valid="a state dict: names and tensors",
            fix="ask for a .safetensors, or where you trust the file, load it with torch and save "
            "model.state_dict() alone",
        ) from error
    except Exception as error:  # damaged pickles and archives raise whatever they run into
        raise _damaged(path, type(error).__name__, kind="a file that torch.save wrote") from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise CheckpointError(
            "this file holds no state dict",
            given=f"{path}: {type(content).__name__}",
            valid=f"names and tensors, or such under one of {', '.join(STATE_DICT_KEYS)}",
            fix="save model.state_dict() alone, best as .safetensors",
        )
    tensors = {str(key): value for key, value in content.items()}
    for wrapper in ("module.", "_orig_mod."):  # DataParallel's, and torch.compile's
        if all(key.startswith(wrapper) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return tensors


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


def _damaged(path: Path, why: object, kind: str = "a .safetensors file") -> CheckpointError:
    reason = (str(why).strip() or type(why).__name__).splitlines()[0]
    return CheckpointError(
        f"the model file is damaged or not {kind}: {reason}",
        given=path,
        fix="copy it again from where it came, or download it again",
    )
