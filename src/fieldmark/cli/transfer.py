"""`fieldmark transfer`: scratch, frozen, partial and finetune on the same pictures, compared."""

from __future__ import annotations

from typing import Annotated

import typer

from fieldmark.cli.options import (
    TRANSFER,
    AugmentOption,
    BatchOption,
    CacheOption,
    ClassWeightsOption,
    DepthOption,
    DeviceOption,
    GroupByOption,
    HeadFirstOption,
    HeadOption,
    HiddenOption,
    LrOption,
    ModelOption,
    NormsOption,
    OptimizerOption,
    OutOption,
    RecipeOption,
    SamplingOption,
    ScheduleOption,
    SeedOption,
    SetOption,
    SizeOption,
    SourceArgument,
    StageLrDecayOption,
    UnfreezeEveryOption,
    ViewsOption,
    WeightsOption,
    example,
    program,
)
from fieldmark.progress import console_progress
from fieldmark.recipe import parse_setting

EXAMPLE = example(
    "fieldmark transfer photos/ --model resnet18",
    "fieldmark transfer photos/ --weights runs/x --modes frozen,finetune --epochs 20",
)


def transfer(
    source: SourceArgument,
    model: ModelOption = None,
    weights: WeightsOption = None,
    modes: Annotated[
        str | None,
        typer.Option(
            metavar="MODE,MODE",
            help="Of scratch, frozen, partial, finetune. Default: all that are possible.",
        ),
    ] = None,
    freeze_through: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            rich_help_panel=TRANSFER,
            help="partial: the last frozen stage; `fieldmark summary` lists them. Default: the "
            "middle one.",
        ),
    ] = None,
    head: HeadOption = None,
    hidden: HiddenOption = None,
    views: ViewsOption = None,
    head_first: HeadFirstOption = None,
    stage_lr_decay: StageLrDecayOption = None,
    unfreeze_every: UnfreezeEveryOption = None,
    norms: NormsOption = None,
    class_weights: ClassWeightsOption = None,
    sampling: SamplingOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Times each mode is shown the training pictures. Default: 10."),
    ] = None,
    batch_size: BatchOption = None,
    size: SizeOption = None,
    lr: LrOption = None,
    optimizer: OptimizerOption = None,
    schedule: ScheduleOption = None,
    augment: AugmentOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    cache: CacheOption = None,
    depth: DepthOption = None,
    group_by: GroupByOption = None,
    out: OutOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="The comparison's name, below runs/. Default: SOURCE-MODEL-transfer."),
    ] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Train in every mode on the same pictures; say which to go on with.

    Without --weights it takes those that are published for the network.
    Each mode is an ordinary run. Repeated after Ctrl-C, the same command goes on.
    """
    from fieldmark.comparison import compare_modes
    from fieldmark.printing_modes import print_comparison

    done = compare_modes(
        source,
        modes=None if modes is None else [word.strip() for word in modes.split(",")],
        freeze_through=freeze_through,
        recipe=recipe,
        settings=dict(map(parse_setting, settings or ())),
        out=out,
        name=name,
        progress=console_progress(),
        model=model,
        weights=weights,
        head=head,
        hidden=hidden,
        views=views,
        head_first=head_first,
        stage_lr_decay=stage_lr_decay,
        unfreeze_every=unfreeze_every,
        norms=norms,
        class_weights=class_weights,
        sampling=sampling,
        epochs=epochs,
        batch_size=batch_size,
        size=size,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        augment=augment,
        seed=seed,
        device=device,
        cache=cache,
        depth=depth,
        group_by=group_by,
    )
    print_comparison(done.results, done.best, done.notes, done.advice)
    chosen = next(result.run for result in done.results if result.mode == done.best)
    typer.echo(
        f"\nLook at {done.path}/error_curves.png, comparison.csv\n"
        f"Next: {program()} predict {chosen} PICTURES"
    )
