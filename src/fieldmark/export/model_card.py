"""The page that the Hugging Face Hub shows of a model: what it does, how well, and what it is not.

The front matter's words are the Hub's (huggingface.co/docs/hub/model-cards). What the card says is
what the run wrote down; where nothing is known, it says that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

from fieldmark.checkpoint import ModelInfo
from fieldmark.errors import CheckpointError
from fieldmark.export.usage import preprocessing_text, timm_code
from fieldmark.rundir import RunDirectory
from fieldmark.types import Estimate

FEW_PICTURES: Final = 20  # of a class: its recall is known to about +-20 % at best

Figures = Mapping[str, Any]  # a run's metrics.json


def read_figures(run: RunDirectory, info: ModelInfo) -> Figures | None:
    """The figures of the run that the model lies in; None where there are none beside it.

    Raises:
        CheckpointError: metrics.json is damaged, or speaks of a model with other classes.
    """
    if not run.metrics.is_file():
        return None
    try:
        figures = json.loads(run.metrics.read_text(encoding="utf-8"))
        for part in filter(None, (figures["test"], figures["val"])):
            if [row["name"] for row in part["per_class"]] != list(info.class_names):
                raise ValueError("its classes are not the model's")
        # Whatever is missing, or of another kind, shows here.
        for section in (_figures_section, partial(_data_section, info), partial(_limits, info)):
            section(figures)
        _ = figures["num_epochs"], figures["machine"]["device"], figures["machine"]["precision"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the metrics.json beside the model cannot be used: {error or type(error).__name__}",
            given=run.metrics,
            valid="the metrics.json that the model's own run wrote",
            fix="take it away; the card then says that no figures are known",
        ) from error
    return figures  # type: ignore[no-any-return]


def model_card(info: ModelInfo, figures: Figures | None) -> str:
    """README.md with its front matter. Class names are escaped; no path of this machine is shown.

    Args:
        figures: of `read_figures`.
    """
    name, num_classes = info.architecture["name"], len(info.class_names)
    front = ["library_name: timm", "pipeline_tag: image-classification", "tags:"]
    front += ["- image-classification", "- timm", "- fieldmark"]
    if figures is not None:
        front += ["metrics:", "- accuracy", "- f1"]
    front += ["# license: choose one and take the # away; Fieldmark cannot know what your pictures"]
    front += ["# and the weights you started from permit."]
    sections = [
        ("Figures", _figures_section(figures)),
        ("The pictures", _data_section(info, figures)),
        ("How it was trained", _training_section(info, figures)),
        (
            "How to use it",
            f"From inside this folder (once it is on the Hub, with `hf-hub:NAME/REPOSITORY` for "
            f"`local-dir:.`):\n\n```python\n{timm_code(info.preprocess)}```",
        ),
        ("Preprocessing", preprocessing_text(info.preprocess)),
        ("Limits", _limits(info, figures)),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    return (
        "---\n" + "\n".join(front) + f"\n---\n\n# {name} for {_counted(num_classes, 'class')}\n\n"
        f"An image classifier, trained with Fieldmark. It tells apart: {_names(info)}.\n\n{body}\n"
    )


def escape(text: str) -> str:
    """A class name as Markdown shows it, in a sentence or in a table's cell."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split())) or "(no name)"


