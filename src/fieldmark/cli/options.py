"""What several verbs take and say: options with their help, exit codes, the program's own name."""

from __future__ import annotations

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

LOOK_AT = "curves.png, confusion_matrix.png, predictions.png, pictures.png"
BAD_PICTURES, PIPE_CLOSED, USER_ERROR, INTERRUPTED = 1, 1, 2, 130


class Format(StrEnum):
    """How predictions are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


SOURCE_HELP = escape(
    "A folder of class folders; a folder with train/ val/ [test/]; a zip or tar of either; a CSV "
    "with the columns path,label[,split][,group]; a folder of IDX files; hf:ORG/NAME; or a name "
    "that `fieldmark datasets` lists."
)
SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)]
RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run directory, its name, or a model.safetensors."),
]
ModelOption = Annotated[str | None, typer.Option(help="Network; `fieldmark models` lists them.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Start from imagenet (or a tag), a run, a file, hf:org/name, or "
        "https://...#sha256=HEX."
    ),
]
ModeOption = Annotated[
    str | None, typer.Option(help="scratch, finetune, frozen (head only) or partial.")
]
TRANSFER = "Transfer learning (with --weights)"
FreezeThroughOption = Annotated[
    str | None,
    typer.Option(
        metavar="STAGE",
        rich_help_panel=TRANSFER,
        help="partial: the last frozen stage; `fieldmark summary MODEL` names them.",
    ),
]
HeadOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=TRANSFER,
        help="own (the network's), linear, mlp (one hidden layer) or logistic (regression).",
    ),
]
HiddenOption = Annotated[
    int | None,
    typer.Option(rich_help_panel=TRANSFER, help="mlp: units of its hidden layer. Default: 512."),
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=TRANSFER,
        help="frozen, partial: stored augmented views a picture; 0: as evaluation sees it.",
    ),
]
FoldsOption = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=TRANSFER,
        help="frozen: also predict each training picture out of so many folds.",
    ),
]
HeadFirstOption = Annotated[
    bool | None,
    typer.Option(
        "--head-first/--no-head-first",
        rich_help_panel=TRANSFER,
        help="finetune, partial: begin with a head trained on frozen features, or not.",
    ),
]
StageLrDecayOption = Annotated[
    float | None,
    typer.Option(
        metavar="FACTOR",
        rich_help_panel=TRANSFER,
        help="finetune, partial: learning rate of a stage over that of the one above.",
    ),
]
UnfreezeEveryOption = Annotated[
    int | None,
    typer.Option(
        metavar="EPOCHS",
        rich_help_panel=TRANSFER,
        help="finetune, partial: the head trains alone; one more stage after so many epochs.",
    ),
]
NormsOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=TRANSFER,
        help="Batch norm that trains: statistics of the batch (train), or the stored (eval).",
    ),
]
UNEVEN = "Uneven classes"
ClassWeightsOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=UNEVEN, help="balanced: the rarer a class, the more it counts."),
]
SamplingOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=UNEVEN, help="balanced: every class is drawn equally often."),
]
EpochsOption = Annotated[int | None, typer.Option(help="Times the training pictures are shown.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time it may take, such as 10m: chooses mode, views, size, epochs not given.",
    ),
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Pictures a step.")]
SizeOption = Annotated[int | None, typer.Option(help="Height and width of the input, px.")]
LrOption = Annotated[float | None, typer.Option(help="Peak learning rate, per step.")]
OptimizerOption = Annotated[str | None, typer.Option(help="sgd, adam or adamw.")]
ScheduleOption = Annotated[str | None, typer.Option(help="constant, step, cosine or one_cycle.")]
AugmentOption = Annotated[str | None, typer.Option(help="none, light, standard, strong or auto.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
CacheOption = Annotated[
    str | None, typer.Option(help="Where decoded pictures are kept: auto, ram, gpu, disk or none.")
]
DepthOption = Annotated[
    int | None,
    typer.Option(min=1, help="The class is the folder so many levels below SOURCE. Default: 1."),
]
GroupByOption = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Pictures for whose paths this finds the same (its first group) stay in one part.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
OutOption = Annotated[Path | None, typer.Option(help="The directory to write.")]
RecipeOption = Annotated[Path | None, typer.Option(help="A recipe in TOML; options come on top.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other word of a recipe, as section.field=value; may be repeated.",
    ),
]


def example(*lines: str) -> str:
    """The end of a verb's help."""
    return "[bold]Example[/bold]\n\n" + "\n\n".join(f"  {escape(line)}" for line in lines)


def program() -> str:
    """How this program can be called again: by `make demo` it runs from .venv, off the PATH."""
    return "fieldmark" if shutil.which("fieldmark") else sys.argv[0]
