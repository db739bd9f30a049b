"""How far are our networks, preprocessing and exports from the libraries they are held to?

    python benchmarks/parity.py --out docs/parity.md

Every figure in that page is computed here, and a pair that does not fit together at all is an
error. The tests hold the same comparisons to limits, most of them in smaller cases.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torchvision
from torch import nn

from fieldmark.data.preprocess import normalize
from fieldmark.errors import ModelError
from fieldmark.models.keras_weights import KERAS_PREPROCESS, read_keras_weights
from fieldmark.models.layouts import from_timm, to_timm, to_torchvision
from fieldmark.models.registry import MODEL_NAMES, create_model
from fieldmark.runtime import describe_machine, open_runtime
from fieldmark.types import Preprocess

REPOSITORY: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from parity_files import (  # noqa: E402
    EXPORTED,
    PREPROCESSING,
    REAL,
    SEED,
    SIZE_PX,
    Cells,
    compare,
    exported,
    preprocessing,
    real_weights,
    run,
)
from support import keras_2017, references  # noqa: E402

NUM_PICTURES, NUM_CLASSES = 2, 10
# What the write-ups counted: parameters, network, classes, channels, options.
WRITE_UPS: Final = (
    (23_516_228, "1: ResNet-50, birds", "resnet50", 4, 3, {}),
    (11_178_378, "2: ResNet-18", "resnet18", 10, 1, {"conv_bias": True, "norm_shortcut": False}),
    (11_175_370, "2: ResNet-18 as torchvision has it", "resnet18", 10, 1, {}),
    (138_357_544, "3: VGG-16", "vgg16", 1000, 3, {}),
    (16_630_440, "4: half-width AlexNet", "alexnet_half", 1000, 3, {}),
    (14_591_685, "4: half-width AlexNet, flowers", "alexnet_half", 5, 3, {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    arguments = parser.parse_args()
    sections = [heading()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for text, rows in (
            (NETWORKS, networks()),
            (KERAS, keras_networks(folder)),
            (COUNTS, counts()),
            (PREPROCESSING, preprocessing()),
            (EXPORTED, exported(folder)),
            (REAL, real_weights(arguments.shared, folder)),
        ):
            print(text.splitlines()[0].strip("# "), flush=True)
            sections.append(text + "".join(f"| {' | '.join(row)} |\n" for row in rows))
    arguments.out.write_text("\n".join(sections), encoding="utf-8")


def heading() -> str:
    packages = ("torch", "torchvision", "timm", "keras", "numpy", "pillow", "fieldmark")
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    return f"""\
# Parity

Made by `python benchmarks/parity.py --out docs/parity.md`; no figure in it is typed in by hand.

- Versions: {", ".join(f"{package} {version(package)}" for package in packages)}.
- Machine: {machine}.
- Random weights from a fixed seed, the norms' statistics too; float32 on the CPU; the same pictures
  on both sides. A float32 number has some seven digits, so the largest (absolute) value says what
  can be expected of the largest difference. 0 means equal to the bit.
"""


NETWORKS = f"""\
## torchvision and timm

Logits of {NUM_PICTURES} pictures of normal noise, {SIZE_PX} px, 1000 classes. *Both ways*: our
weights load there with `strict=True`, and come back the same, tensor by tensor. timm renames and
reshapes VGG's dense layers. Networks without a row exist in neither library.

| network | reference | keys | weights | largest value | largest difference |
|---|---|---|---|---:|---:|
"""


def networks() -> Cells:
    generator = torch.Generator().manual_seed(SEED + 1)
    images = torch.randn(NUM_PICTURES, 3, SIZE_PX, SIZE_PX, generator=generator)
    for name in MODEL_NAMES:
        with torch.device("meta"):
            ours: Any = create_model(name).eval()
        ours.load_state_dict(references.random_state(ours), assign=True)
        state, logits = ours.state_dict(), None
        for library, convert, build in (
            ("torchvision", to_torchvision, references.built_by_torchvision),
            ("timm", to_timm, references.built_by_timm),
        ):
            try:
                foreign = convert(ours.architecture, state)
            except ModelError:  # that library has no such network
                continue
            theirs = build(foreign)  # strict: every weight has found its place there
            back = from_timm(name, theirs.state_dict())
            assert list(back) == list(state), (name, library)
            assert all(torch.equal(back[key], value) for key, value in state.items()), name
            keys = "equal" if list(theirs.state_dict()) == list(state) else "renamed"
            logits = run(ours, images) if logits is None else logits
            words = ", ".join(f"{word}={value}" for word, value in foreign.arguments.items())
            reference = f"{library} `{foreign.name}`" + (f" ({words})" if words else "")
            yield [f"`{name}`", reference, keys, "both ways", *compare(logits, run(theirs, images))]


KERAS = f"""\
## Keras

