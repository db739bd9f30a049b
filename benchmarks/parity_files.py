"""The half of benchmarks/parity.py that goes through files: pictures, and models handed on."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from torch import Tensor, nn

from fieldmark.checkpoint import ModelInfo, save_model
from fieldmark.data.preprocess import fit_to_input
from fieldmark.export.folders import export_weights
from fieldmark.export.timm_config import crop_pct
from fieldmark.intake import import_weights
from fieldmark.models.registry import create_model
from fieldmark.predict import load
from fieldmark.progress import Silent
from fieldmark.types import Preprocess
from support import references  # tests/support: parity.py puts tests/ on the path

SIZE_PX, SEED = 224, 0
IMAGENET: Final = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
EXPORTS: Final = (
    ("alexnet", ("torchvision",)),
    ("vgg11", ("torchvision", "timm", "hf")),
    ("resnet18", ("torchvision", "timm", "hf")),
    ("resnet50", ("torchvision", "timm", "hf")),
    ("mobilenetv2_100", ("timm", "hf")),
)
NUM_RESIZED = 60
REAL_WEIGHTS: Final = "weights/mobilenetv2_100_imagenet.safetensors"
REAL_PICTURES, NUM_REAL = "hymenoptera/val", 32

Cells = Iterator[list[str]]  # the rows of a table


def run(model: nn.Module, images_bchw: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(images_bchw)
    return logits


def compare(ours: Tensor, theirs: Tensor) -> list[str]:
    """The largest value and the largest difference, as cells of a table."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01, "the comparison must be about something"
    largest = (ours - theirs).abs().max().item()
    return [f"{theirs.abs().max():.3g}", f"{largest:.1e}" if largest else "0"]


PREPROCESSING = f"""\
## Preprocessing

Pictures of noise, 1 to 700 px wide and high, to {SIZE_PX} and 64 px: `fit_to_input` against the
evaluation transforms of torchvision (`Resize`, `CenterCrop`) and of timm (`create_transform` with
the `crop_pct` that an export writes). Grey levels of 0 to 255.

| filter | part kept | reference | pictures | pixels that differ | largest difference |
|---|---:|---|---:|---:|---:|
"""


def preprocessing() -> Cells:
    for interpolation in ("bilinear", "bicubic"):
        for fraction in (1.0, 0.875, 224 / 232):
            rng = np.random.default_rng(SEED)
            found: dict[str, list[np.ndarray]] = {"torchvision": [], "timm": []}
            while len(found["timm"]) < NUM_RESIZED:
                size = (SIZE_PX, 64)[len(found["timm"]) % 2]
                p = Preprocess(size, 3, (0.0,) * 3, (1.0,) * 3, "crop", fraction, interpolation)
                width, height = rng.integers(1, 701, 2).tolist()
                if not references.is_resized_whole(width, height, p):
                    continue  # longer ones are cut before they are resized, on purpose
                picture = references.noise(width, height, seed=width)
                ours = np.asarray(fit_to_input(picture, p)).astype(int)
                found["torchvision"].append(ours - references.torchvision_pixels(picture, p))
                found["timm"].append(ours - references.timm_pixels(picture, p, crop_pct(p)))
            for library, differences in found.items():
                values = np.concatenate([np.abs(d).ravel() for d in differences])
                share, largest = f"{np.mean(values > 0):.2%}", f"{values.max()}"
                yield [interpolation, f"{fraction:.3f}", library, str(NUM_RESIZED), share, largest]


EXPORTED = """\
## Exported folders

A model of 3 classes goes out with `fieldmark weights export`. The lines in the folder's README, run
as they stand, give the probabilities of a picture of 300x240 px; beside them `fieldmark predict`.

| network | `--to` | opened by | largest value | largest difference |
|---|---|---|---:|---:|
"""


def exported(folder: Path) -> Cells:
    picture = folder / "picture.png"
    references.noise(300, 240).save(picture)
    for name, targets in EXPORTS:
        with torch.device("meta"):
            model: Any = create_model(name, num_classes=3)
        model.load_state_dict(references.random_state(model), assign=True)
        preprocess = Preprocess(channels=3, size=SIZE_PX, **IMAGENET)
        info = ModelInfo(model.architecture, ("ant", "bee", "wasp"), preprocess)
        save_model(folder / "model.safetensors", model, info)
        ours = load(folder / "model.safetensors").predict(picture)
        for target in targets:
            out = export_weights(folder / "model.safetensors", target, folder / f"{name}-{target}")
            (out / "picture.jpg").write_bytes(picture.read_bytes())  # its content tells the kind
            defined: dict[str, Any] = {}
            with contextlib.chdir(out), contextlib.redirect_stdout(io.StringIO()):
                exec(references.python_of(out / "README.md"), defined)
            library = type(defined["model"]).__module__.partition(".")[0]
            assert defined["probabilities"].max() < 0.99, "too sure to compare"
            cells = compare(torch.tensor(ours.probabilities), defined["probabilities"])
            yield [f"`{name}`", target, library, *cells]


REAL = """\
## Real weights

timm's `mobilenetv2_100`, trained on ImageNet: `fieldmark weights import` and `predict` against
timm alone with its own transforms. Probabilities of 1000 classes for photographs of ants and bees,
as they are, and as PNGs. Of a large JPEG Fieldmark decodes a half, a quarter or an eighth, of a
PNG everything, as timm does of both.

| weights | pictures | same first answer | largest value | largest difference |
|---|---|---:|---:|---:|
"""


def real_weights(shared: Path, folder: Path) -> Cells:
    file, photos = shared / REAL_WEIGHTS, shared / REAL_PICTURES
    missing = next((path for path in (file, photos) if not path.exists()), None)
    if missing is not None:
        yield [file.name, "-", "-", "-", f"skipped: {missing.name} is not on this machine"]
        return
    half = (0.5, 0.5, 0.5)  # what these weights were trained with; timm's default is another
    words = {
        "model.options.pad_type": "same",
        "data.mean": list(half),
        "data.std": list(half),
    }
    out = folder / "real.safetensors"
    import_weights(
        str(file), model="mobilenetv2_100", size=SIZE_PX, out=out, settings=words, progress=Silent()
    )
    paths = sorted(str(path) for path in photos.rglob("*.jpg"))
    paths = paths[:: len(paths) // NUM_REAL][:NUM_REAL]
    overlay = {"file": str(file), "mean": half, "std": half, "interpolation": "bilinear"}
    theirs: Any = timm.create_model(
        "mobilenetv2_100", pretrained=True, pad_type="same", pretrained_cfg_overlay=overlay
    ).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    images = torch.stack([transform(references.opened(path)) for path in paths])
    expected = run(theirs, images).softmax(dim=1)
    whole = [str(folder / f"{number}.png") for number in range(len(paths))]
    for path, png in zip(paths, whole, strict=True):
        references.opened(path).save(png, compress_level=1)
    for what, files in ((f"{len(paths)} JPEGs", paths), ("the same as PNGs", whole)):
        ours = torch.tensor([answer.probabilities for answer in load(out).predict(files)])
        same = int((ours.argmax(dim=1) == expected.argmax(dim=1)).sum())
        yield [file.name, what, f"{same} of {len(files)}", *compare(ours, expected)]
