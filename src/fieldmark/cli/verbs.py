"""The verbs: parse, one call, print. Nothing here imports torch before a verb needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from typer.core import TyperGroup

from fieldmark.cli import cache as cache_verb
from fieldmark.cli import check as check_verb
from fieldmark.cli import datasets as datasets_verb
from fieldmark.cli import split as split_verb
from fieldmark.cli import transfer as transfer_verb
from fieldmark.cli.options import (
    BAD_PICTURES,
    INTERRUPTED,
    LOOK_AT,
    PIPE_CLOSED,
    SOURCE_HELP,
    USER_ERROR,
    AugmentOption,
    BatchOption,
    BudgetOption,
    CacheOption,
    ClassWeightsOption,
    DepthOption,
    DeviceOption,
    EpochsOption,
    FoldsOption,
    Format,
    FreezeThroughOption,
    GroupByOption,
    HeadFirstOption,
    HeadOption,
    HiddenOption,
    LrOption,
    ModelOption,
    ModeOption,
    NormsOption,
    OptimizerOption,
    OutOption,
    RecipeOption,
    RunArgument,
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
from fieldmark.cli.stopping import TERMINATED, Terminated
from fieldmark.cli.weights import weights_app
from fieldmark.errors import FieldmarkError
from fieldmark.progress import console_progress
from fieldmark.recipe import parse_setting


class Verbs(TyperGroup):
    """The verbs; what a user can put right is said without a traceback.

    Here and not around `app()`, because Typer keeps Ctrl-C and closed pipes for itself, says
    nothing, and ends with exit codes that differ between its versions.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, and not when Python ends
        except FieldmarkError as error:
            _fail(str(error), USER_ERROR)
        except Terminated:
            _fail("stopped by SIGTERM", TERMINATED)
        except KeyboardInterrupt:
            _fail("stopped by Ctrl-C", INTERRUPTED)
        except BrokenPipeError:
            # The reader (`head`, say) has left. Python would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(PIPE_CLOSED)
        return result


def _fail(text: str, code: int) -> NoReturn:
    shown = Text(text)
    shown.stylize("bold red", 0, len(text.partition("\n")[0]))
    Console(stderr=True).print(shown, soft_wrap=True)
    sys.exit(code)


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of labelled pictures to a classifier whose numbers can be believed.\n\n"
    "Begin with [bold]fieldmark demo[/bold].",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import fieldmark

        typer.echo(f"fieldmark {fieldmark.__version__}")
        raise typer.Exit


@app.command(epilog=example("fieldmark demo", "fieldmark demo --quick"))
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs.")] = False,
    out: OutOption = None,
) -> None:
    """Train on real handwritten digits: no download, about a minute."""
    from fieldmark.demo import run_demo
    from fieldmark.printing import print_run

    progress = console_progress()
    result = run_demo(progress, quick=quick, out=out)
    print_run(result.run.test, result.run.val)
    answer = result.prediction.top(1)[0]
    console = Console()
    console.print(
        f"\n{result.picture} is a {result.label}, and the model says "
        f"[bold]{escape(answer[0])}[/bold] ({answer[1]:.1%}).\n\n"
        f"Look at    {result.run.path}/{LOOK_AT}\n"
        f"Next       {program()} predict {result.run.path} {result.picture} --top 3\n"
        f"           {program()} train YOUR_PHOTOS      (one folder a class)",
        highlight=False,
        soft_wrap=True,
    )


