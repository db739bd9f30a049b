"""How results look in a terminal or a pipe. No torch: results arrive as plain types."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from rich.box import HORIZONTALS
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fieldmark.data.check.findings import notes_besides_findings
from fieldmark.data.parts.groups import below_common_folder
from fieldmark.data.sources.candidates import counted
from fieldmark.evaluation.metrics import Metrics
from fieldmark.evaluation.tables import MOST_CLASSES_IN_TERMINAL, per_class_table, printable
from fieldmark.types import PARTS, Part, Prediction, Sample

if TYPE_CHECKING:
    from fieldmark.catalog import Entry
    from fieldmark.data.check.result import Checked
    from fieldmark.data.manifest import Manifest
    from fieldmark.models.summary import Summary


PIPE_COLUMNS: Final = 400  # a file has no width: nothing is cut where no terminal asks for it


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_COLUMNS)


def print_run(test: Metrics | None, val: Metrics) -> None:
    """The figures at the end of a training."""
    if test is not None:
        print_metrics("test accuracy", test)
        return
    print_metrics("validation accuracy", val)
    _console().print(
        "This part chose the epoch, so the figure is too good; no test part was kept.",
        soft_wrap=True,
    )


def print_metrics(what: str, metrics: Metrics) -> None:
    """Accuracy with its interval, then each class."""
    console, accuracy = _console(), metrics.accuracy
    console.print()
    console.print(per_class_table(metrics))
    console.print(
        f"\n[bold]{what} {accuracy.value:.3f}[/bold]  95 % interval {accuracy.low:.3f}-"
        f"{accuracy.high:.3f}, {accuracy.n} pictures; loss {metrics.loss:.4f}, "
        f"macro F1 {metrics.macro_f1:.3f}",
        highlight=False,
        soft_wrap=True,
    )
    name, share = metrics.largest_class
    if accuracy.low <= share:
        console.print(
            f"Always answering {printable(name)!r} would give {share:.3f}, which that interval "
            "does not exclude: these pictures do not show that the model has learnt anything.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_predictions(predictions: Iterable[Prediction], top: int, style: str) -> int:
    """Print predictions as `style` (table, json or csv) says; returns how many are errors."""
    printers = {"table": _as_table, "json": _as_json, "csv": _as_csv}
    if sys.stdout.isatty():
        predictions = list(predictions)  # lines would run into the bar, which shares the screen
    counted = _Counted(predictions)
    printers[style](counted, top)
    return counted.num_errors


class _Counted:
    """Passes predictions on and counts the errors among them."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self.predictions, self.num_errors = predictions, 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        for prediction in self.predictions:
            self.num_errors += prediction.error is not None
            yield prediction


def _as_table(predictions: Iterable[Prediction], top: int) -> None:
    """A line a picture, the path last; with `top` above 1 the classes stand below their picture.

    Paths are never folded or cut, however narrow the terminal: people copy them.
    """
    console = _console()

    def line(*parts: tuple[str, str]) -> None:
        text = Text()
        for words, style in parts:
            text.append(printable(words), style)
        console.print(text, highlight=False, soft_wrap=True)

    heading_due = top == 1
    for prediction in predictions:
        if prediction.error is not None:
            line(("error  ", "red"), (prediction.path, ""), (f"  {prediction.error}", "red"))
            continue
        width = max(5, *map(cell_len, map(printable, prediction.class_names)))
        if heading_due:
            line((set_cell_size("class", width) + "  probability  picture", "bold"))
            heading_due = False
        if top > 1:
            line((prediction.path, ""))
        for name, probability in prediction.top(top):
            cell = set_cell_size(printable(name), width)
            if top > 1:
                line((f"  {cell}  {probability:.3f}", ""))
            else:
                line((f"{cell}  {probability:11.3f}  {prediction.path}", ""))


def _as_json(predictions: Iterable[Prediction], top: int) -> None:
    """A JSON array, an object a line: readable whole, and line by line with little effort."""
    sys.stdout.write("[")
    for number, prediction in enumerate(predictions):
        answer: dict[str, object] = {"path": prediction.path}
        if prediction.error is None:
            answer["top"] = [{"class": c, "probability": p} for c, p in prediction.top(top)]
        else:
            answer["error"] = prediction.error
        sys.stdout.write((",\n " if number else "\n ") + json.dumps(answer, ensure_ascii=False))
    sys.stdout.write("\n]\n")