Keras 3 on torch; its weights go through a file, one way. {NUM_PICTURES} pictures, {SIZE_PX} px,
{NUM_CLASSES} classes, through Keras' `preprocess_input` there and `Preprocess` here, which alone
is the first row. `tests/support/keras_2017.py` builds the network of 2017, which Keras has no more.

| network | reference | what | largest value | largest difference |
|---|---|---|---:|---:|
"""


def keras_networks(folder: Path) -> Cells:
    keras = keras_2017.import_keras(folder)
    pixels = keras_2017.pictures(NUM_PICTURES, SIZE_PX)  # (b, h, w, 3) uint8
    preprocess = Preprocess(channels=3, **KERAS_PREPROCESS)
    inputs = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), preprocess)
    theirs_in = keras.applications.resnet50.preprocess_input(pixels.astype("float32"))
    theirs_in = np.ascontiguousarray(theirs_in)  # Keras reverses the colours as a view
    cells = compare(inputs, torch.from_numpy(theirs_in).permute(0, 3, 1, 2))
    yield ["all three", "`preprocess_input`", "inputs, grey levels", *cells]

    words = {"weights": None, "classes": NUM_CLASSES}
    for reference, build in (
        ("ResNet-50 of 2017", lambda: keras_2017.resnet50_2017(keras, NUM_CLASSES, SIZE_PX)),
        ("`applications.ResNet50`", lambda: keras.applications.ResNet50(**words)),
        ("`applications.VGG16`", lambda: keras.applications.VGG16(**words)),
    ):
        theirs = build()
        keras_2017.randomize(theirs, SEED)
        file = keras_2017.write_h5(folder / "keras.h5", theirs, form="keras2")
        weights = read_keras_weights(file)
        file.unlink()
        ours: Any = create_model(weights.network, weights.num_classes).eval()
        ours.load_state_dict(weights.tensors, strict=True)
        is_2017 = weights.network == "resnet50_keras2017"
        stages = keras_2017.STAGES_2017 if is_2017 else ()
        layers = [*stages, theirs.layers[-1].name]
        *maps_bhwc, expected = keras_2017.outputs_of(keras, theirs, layers, theirs_in)
        x = inputs
        for (stage, modules), map_bhwc in zip(
            ours.stage_modules().items(), maps_bhwc, strict=False
        ):
            x = run(nn.Sequential(*modules), x)
            what = f"{stage}, {'x'.join(map(str, x.shape[1:]))}"
            cells = compare(x, map_bhwc.permute(0, 3, 1, 2))
            yield [f"`{weights.network}`", reference, what, *cells]
        cells = compare(run(ours, inputs).softmax(dim=1), expected)
        yield [f"`{weights.network}`", reference, "probabilities", *cells]


COUNTS = """\
## Parameter counts

Published by the write-ups that Fieldmark grows out of, and by torchvision (`meta["num_params"]`).

| published by | network | classes | channels | published | counted | difference |
|---|---|---:|---:|---:|---:|---:|
"""


def counts() -> Cells:
    published = [(f"write-up {text}", n, name, *rest) for n, text, name, *rest in WRITE_UPS]
    for name in MODEL_NAMES:
        if name in torchvision.models.list_models():
            count = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
            published.append(("torchvision", count, name, 1000, 3, {}))
    for publisher, said, name, classes, channels, options in published:
        with torch.device("meta"):
            model = create_model(name, classes, channels, **options)
        counted = sum(parameter.numel() for parameter in model.parameters())
        words = "".join(f", {word}={str(value).lower()}" for word, value in options.items())
        numbers = [str(classes), str(channels), f"{said:,}", f"{counted:,}", f"{counted - said:,}"]
        yield [publisher, f"`{name}`{words}", *numbers]


if __name__ == "__main__":
    main()