@app.command(
    epilog=example(
        "fieldmark train photos/ --model resnet18 --epochs 30",
        "fieldmark train photos/ --recipe runs/x/recipe.toml --set data.resize=squash",
    )
)
def train(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help=f"{SOURCE_HELP} Default: the recipe's.")
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    mode: ModeOption = None,
    freeze_through: FreezeThroughOption = None,
    head: HeadOption = None,
    hidden: HiddenOption = None,
    views: ViewsOption = None,
    folds: FoldsOption = None,
    head_first: HeadFirstOption = None,
    stage_lr_decay: StageLrDecayOption = None,
    unfreeze_every: UnfreezeEveryOption = None,
    norms: NormsOption = None,
    class_weights: ClassWeightsOption = None,
    sampling: SamplingOption = None,
    epochs: EpochsOption = None,
    budget: BudgetOption = None,
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
    val_is_val: Annotated[
        bool, typer.Option("--val-is-val", help="Select on the source's val/: no test is left.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A file that cannot be used stops the run.")
    ] = False,
    out: OutOption = None,
    name: Annotated[str | None, typer.Option(help="The run's name, below runs/.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Train a classifier, say how good it is, keep it in one safe file."""
    from fieldmark import api
    from fieldmark.printing import print_run

    run = api.train(
        source,
        recipe=recipe,
        settings=dict(map(parse_setting, settings or ())),
        out=out,
        name=name,
        budget=budget,
        progress=console_progress(),
        model=model,
        weights=weights,
        mode=mode,
        freeze_through=freeze_through,
        head=head,
        hidden=hidden,
        views=views,
        folds=folds,
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
        val_is_val=val_is_val or None,
        strict=strict or None,
    )
    print_run(run.test, run.val)
    typer.echo(f"\nLook at {run.path}/{LOOK_AT}\nNext: {program()} predict {run.path} PICTURES")


@app.command(
    epilog=example("fieldmark evaluate runs/photos-resnet18", "fieldmark evaluate runs/x new/")
)
def evaluate(
    run: RunArgument,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Other labelled pictures; default: the test part."),
    ] = None,
    depth: DepthOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    out: OutOption = None,
) -> None:
    """Evaluate a model on its test part, or on other labelled pictures."""
    from fieldmark import api
    from fieldmark.printing import print_metrics

    result = api.evaluate(
        run,
        source,
        out=out,
        depth=depth or 1,
        device=device or "auto",
        batch_size=batch_size or 32,
        progress=console_progress(),
    )
    typer.echo(f"pictures: {result.what}")
    print_metrics("accuracy", result.metrics)
    typer.echo(f"\ntables and pictures are in {result.path}")


@app.command(
    epilog=example(
        "fieldmark predict runs/photos-resnet18 new/*.jpg --top 3",
        "fieldmark predict runs/photos-resnet18 new/ --format csv > answers.csv",
    )
)
def predict(
    run: RunArgument,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATHS", help="Pictures, folders, 'patterns*.jpg'.")
    ],
    top: Annotated[int, typer.Option(min=1, help="Likeliest classes to show.")] = 1,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.TABLE,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
) -> None:
    """Classify pictures: class and probability.

    A picture that cannot be read gets a row with the reason, and the exit code is then 1.
    """
    from fieldmark.predict import find_pictures, load
    from fieldmark.printing import print_predictions

    predictor = load(run, device or "auto")
    predictions = predictor.predict_each(
        find_pictures(paths), batch_size=batch_size or 32, progress=console_progress(stderr=True)
    )
    num_bad = print_predictions(predictions, top, format)
    if num_bad:
        pictures = "1 picture" if num_bad == 1 else f"{num_bad} pictures"
        typer.echo(f"{pictures} could not be read; the rows say why", err=True)
        raise typer.Exit(BAD_PICTURES)


@app.command(
    epilog=example("fieldmark summary resnet50 --classes 4", "fieldmark summary runs/photos-vgg16")
)
def summary(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network's name, or a run.")],
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Input channels.")] = None,
    size: SizeOption = None,
    settings: SetOption = None,
) -> None:
    """Every layer of a network: shape, parameters, FLOPs; and totals."""
    from fieldmark.assembly.network import summarize_named
    from fieldmark.printing import print_summary

    options = dict(map(parse_setting, settings or ()))
    print_summary(
        summarize_named(model, classes=classes, channels=channels, size_px=size, settings=options)
    )


@app.command(
    epilog=example(
        "fieldmark models",
        "fieldmark models --filter convnext",
        "fieldmark models --filter 'vit_*'",
    )
)
def models(
    pattern: Annotated[
        str | None,
        typer.Option("--filter", metavar="WORD", help="Part of a name, or a pattern with *."),
    ] = None,
) -> None:
    """The networks that can be named: ours, then timm's."""
    from fieldmark.catalog import list_catalog
    from fieldmark.printing import print_models

    print_models(list_catalog(pattern))


@app.command(
    epilog=example(
        "fieldmark show photos/", "fieldmark show photos/ --augmented --augment standard"
    )
)
def show(
    source: SourceArgument,
    num: Annotated[int, typer.Option(min=1, max=400, help="How many pictures.")] = 20,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="As the network sees them in training.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The PNG to write. Default: contact_sheet.png, or the next free name."),
    ] = None,
    model: ModelOption = None,
    size: SizeOption = None,
    augment: AugmentOption = None,
    depth: DepthOption = None,
    seed: SeedOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """A contact sheet of random pictures with their labels."""
    from fieldmark import api

    path = api.show(
        source,
        out,
        num=num,
        augmented=augmented,
        recipe=recipe,
        settings=dict(map(parse_setting, settings or ())),
        progress=console_progress(),
        model=model,
        size=size,
        augment=augment,
        depth=depth,
        seed=seed,
    )
    typer.echo(f"wrote {path}")


# In the order of the help.
app.command(epilog=transfer_verb.EXAMPLE)(transfer_verb.transfer)
app.command(epilog=check_verb.EXAMPLE)(check_verb.check)
app.command(epilog=split_verb.EXAMPLE)(split_verb.split)
app.command(epilog=datasets_verb.EXAMPLE)(datasets_verb.datasets)
app.command(epilog=cache_verb.EXAMPLE)(cache_verb.cache)
app.add_typer(weights_app)