def _as_csv(predictions: Iterable[Prediction], top: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    ranks = [""] if top == 1 else [f"_{rank}" for rank in range(1, top + 1)]
    header = [name for rank in ranks for name in (f"class{rank}", f"probability{rank}")]
    writer.writerow(["path", *header, "error"])
    for prediction in predictions:
        cells: list[object] = [c for pair in prediction.top(top) for c in pair]
        cells += [""] * (2 * top - len(cells))
        writer.writerow([prediction.path, *cells, prediction.error or ""])


def print_models(entries: Sequence[Entry]) -> None:
    """The networks, one a line: ours with their papers, then timm's.

    Beside each the names of its published weights, the usual ones first; those that are on this
    machine already stand in green, with a tick that a pipe shows too.
    """
    if not entries:
        _console().print("no network has such a name", style="yellow")
        return
    console = _console()
    rows = [
        (
            entry.card.name,
            f"{entry.card.num_parameters / 1e6:.1f} M",
            str(entry.card.default_size_px),
            _weights_cell(entry, len(entries) <= FEW_ENTRIES),
            Text((entry.card.paper or "") if entry.is_own else "timm"),
        )
        for entry in entries
    ]
    # In a narrow terminal names are not cut: people copy them. The papers go first.
    left = console.width - max(len(row[0]) for row in rows) - len("  parameters  size px  ")
    is_narrow = left < MIN_WEIGHTS_AND_PAPER
    headings = ["name", "parameters", "size px", "weights (\N{CHECK MARK}: on this machine)"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        is_last = heading is headings[-1]
        table.add_column(
            heading,
            justify="right" if heading in ("parameters", "size px") else "left",
            no_wrap=True,
            width=max(left, MIN_WEIGHTS) if is_narrow and is_last else None,
        )
    if not is_narrow:
        table.add_column("paper")
    for row in rows:
        table.add_row(*row[: len(headings)] if is_narrow else row)
    console.print(table)


MIN_WEIGHTS: Final = 9
MIN_WEIGHTS_AND_PAPER: Final = 70
NUM_TAGS_SHOWN: Final = 3
FEW_ENTRIES: Final = 10  # a list this short shows every tag


def _weights_cell(entry: Entry, show_all: bool) -> Text:
    cell = Text()
    num_shown = len(entry.weights) if show_all else NUM_TAGS_SHOWN
    shown = list(zip(entry.weights, entry.cached, strict=True))[:num_shown]
    for position, (weights, cached) in enumerate(shown):
        cell.append(", " if position else "")
        cell.append(weights.tag + " \N{CHECK MARK}" * cached, "green" if cached else "")
    if len(entry.weights) > num_shown:
        cell.append(f" and {len(entry.weights) - num_shown} more", "dim")
    return cell if shown else Text("-", "dim")


def print_summary(summary: Summary) -> None:
    """The layers in the order they run, a section a stage with its sums, and the totals."""
    console = _console()
    table = Table(box=HORIZONTALS, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, justify in (
        ("layer", "left"),
        ("kind", "left"),
        ("output", "right"),
        ("parameters", "right"),
        ("MFLOPs", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for stage, group in groupby(summary.rows, key=lambda row: row.stage):
        rows = list(group)
        if stage:
            table.add_section()  # the boundary: freezing and storing features stop at these
            sums = (sum(r.num_parameters for r in rows), sum(r.flops for r in rows))
            table.add_row(stage, "", *_sizes(rows[-1].output_shape, *sums), style="bold")
        for row in rows:
            table.add_row(
                ("  " if stage else "") + row.name,
                row.kind,
                *_sizes(row.output_shape, row.num_parameters, row.flops),
            )
    console.print(table)
    shape = "x".join(map(str, summary.input_shape))
    total_mb = summary.input_mb + summary.activations_mb + summary.parameters_mb
    between = summary.flops - sum(row.flops for row in summary.rows)
    inside = (
        f"\n             {between / 1e6:,.1f} M of them between layers, as in attention"
        * bool(between)
    )
    console.print(
        f"\nparameters   {summary.num_parameters:,} "
        f"({summary.num_trainable_parameters:,} trainable)\n"
        f"FLOPs        {summary.flops / 1e9:.2f} G for one picture of {shape} "
        f"(two for each multiply-add){inside}\n"
        f"memory       {total_mb:.2f} MB: input {summary.input_mb:.2f}, activations "
        f"{summary.activations_mb:.2f}, parameters {summary.parameters_mb:.2f}",
        highlight=False,
    )


def _sizes(output_shape: tuple[int, ...], num_parameters: int, flops: int) -> tuple[str, str, str]:
    return (
        "x".join(map(str, output_shape)),
        f"{num_parameters:,}" if num_parameters else "",
        f"{flops / 1e6:,.1f}" if flops else "",
    )


MAX_CLASS_LINES: Final = 12
MAX_FOLD_COLUMNS: Final = 10
NUM_ENDS: Final = 3  # of a longer list of classes: the largest and the smallest


def print_check(checked: Checked) -> None:
    """What a check found: the set in figures, its classes, and a line with an example for every
    kind of finding."""
    console = _console()
    manifest, (least, median, most) = checked.manifest, checked.sides
    num = len(manifest.samples)
    unread = num - checked.num_looked_at
    lines = [
        f"{counted(num, 'picture')} of {counted(len(manifest.class_names), 'class')}"
        + (f", {unread:,} of them unreadable" if unread else ""),
        f"short side {least:,} to {most:,} px, median {median:,}",
        f"mean {_figures(checked.mean)}, std {_figures(checked.std)} (R, G, B)",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    console.print(_class_counts(manifest))
    for note in (*checked.notes, *notes_besides_findings(manifest.notes)):
        console.print(note, highlight=False, markup=False, style="dim")
    if not checked.findings:
        console.print("\nNothing was found.", style="green")
        return
    paths = [sample.path for sample in manifest.samples]
    paths += [item.path for item in manifest.left_out]
    places = dict(zip(paths, below_common_folder(paths), strict=True))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("how bad", "what", "number"):
        table.add_column(heading, justify="right" if heading == "number" else "left", no_wrap=True)
    table.add_column("for example", overflow="fold")
    colours = {"error": "red", "warning": "yellow", "note": "cyan"}
    for kind, found in checked.by_kind().items():
        severity, example = found[0].severity, found[0]
        words = [places.get(path, path) for path in (example.path, *example.others[:1]) if path]
        detail = example.detail
        if example.label and not example.path and example.label not in detail:
            detail = f"{example.label}: {detail}"
        text = Text(printable(" = ".join(words)))
        text.append((": " if words else "") + printable(detail), "dim" if words else "")
        table.add_row(Text(severity, colours[severity]), kind, f"{len(found):,}", text)
    console.print()
    console.print(table)


def _figures(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _class_counts(manifest: Manifest) -> Table | Text:
    """Pictures of each class and part; of many classes the largest and the smallest."""
    counts = manifest.count_by_class()
    if len(counts) > MAX_CLASS_LINES:
        ordered = sorted(counts, key=lambda name: -counts[name])
        ends = [
            ", ".join(f"{printable(name)} {counts[name]:,}" for name in names)
            for names in (ordered[:NUM_ENDS], ordered[-NUM_ENDS:])
        ]
        return Text(f"largest classes: {ends[0]}; smallest: {ends[1]}")
    parts: list[Part] = [part for part in PARTS if manifest.of_part(part)]
    by_part = {str(part): manifest.count_by_class(part) for part in parts}
    return _counts(manifest.class_names, by_part or {"pictures": counts})


def _counts(names: Sequence[str], columns: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        table.add_row(Text(printable(name)), *(f"{column[name]:,}" for column in columns.values()))
    return table


def print_parts(manifests: Sequence[Manifest]) -> None:
    """Pictures of each class in each part; of folds, those that each tests."""
    first = manifests[0]
    if len(manifests) == 1:
        held: dict[str, Sequence[Sample]] = {
            part: first.of_part(part) for part in PARTS if first.of_part(part)
        }
    else:
        held = {f"fold {i}": fold.of_part("test") for i, fold in enumerate(manifests, start=1)}
    held = {**held, "all": first.samples} if len(held) <= MAX_FOLD_COLUMNS else {}
    columns = {heading: Counter(s.label for s in samples) for heading, samples in held.items()}
    console = _console()
    console.print()
    if not columns:
        sizes = [len(fold.of_part("test")) for fold in manifests]
        console.print(f"{len(sizes)} folds, which test {min(sizes):,} to {max(sizes):,} pictures")
        return
    few = len(first.class_names) <= MOST_CLASSES_IN_TERMINAL
    table = _counts(first.class_names if few else (), columns)
    table.add_row("all", *(f"{len(samples):,}" for samples in held.values()), style="bold")
    if any(sample.group for sample in first.samples):
        groups = (len({s.group for s in samples} - {""}) for samples in held.values())
        table.add_row("groups", *(f"{count:,}" for count in groups), style="dim")
    console.print(table)
    if len(manifests) > 1:
        console.print("Each fold is the test of one split; all other pictures are for training.")
