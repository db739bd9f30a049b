"""Keras' side of the parity tests: its networks, random weights in them, and its older files.

Everything takes the module `keras` that `import_keras` gives, so that looking at this file costs
nothing. Keras 3 computes with torch here: a difference in results is one of the networks, not of
two libraries' arithmetic.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import torch

# One of Keras' own: its torch tensors do not speak numpy 2's newest protocol.
WARNING = "__array__ implementation doesn't accept a copy keyword"


def import_keras(home: Path) -> Any:
    """Keras 3 on torch and the CPU. It writes its settings into `home`, not into the user's."""
    words = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(home), "KERAS_TORCH_DEVICE": "cpu"}
    with mock.patch.dict(os.environ, words), warnings.catch_warnings():
        warnings.filterwarnings("ignore", WARNING, DeprecationWarning)
        keras = importlib.import_module("keras")
    if keras.backend.backend() != "torch":
        raise RuntimeError("Keras is loaded already, with another backend than torch")
    return keras


def resnet50_2017(keras: Any, num_classes: int = 1000, size_px: int = 224) -> Any:
    """The ResNet-50 that came with Keras in 2017, built anew.

    Zero-padding of 3 px and an unpadded 7x7 convolution, an unpadded pooling (55x55 at 224 px), the
    stride in the first 1x1 and in the shortcut, biases everywhere, batch norms with epsilon 1e-3,
    at the end one average over the whole map (7x7 at 224 px). Each stage is called by its last
    layer, `activation_of_stage2` and so on.
    """
    layers = keras.layers

    def conv(x: Any, filters: int, kernel: int, place: str, **words: Any) -> Any:
        return layers.Conv2D(filters, kernel, name=f"res{place}", **words)(x)

    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(axis=3, epsilon=1e-3, name=name)(x)

    images = keras.Input((size_px, size_px, 3))
    x = layers.ZeroPadding2D(3)(images)
    x = layers.Conv2D(64, 7, strides=2, name="conv1")(x)
    x = layers.Activation("relu")(norm(x, "bn_conv1"))
    x = layers.MaxPooling2D(3, strides=2, name="activation_of_stage1")(x)
    for stage, (width, num_blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=2):
        for letter in "abcdef"[:num_blocks]:
            stride = 2 if letter == "a" and stage > 2 else 1
            place = f"{stage}{letter}_branch"
            y = norm(conv(x, width, 1, f"{place}2a", strides=stride), f"bn{place}2a")
            y = layers.Activation("relu")(y)
            y = norm(conv(y, width, 3, f"{place}2b", padding="same"), f"bn{place}2b")
            y = layers.Activation("relu")(y)
            y = norm(conv(y, 4 * width, 1, f"{place}2c"), f"bn{place}2c")
            if letter == "a":
                x = norm(conv(x, 4 * width, 1, f"{place}1", strides=stride), f"bn{place}1")
            is_last = letter == "abcdef"[num_blocks - 1]
            name = f"activation_of_stage{stage}" if is_last else None
            x = layers.Activation("relu", name=name)(layers.add([y, x]))
    x = layers.Flatten()(layers.AveragePooling2D(x.shape[1])(x))
    return keras.Model(images, layers.Dense(num_classes, activation="softmax", name="fc1000")(x))


STAGES_2017 = tuple(f"activation_of_stage{stage}" for stage in range(1, 6))  # stem, layer1 to 4


def outputs_of(keras: Any, model: Any, layers: Sequence[str], images_bhwc: np.ndarray) -> list[Any]:
    """What the named layers put out in evaluation, as torch tensors: maps in (b, h, w, c)."""
    part = keras.Model(model.inputs, [model.get_layer(layer).output for layer in layers])
    with torch.no_grad():
        outputs = part(torch.from_numpy(images_bhwc), training=False)
    return [outputs] if len(layers) == 1 else list(outputs)


def pictures(count: int, size_px: int, seed: int = 1) -> np.ndarray:
    """(b, h, w, 3) uint8, RGB: one of a single colour, then finer and finer patches of colour."""
    rng = np.random.default_rng(seed)
    result = []
    for number in range(count):
        patches = rng.integers(0, 256, (3**number, 3**number, 3), np.uint8)
        places = np.arange(size_px) * 3**number // size_px
        result.append(patches[places][:, places])
    return np.stack(result)


def randomize(model: Any, seed: int = 0) -> None:
    """Give every weight, the norms' statistics too, a random value that keeps signals alive.

    Convolutions are drawn as by He et al. (arXiv:1502.01852, eq. 10); the first one takes grey
    levels of 0 to 255 down to the order of 1.
    """
    rng = np.random.default_rng(seed)
    is_first = True
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            shape, kind = tuple(weight.shape), weight.path.rpartition("/")[2]
            if kind == "kernel":
                drawn = rng.standard_normal(shape, np.float32)
                drawn *= (2 / np.prod(shape[:-1])) ** 0.5 / (64 if is_first else 1)
                is_first = False
            elif kind == "gamma":  # small, or each of sixteen blocks would double the signal
                drawn = rng.uniform(0.4, 0.8, shape)
            elif kind == "moving_variance":
                drawn = rng.uniform(0.5, 1.5, shape)
            else:  # biases, means
                drawn = rng.uniform(-0.5, 0.5, shape)
            values.append(drawn.astype(np.float32))
        if values:
            layer.set_weights(values)


def write_h5(path: Path, model: Any, *, form: str, whole_model: bool = False) -> Path:
    """Write the weights as Keras of old did: a group a layer, `weight_names` in its attributes.

    Args:
        form: "keras1" calls them `res2a_branch2a_W_1:0`, and a norm's variance `running_std`;
            "keras2" calls them `res2a_branch2a/kernel:0`.
        whole_model: as `model.save` does, in a group `model_weights`.
    """
    with h5py.File(path, "w") as file:
        parent = file.create_group("model_weights") if whole_model else file
        parent.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
        for layer in model.layers:
            kinds = [weight.path.rpartition("/")[2] for weight in layer.weights]
            names = [name_in(form, layer.name, kind) for kind in kinds]
            write_layer(parent, layer.name, names, layer.get_weights())
    return path


def write_layer(
    parent: Any, name: str, weight_names: Sequence[str], values: Sequence[np.ndarray]
) -> None:
    """One layer of such a file."""
    group = parent.create_group(name)
    group.attrs["weight_names"] = np.array(list(weight_names), "S")
    for weight, value in zip(weight_names, values, strict=True):
        group.create_dataset(weight, data=value)


def name_in(form: str, layer: str, kind: str) -> str:
    """What `form` calls the weight that is `kind` today."""
    if form == "keras2":
        return f"{layer}/{kind}:0"
    old = {
        "kernel": "W",
        "bias": "b",
        "moving_mean": "running_mean",
        "moving_variance": "running_std",
    }
    return f"{layer}_{old.get(kind, kind)}_1:0"


def remove_names(path: Path) -> None:
    """Make a `.weights.h5` file what Keras 3.5 would have written."""
    with h5py.File(path, "r+") as file:
        for group in (file, *file["layers"].values()):
            group["vars"].attrs.pop("name", None)
