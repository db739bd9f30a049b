"""The layers in a Keras HDF5 file, found without trusting the file.

A Keras file is a list of layers, each with its weights in a fixed order, in one of two forms:

- `.h5`: a group a layer, whose attribute `weight_names` lists its datasets in order. Where the file
  holds a whole model, these groups are below `model_weights`.
- `.weights.h5` (Keras 3): `layers/conv2d_7/vars/0, 1, ...`, groups called by class and counter.
  Newer versions (3.15 does, 3.5 does not) write the layer's own name as attribute `name` of `vars`.

Nothing in the file is executed and no link is followed. Opening reads attributes only; what `read`
gives is never larger than the shape that the caller has seen.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from fieldmark.errors import CheckpointError

# HDF5 unpacks a chunk as a whole, however small the part of it that belongs to the dataset.
MAX_CHUNK_BYTES: Final = 2**26
MAX_NAMES: Final = 1000  # of one layer's weights; a network in place of a layer has that many


@dataclass(frozen=True)
class KerasFile:
    """An open file.

    Attributes:
        path: where it is.
        layers: the shapes of the weights of each layer that has some, in Keras' order. A layer that
            holds other layers is there without any.
        named: layers go by their own names, not by class and counter.
        backend: on what it was trained ("tensorflow", "theano"), "" where the file does not say.
    """

    path: Path
    layers: dict[str, list[tuple[int, ...]]]
    named: bool
    backend: str
    datasets: Mapping[str, list[Any]]  # h5py's, behind `layers`

    def read(self, layer: str, number: int) -> torch.Tensor:
        """One weight as float32. Its shape is for the caller to have checked.

        Raises:
            CheckpointError: no floating-point numbers, not in the file, or damaged.
        """
        with _as_damage(self.path):
            dataset = self.datasets[layer][number]
            if fault := _find_fault(dataset):
                raise ValueError(f"layer {layer}, shape {dataset.shape}: {fault}")
            return torch.from_numpy(dataset.astype("float32")[()])


@contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Open a file and find its layers.

    Raises:
        CheckpointError: no such file, not HDF5, cut off or damaged, or no h5py.
    """
    try:
        import h5py  # here: an extra, which most do without
    except ImportError as error:
        raise CheckpointError(
            "reading Keras' weights needs the package h5py",
            given=path,
            fix="pip install 'fieldmark[keras]'",
        ) from error
    _check_is_hdf5(path, h5py)
    with ExitStack() as stack:
        with _as_damage(path):
            found = _look_into(stack.enter_context(h5py.File(path, "r")), path)
        yield found


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """What h5py says of a broken file, which may be any of these errors, in words for people."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the Keras file is damaged: {error}",
            given=path,
            fix="copy it again from where it came, or save it again with Keras",
        ) from error


def _check_is_hdf5(path: Path, h5py: Any) -> None:
    if not path.is_file():
        raise CheckpointError(
            "there is no such file",
            given=path,
            valid="a .h5 or .weights.h5 file that Keras wrote",
            fix="check the path",
        )
    if zipfile.is_zipfile(path):
        raise CheckpointError(
            "this is a zip archive, not an HDF5 file",
            given=path,
            valid="a .h5 or .weights.h5 file that Keras wrote",
            fix="unzip it: a .keras archive holds a model.weights.h5; name that",
        )
    if not h5py.is_hdf5(path):
        raise CheckpointError(
            "this is not an HDF5 file, or its beginning is damaged",
            given=path,
            valid="a .h5 or .weights.h5 file that Keras wrote",
            fix="copy it again from where it came; a web page may have been saved in its place",
        )


def _look_into(file: Any, path: Path) -> KerasFile:
    whole_model = "model_weights" in file
    inner = _child(file, "model_weights") if whole_model else file
    if "layers" in file:
        datasets, named = _find_variables(_child(file, "layers"))
    else:
        datasets, named = _find_listed(inner), True
    shapes = {name: [tuple(own.shape) for own in found] for name, found in datasets.items()}
    backends = _texts(file, "backend") + _texts(inner, "backend")
    return KerasFile(path, shapes, named, next(iter(backends), ""), datasets)


def _find_listed(parent: Any) -> dict[str, list[Any]]:
    """The `.h5` form."""
    layers = {}
    for name in parent:
        group = _child(parent, name)
        if names := _texts(group, "weight_names"):
            layers[name] = [_child(group, weight) for weight in names]
    return layers


def _find_variables(parent: Any) -> tuple[dict[str, list[Any]], bool]:
    """The `.weights.h5` form, and whether the layers' own names are there."""
    layers: dict[str, list[Any]] = {}
    own_names: dict[str, str] = {}
    for key in parent:
        group = _child(parent, key)
        for inner in group:
            # Dropout keeps the state of its random numbers there, which nothing is computed from.
            if inner not in ("vars", "seed_generator") and len(_child(group, inner)):
                layers[f"{key}/{inner}"] = []
        if "vars" not in group:
            continue
        variables = _child(group, "vars")
        if numbers := sorted(variables, key=int):
            layers[key] = [_child(variables, number) for number in numbers]
            own_names[key] = next(iter(_texts(variables, "name")), "")
    named = all(own_names.values()) and len(set(own_names.values())) == len(own_names)
    if not named:
        return layers, False
    return {own_names.get(key, key): datasets for key, datasets in layers.items()}, True


def _child(group: Any, name: str) -> Any:
    """What is called `name` (with slashes, for something deeper), if it is in this very file."""
    for part in name.split("/"):
        place = f"{group.name.rstrip('/')}/{part}"
        link = group.get(part, getlink=True)
        if link is None:
            raise ValueError(f"{place} is not there")
        if type(link).__name__ != "HardLink":
            raise ValueError(f"{place} is a link to elsewhere ({type(link).__name__})")
        group = group[part]
    return group


def _texts(owner: Any, key: str) -> list[str]:
    """The texts of an attribute, of which there may be one, several or none."""
    if key not in owner.attrs:
        return []
    shape = owner.attrs.get_id(key).shape
    if len(shape) > 1 or any(side > MAX_NAMES for side in shape):
        raise ValueError(f"attribute {key} of {owner.name} is no list of names")
    values = owner.attrs[key]
    values = values if shape else [values]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in values]


def _find_fault(dataset: Any) -> str | None:
    """Why data cannot be read: no numbers, not in the file, or growing when unpacked."""
    chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    stored, packed = dataset.id.get_storage_size(), dataset.id.get_create_plist().get_nfilters() > 0
    if dataset.dtype.kind != "f":
        return f"{dataset.dtype} instead of floating-point numbers"
    if dataset.external or dataset.is_virtual:
        return "its data are in another file"
    if stored == 0 or (stored < dataset.nbytes and not packed):
        return f"{dataset.nbytes:,} bytes are declared, and {stored:,} are there"
    if dataset.chunks and chunk_bytes > max(MAX_CHUNK_BYTES, dataset.nbytes):
        return f"it is packed in pieces of {chunk_bytes:,} bytes"
    return None
