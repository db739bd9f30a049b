"""A model as a folder that torchvision or timm opens, or that the Hugging Face Hub shows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from fieldmark.checkpoint import ModelInfo, load_model, save_tensors
from fieldmark.errors import ModelError, check_choice
from fieldmark.export.model_card import model_card, read_figures
from fieldmark.export.timm_config import timm_config
from fieldmark.export.usage import (
    CLASS_NAMES_FILE,
    preprocessing_text,
    timm_code,
    torchvision_code,
)
from fieldmark.files import claim_directory, free_directory, write_text
from fieldmark.models.contract import as_network
from fieldmark.models.layouts import take_rgb, to_timm, to_torchvision
from fieldmark.progress import Progress, Silent
from fieldmark.rundir import RunDirectory, find_model

TARGETS: Final = ("torchvision", "timm", "hf")
WEIGHTS_FILE: Final = "model.safetensors"


def export_weights(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a model into a new folder, for others to use; returns the folder.

    Args:
        run: a run directory, the name of a run, or a model.safetensors.
        to: "torchvision" (weights and a README with the lines that load them), "timm" (a folder
            for `timm.create_model("local-dir:FOLDER", pretrained=True)`), or "hf" (the same with
            a model card that holds the run's figures). Nothing is sent anywhere.
        out: the folder; None takes a free `export-TO` beside the model.

    Raises:
        CheckpointError: no such model, or it or its run's metrics.json is damaged.
        ModelError: `to` is none of these, or the library has no such network.
        OutputError: the folder exists and is not empty, or cannot be written.
    """
    check_choice("target", to, TARGETS, error=ModelError)
    model_file = find_model(run)
    model, info = load_model(model_file)
    files, tensors = _contents(model, info, to, RunDirectory(model_file.parent))

    folder = Path(out) if out is not None else free_directory(model_file.parent / f"export-{to}")
    claim_directory(folder)
    try:
        # Bare weights: what Fieldmark's own file says of training and sources stays at home.
        save_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
        for name, text in files.items():
            write_text(folder / name, text)
    except BaseException:  # a half export is worth nothing, and would be in the way of the next
        for name in (WEIGHTS_FILE, *files):
            (folder / name).unlink(missing_ok=True)
        raise
    progress = progress or Silent()
    progress.say(f"README.md in {folder} has the lines that load the model")
    if to == "hf":
        progress.say(
            "Nothing was sent anywhere. To publish it, choose a license in README.md, then:  "
            f"hf upload YOUR-NAME/A-NAME {shlex.quote(str(folder))}"
        )
    return folder


def _contents(
    model: nn.Module, info: ModelInfo, to: str, run: RunDirectory
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts of the folder by their file names, and its weights."""
    network, preprocess, class_names = as_network(model), info.preprocess, info.class_names
    tensors: Mapping[str, Tensor] = model.state_dict()
    if preprocess.channel_order == "bgr":
        tensors = take_rgb(tensors, network.first_convs)
    if to == "torchvision":
        foreign = to_torchvision(info.architecture, tensors)
        code = torchvision_code(foreign, model, preprocess, len(class_names))
        names = json.dumps(list(class_names), ensure_ascii=False, indent=2) + "\n"
        return {"README.md": _readme(info, "torchvision", code), CLASS_NAMES_FILE: names}, (
            foreign.tensors
        )
    foreign = to_timm(info.architecture, tensors, preprocess.size)
    config = timm_config(foreign, network, preprocess, class_names)
    text = json.dumps(config, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    if to == "timm":
        readme = _readme(info, "timm", timm_code(preprocess))
    else:
        readme = model_card(info, read_figures(run, info))
    return {"README.md": readme, "config.json": text}, foreign.tensors


def _readme(info: ModelInfo, library: str, code: str) -> str:
    num_classes = len(info.class_names)
    classes = "1 class" if num_classes == 1 else f"{num_classes} classes"
    return f"""\
# {info.architecture["name"]} for {classes}

A model that was trained with Fieldmark, for {library}. From inside this folder:

```python
{code}```

## Preprocessing

{preprocessing_text(info.preprocess)}
"""
