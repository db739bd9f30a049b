"""Fieldmark: from a folder of labelled pictures to a classifier whose numbers can be believed.

import fieldmark as fm

run = fm.train("photos", model="resnet18")
run.test.accuracy                       # Estimate(value=0.941, low=0.89, high=0.97, n=153)
fm.load("runs/photos-resnet18").predict("a.jpg").top(3)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldmark.api import Evaluation, Run, evaluate, show, train
    from fieldmark.assembly.mode_runs import Comparison
    from fieldmark.comparison import compare_modes
    from fieldmark.errors import FieldmarkError
    from fieldmark.export.folders import export_weights
    from fieldmark.inspection import Check, check
    from fieldmark.intake import import_weights
    from fieldmark.models.registry import create_model, list_models
    from fieldmark.models.summary import summarize
    from fieldmark.partition import Partition, split
    from fieldmark.predict import Predictor, load
    from fieldmark.recipe import Recipe, load_recipe
    from fieldmark.types import Estimate, Prediction

__version__ = version("fieldmark")

__all__ = [
    "Check",
    "Comparison",
    "Estimate",
    "Evaluation",
    "FieldmarkError",
    "Partition",
    "Prediction",
    "Predictor",
    "Recipe",
    "Run",
    "check",
    "compare_modes",
    "create_model",
    "evaluate",
    "export_weights",
    "import_weights",
    "list_models",
    "load",
    "load_recipe",
    "show",
    "split",
    "summarize",
    "train",
]

# Where each name lives. They are fetched on first use, so that the command line can answer
# `--help` without waiting for torch.
_HOMES = {
    "Check": "inspection",
    "Comparison": "comparison",
    "compare_modes": "comparison",
    "Estimate": "types",
    "Evaluation": "api",
    "FieldmarkError": "errors",
    "Partition": "partition",
    "Prediction": "types",
    "Predictor": "predict",
    "Recipe": "recipe",
    "Run": "api",
    "check": "inspection",
    "create_model": "models.registry",
    "evaluate": "api",
    "export_weights": "export.folders",
    "import_weights": "intake",
    "list_models": "models.registry",
    "load": "predict",
    "load_recipe": "recipe",
    "show": "api",
    "split": "partition",
    "summarize": "models.summary",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fieldmark' has no attribute {name!r}")
    value = getattr(import_module(f"fieldmark.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
