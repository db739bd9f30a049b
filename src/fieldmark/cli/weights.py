"""`fieldmark weights`: weights in from elsewhere, and out again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fieldmark.cli.options import RunArgument, SetOption, SizeOption, example, program
from fieldmark.progress import console_progress
from fieldmark.recipe import parse_setting

weights_app = typer.Typer(
    name="weights",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Take weights in from elsewhere, and hand a model's weights on.",
)


class Target(StrEnum):
    """Whose names and files the weights are written for."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    HF = "hf"


@weights_app.command(
    "import",
    epilog=example(
        "fieldmark weights import imagenet --model resnet50",
        "fieldmark weights import resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "fieldmark weights import hf:timm/resnet18.a1_in1k --model resnet18",
    ),
)
def import_(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="imagenet or another published name, a file (.safetensors, .pth, Keras' .h5), "
            "hf:org/name, or https://...#sha256=HEX.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="The network they are for; Keras' files say it themselves.")
    ] = None,
    size: SizeOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: NETWORK.safetensors.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Make a whole Fieldmark model of published weights: network, classes and preprocess."""
    from fieldmark.checkpoint import load_info
    from fieldmark.intake import import_weights

    path = import_weights(
        weights,
        model=model,
        size=size,
        out=out,
        settings=dict(map(parse_setting, settings or ())),
        progress=console_progress(),
    )
    network = load_info(path).architecture["name"]
    typer.echo(
        f"wrote {path}\n"
        f"Next: {program()} predict {path} PICTURES --top 5\n"
        f"      {program()} train PHOTOS --weights {path} --model {network}"
    )


@weights_app.command(
    "export",
    epilog=example(
        "fieldmark weights export runs/photos-resnet18 --to timm",
        "fieldmark weights export runs/photos-resnet18 --to hf --out my-model",
    ),
)
def export(
    run: RunArgument,
    to: Annotated[Target, typer.Option(help="Whose names and files to write.")],
    out: Annotated[Path | None, typer.Option(help="The directory to write.")] = None,
) -> None:
    """Write a model's weights as torchvision or timm load them, or as the Hugging Face hub does."""
    from fieldmark.export.folders import export_weights

    export_weights(run, to.value, out, progress=console_progress())