def _names(info: ModelInfo, most: int = 12) -> str:
    names = [escape(name) for name in info.class_names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _figures_section(figures: Figures | None) -> str:
    if figures is None:
        return (
            "No figures are known: the model file was exported alone, without the run it comes "
            "from. Evaluate it on\nlabelled pictures of your own before you rely on it."
        )
    part, word = _judged(figures)
    accuracy = _estimate(part["accuracy"])
    largest = part["largest_class"]
    lines = [
        f"Accuracy on the {word} pictures: **{_percent(accuracy)}**, with {accuracy.n} pictures. "
        "The range is the 95 %\ninterval by Wilson; it covers the chance in which pictures were "
        "drawn, nothing else. Always answering\n"
        f"{escape(str(largest['name']))}, the commonest class, would reach {largest['share']:.1%}.",
    ]
    if word == "validation":
        lines.append(
            "There was no test part. These pictures also chose the best epoch, so the figures are "
            "somewhat too good."
        )
    summary = [f"macro F1 {part['macro_f1']:.3f}", f"loss {part['loss']:.3f} nats"]
    if "top5_accuracy" in part:
        summary.append(
            f"true class among the top five {_percent(_estimate(part['top5_accuracy']))}"
        )
    lines.append(f"Also: {', '.join(summary)}.")
    rows = ["| class | pictures | recall (95 % interval) | precision | F1 |"]
    rows.append("| --- | ---: | --- | ---: | ---: |")
    for row in part["per_class"]:
        seen = row["num_true"] > 0
        recall = _percent(_estimate(row["recall"])) if seen else "not known"
        answered = row["num_predicted"] > 0
        rows.append(
            f"| {escape(str(row['name']))} | {row['num_true']} | {recall} "
            f"| {_share(row['precision'], answered)} | {_share(row['f1'], seen or answered)} |"
        )
    return "\n\n".join([*lines, "\n".join(rows)])


def _data_section(info: ModelInfo, figures: Figures | None) -> str:
    known = [f"The classes, in the order of the outputs: {_names(info, most=1000)}."]
    if figures is not None:
        pictures = figures["pictures"]
        known.insert(
            0,
            f"{pictures['train']} pictures for training, {pictures['val']} for choosing the best "
            f"epoch (validation), {pictures['test']} for the test.\n"
            f"Of {pictures['found']} files that were found, {pictures['left_out']} could not be "
            f"used and {pictures['not_needed']} were not needed.",
        )
    elif "num_train" in info.history:
        known.insert(0, f"{info.history['num_train']} pictures for training.")
    known.append(
        "What they show, who took them and under which terms is not known to Fieldmark; please add "
        "it here."
    )
    return "\n\n".join(known)


def _training_section(info: ModelInfo, figures: Figures | None) -> str:
    try:
        rows = _training_rows(info, info.history["recipe"], figures)
    except (KeyError, TypeError):  # another version's recipe, or a model made without one
        return "How the model was trained is not known."
    table = "\n".join(f"| {escape(word)} | {escape(str(value))} |" for word, value in rows)
    return f"| | |\n| --- | --- |\n{table}"


def _training_rows(
    info: ModelInfo, recipe: Mapping[str, Any], figures: Figures | None
) -> list[tuple[str, Any]]:
    optimizer, training = recipe["optimizer"], recipe["training"]
    epochs = f"{training['epochs']} planned"
    if figures is not None:
        epochs = f"{figures['num_epochs']} of {training['epochs']}"
    decay = f", weight decay {optimizer['weight_decay']}" if optimizer["weight_decay"] else ""
    loss = "cross-entropy"
    if training["label_smoothing"]:
        loss += f", label smoothing {training['label_smoothing']}"
    if training["class_weights"] == "balanced":
        loss += ", rare classes weighing more"
    drawn = ", every class equally often" if training["sampling"] == "balanced" else ""
    rows = [
        ("network", info.architecture["name"]),
        ("start", _start(recipe)),
        ("epochs", f"{epochs}; kept: epoch {info.history['epoch']}, the best on validation"),
        ("optimizer", f"{optimizer['name']}, peak rate {optimizer['lr']}{decay}"),
        ("schedule", recipe["schedule"]["name"]),
        ("batch", f"{training['batch_size']} pictures{drawn}"),
        ("augmentation", _augmentation(recipe["augment"])),
        ("loss", loss),
        ("seed", recipe["seed"]),
        ("Fieldmark", info.history["fieldmark"]),
    ]
    if training["ema_decay"]:
        rows.append(("averaging", f"of the weights, decay {training['ema_decay']} a step"))
    if figures is not None:
        machine = figures["machine"]
        rows.append(("machine", f"{machine['device']}, {machine['precision']}"))
    return rows


def _limits(info: ModelInfo, figures: Figures | None) -> str:
    num_classes = len(info.class_names)
    lines = [
        f"It gives one of {_counted(num_classes, 'answer')} for any picture, one of something else "
        "as well; it has no way to say that it does not know.",
        "Its probabilities rank the answers. Whether 90 % are right where it says 90 % was not "
        "checked.",
    ]
    if figures is None:
        lines.append("How well it does is not known (see above).")
    else:
        part, word = _judged(figures)
        lines.append(
            f"The figures hold for pictures taken like the {word} pictures. With another camera, "
            "place, season or group of people it may do worse, and nothing here says how much."
        )
        few = [row for row in part["per_class"] if row["num_true"] < FEW_PICTURES]
        if few:
            named = ", ".join(escape(str(row["name"])) for row in few[:8])
            more = f" and {len(few) - 8} more" if len(few) > 8 else ""
            lines.append(
                f"Fewer than {FEW_PICTURES} {word} pictures were at hand of: {named}{more}. Their "
                "figures say little."
            )
    lines.append("No check was made of how it treats groups of people. Do not let it decide alone.")
    return "\n".join(f"- {line}" for line in lines)


def _judged(figures: Figures) -> tuple[Mapping[str, Any], str]:
    """The part whose figures count: test, else validation."""
    return (figures["test"], "test") if figures["test"] else (figures["val"], "validation")


def _start(recipe: Mapping[str, Any]) -> str:
    """Where the weights came from; of a path or an address only the last word."""
    weights = str(recipe["model"]["weights"])
    if weights == "none":
        return "random weights"
    if not weights.startswith("hf:"):
        weights = PurePosixPath(re.split(r"[?#]", weights.replace("\\", "/"))[0]).name
    training = recipe["training"]["freeze_through"]
    through = f" {training}" if training else ""
    return f"weights {weights}, mode {recipe['mode']}{through}"


def _augmentation(words: Mapping[str, Any]) -> str:
    settings = {word: value for word, value in words.items() if word != "preset" and value}
    shown = ", ".join(f"{word} {_plain(value)}" for word, value in settings.items())
    return f"{words['preset']}: {shown}" if shown else f"{words['preset']}"


def _plain(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(map(str, value))
    return str(value)


def _estimate(values: Mapping[str, Any]) -> Estimate:
    return Estimate(**values)


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _share(value: float, known: bool) -> str:
    return f"{value:.1%}" if known else "not known"


def _counted(count: int, word: str) -> str:
    plural = {"class": "classes"}.get(word, f"{word}s")
    return f"{count} {word if count == 1 else plural}"
