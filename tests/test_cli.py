"""The command line as people meet it: what each verb prints, writes and returns."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fieldmark
from fieldmark.cli import options
from fieldmark.data.manifest import read_manifest
from fieldmark.evaluation.metrics import evaluate_logits
from fieldmark.models.registry import list_models, list_timm_models
from fieldmark.printing import print_metrics
from fieldmark.recipe import load_recipe

Verb = Callable[..., Any]  # see conftest.py
VERBS = (
    *("demo", "train", "evaluate", "predict", "summary", "models", "show", "check", "split"),
    *("datasets", "cache", "transfer"),
)
# The words; each verb has those that mean something to it.
OPTIONS = {
    "train": "model weights mode epochs budget batch-size size lr optimizer schedule augment seed "
    "device cache depth group-by val-is-val strict out name recipe set help freeze-through head "
    "hidden views folds head-first stage-lr-decay unfreeze-every norms class-weights sampling",
    "transfer": "model weights modes epochs batch-size size lr optimizer schedule augment seed "
    "device cache depth group-by out name recipe set help freeze-through head hidden views "
    "head-first stage-lr-decay unfreeze-every norms class-weights sampling",
    "evaluate": "depth device batch-size out",
    "predict": "top format device batch-size",
    "summary": "classes channels size set",
    "models": "filter",
    "show": "num augmented out model size augment depth seed recipe set",
    "demo": "quick out",
    "check": "out write-manifest depth strict",
    "cache": "limit clear",
    "datasets": "get",
    "split": "val test seed copy link manifest folds group-by ignore-duplicates redraw "
    "keep-parts depth",
}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output as in a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


def held_back(run: fieldmark.Run) -> list[str]:
    """The pictures of a run's test part."""
    return [sample.path for sample in read_manifest(run.path / "manifest.csv").of_part("test")]


# Help ---------------------------------------------------------------------------------------------


def test_help_names_every_verb_on_one_line(verb: Verb, terminal: None) -> None:
    done = verb("--help")
    assert done.code == 0
    for name in VERBS:
        (line,) = (x for x in done.out.splitlines() if re.match(rf"│ {name} ", x))
        assert line.rstrip(" │").endswith(".")


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_has_an_example_and_fits(verb: Verb, terminal: None, name: str) -> None:
    done = verb(name, "--help")
    text = done.out
    assert done.code == 0
    assert f"fieldmark {name}" in text[text.index("Example") :]
    assert all(len(line) <= 80 for line in text.splitlines())
    options = re.findall(r"│ --([a-z-]+)", text)
    expected = OPTIONS.get(name, "").split()
    assert options == (expected if "help" in expected else [*expected, "help"])


def test_words_of_transfer_stand_together_in_the_help(verb: Verb, terminal: None) -> None:
    text = verb("train", "--help").out
    panel = text[text.index("─ Transfer learning (with --weights) ─") :]
    panel = panel[: panel.index("╰")]
    words = OPTIONS["train"].partition(" help ")[2].split()
    assert re.findall(r"│ --([a-z-]+)", panel) == words[:-2]  # the others are for uneven classes
    assert "--no-head-first" in panel


def test_words_of_transfer_reach_the_training(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def train(source: str, **words: Any) -> None:
        given.update(words)
        raise fieldmark.FieldmarkError("far enough")

    monkeypatch.setattr("fieldmark.api.train", train)
    words = (
        "--freeze-through layer2 --head mlp --hidden 64 --views 3 --folds 5 --no-head-first "
        "--stage-lr-decay 0.4 --unfreeze-every 2 --norms eval"
    )
    assert "far enough" in verb("train", "photos", *words.split()).err
    expected = {
        "freeze_through": "layer2",
        "head": "mlp",
        "hidden": 64,
        "views": 3,
        "folds": 5,
        "head_first": False,
        "stage_lr_decay": 0.4,
        "unfreeze_every": 2,
        "norms": "eval",
    }
    assert {word: given[word] for word in expected} == expected
    verb("train", "photos")
    assert {given[word] for word in expected} == {None}


@pytest.mark.parametrize("name", ["train", "show"])
def test_help_explains_every_kind_of_source(verb: Verb, name: str) -> None:
    """Brackets are rich's markup too: unescaped, `[test/]` vanished."""
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", verb(name, "--help").out).split())
    kinds = ("class folders", "[test/]", "zip", "path,label[,split]", "IDX files", "hf:ORG/NAME")
    for kind in kinds:
        assert kind in text


def test_version(verb: Verb) -> None:
    assert verb("--version").out == f"fieldmark {fieldmark.__version__}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian", "x"], "train"),
        (["train", "x", "--epoch", "3"], "--epochs"),
        (["train", "x", "--epochs", "three"], "--epochs"),
        (["predict", "run"], "PATHS"),
        (["predict", "run", "a.jpg", "--top", "0"], "--top"),
        (["predict", "run", "a.jpg", "--format", "xml"], "json"),
        (["evaluate", "run", "--batch-size", "0"], "--batch-size"),
        (["summary", "resnet50", "--classes", "0"], "--classes"),
    ],
)
def test_misused_options_end_with_2_and_name_the_word(
    verb: Verb, words: list[str], told: str
) -> None:
    done = verb(*words)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


# train --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("right", "said"), [(60, True), (95, False)])
def test_an_accuracy_is_held_against_always_giving_one_answer(
    right: int, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 100 pictures 55 are bees: 60 right answers are no proof of anything, 95 are."""
    y_true_n = np.array([0] * 45 + [1] * 55)
    y_pred_n = np.where(np.arange(100) < right, y_true_n, 1 - y_true_n)
    metrics = evaluate_logits(np.eye(2)[y_pred_n], y_true_n, ("ants", "bees"))
    print_metrics("test accuracy", metrics)
    assert ("Always answering 'bees' would give 0.550" in capsys.readouterr().out) == said


def test_the_next_command_is_one_that_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/fieldmark", "demo"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert options.program() == ".venv/bin/fieldmark"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert options.program() == "fieldmark"


def test_train_says_where_it_stands_and_leaves_everything(
    verb: Verb, make_pictures: Any, tmp_path: Path
) -> None:
    make_pictures(tmp_path / "photos", {"cat": 10, "dog": 10})
    (tmp_path / "runs" / "photos-resnet10").mkdir(parents=True)  # an older run: names count up
    Path("r.toml").write_text(
        "seed = 7\n[training]\nepochs = 9\nbatch_size = 4\n[optimizer]\nlr = 0.5\n"
    )
    done = verb(
        *("train", "photos", "--model", "resnet10", "--size", 32, "--epochs", 2, "--device", "cpu"),
        *("--recipe", "r.toml", "--set", "optimizer.lr=0.002", "--set", "data.resize=squash"),
    )
    assert done.code == 0, done.err
    assert done.err == ""
    run = Path("runs/photos-resnet10-2")
    lines = done.out.splitlines()
    assert "stratified by class: 80/10/10 train/val/test, seed 7" in lines[0]
    assert [line.split("/")[0].split()[-1] for line in lines if "/2 " in line] == ["1", "2"]
    assert lines[-1] == f"Next: {options.program()} predict {run} PICTURES"

    # What was printed is what was written.
    metrics = json.loads((run / "metrics.json").read_text())
    accuracy = metrics["test"]["accuracy"]
    assert f"test accuracy {accuracy['value']:.3f}" in done.out
    assert accuracy["n"] == metrics["pictures"]["test"] == 2
    history = csv.DictReader((run / "history.csv").read_text().splitlines())
    assert [row["epoch"] for row in history] == ["1", "2"]
    recipe = load_recipe(run / "recipe.toml")
    assert (recipe.seed, recipe.training.epochs, recipe.training.batch_size) == (7, 2, 4)
    assert (recipe.optimizer.lr, recipe.data.resize) == (0.002, "squash")
    assert recipe.source == "photos"
    assert json.loads((run / "class_indices.json").read_text()) == {"0": "cat", "1": "dog"}
    for name in ("curves", "confusion_matrix", "pictures", "predictions"):
        Image.open(run / f"{name}.png").verify()
    assert len((run / "predictions.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.slow
def test_demo_trains_and_classifies_a_picture_that_was_held_back(
    verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model.name": "resnet10", "data.train_limit": 300, "training.batch_size": 16}
    monkeypatch.setattr("fieldmark.demo.SETTINGS", settings)
    monkeypatch.setattr("fieldmark.demo.QUICK_EPOCHS", 1)
    done = verb("demo", "--quick", "--out", "d")
    assert done.code == 0, done.err
    said = re.search(r"d/test_picture\.png is a (\d), and the model says (\d) \(", done.out)
    assert said
    again = verb("predict", "d", "d/test_picture.png", "--format", "json")
    assert json.loads(again.out)[0]["top"][0]["class"] == said[2]
    manifest = read_manifest("d/manifest.csv")
    assert manifest.of_part("test")[0].label == said[1]
    assert "train YOUR_PHOTOS" in done.out


# evaluate -----------------------------------------------------------------------------------------


def test_a_model_alone_says_that_it_may_know_the_pictures(
    verb: Verb, tiny_run: fieldmark.Run
) -> None:
    shutil.copy(tiny_run.path / "model.safetensors", "alone.safetensors")
    done = verb("evaluate", "alone.safetensors", tiny_run.path.parent / "photos", "--out", "e")
    assert done.code == 0, done.err
    assert "not known which pictures trained it" in done.out


def test_evaluate_repeats_the_figures_of_the_training(verb: Verb, tiny_run: fieldmark.Run) -> None:
    done = verb("evaluate", tiny_run.path, "--out", "again")
    assert done.code == 0
    assert tiny_run.test is not None
    assert f"accuracy {tiny_run.test.accuracy.value:.3f}" in done.out
    assert "the run's own test part" in done.out
    metrics = json.loads(Path("again/metrics.json").read_text())
    assert metrics["test"] == json.loads((tiny_run.path / "metrics.json").read_text())["test"]


def test_evaluate_on_other_pictures_never_writes_over_anything(
    verb: Verb, tiny_run: fieldmark.Run, make_pictures: Any, tmp_path: Path
) -> None:
    """`.` and `..` are sources too; once they led out of evaluations/, onto the run itself."""
    shutil.copytree(tiny_run.path, "run")
    make_pictures(tmp_path / "new", {"cat": 3, "dog": 2})
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    assert verb("evaluate", "run", "new").code == 0
    first = Path("run/evaluations/new/metrics.json").read_bytes()
    done = verb("evaluate", "run", "new/../new")
    assert "accuracy" in done.out
    assert "5 pictures" in done.out
    assert "run/evaluations/new-2" in done.out
    assert Path("run/evaluations/new/metrics.json").read_bytes() == first
    assert {path: path.read_bytes() for path in before} == before


def test_evaluate_in_the_folder_of_pictures(
    verb: Verb,
    tiny_run: fieldmark.Run,
    make_pictures: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_run.path, "run")
    monkeypatch.chdir(make_pictures(tmp_path / "here", {"cat": 2, "owl": 2}))
    assert "evaluations/here" in verb("evaluate", "../run", ".").out
    assert (tmp_path / "run" / "evaluations" / "here" / "predictions.csv").is_file()


def test_evaluate_on_one_class_alone(
    verb: Verb, tiny_run: fieldmark.Run, make_pictures: Any, tmp_path: Path
) -> None:
    """How good is it at owls? A classifier needs two classes to be trained, not to be judged."""
    make_pictures(tmp_path / "owls", {"owl": 5})
    done = verb("evaluate", tiny_run.path, "owls", "--out", "e")
    assert (done.code, done.err) == (0, "")
    metrics = json.loads(Path("e/metrics.json").read_text())
    assert metrics["test"]["accuracy"]["n"] == 5
    rows = list(csv.DictReader(Path("e/predictions.csv").read_text().splitlines()))
    assert len(rows) == 5
    right = sum(row["predicted"] == "owl" for row in rows)
    assert metrics["test"]["accuracy"]["value"] == pytest.approx(right / 5)


def test_evaluate_warns_of_pictures_that_trained_the_model(
    verb: Verb, tiny_run: fieldmark.Run
) -> None:
    done = verb("evaluate", tiny_run.path, tiny_run.path.parent / "photos", "--out", "e")
    assert done.code == 0
    assert re.search(r"WARNING: 3\d of these 36 pictures were used to train or choose", done.out)


# predict ------------------------------------------------------------------------------------------


def test_predict_json_and_csv_hold_the_same_and_nothing_else(
    verb: Verb, tiny_run: fieldmark.Run
) -> None:
    paths = held_back(tiny_run)
    answers = json.loads(verb("predict", tiny_run.path, *paths, "--format", "json", "--top", 2).out)
    rows = list(
        csv.reader(io.StringIO(verb("predict", tiny_run.path, *paths, "--format", "csv").out))
    )
    assert rows[0] == ["path", "class", "probability", "error"]
    assert [row[0] for row in rows[1:]] == [answer["path"] for answer in answers] == paths
    for answer, (_, label, probability, error) in zip(answers, rows[1:], strict=True):
        assert [label, float(probability)] == list(answer["top"][0].values())
        assert error == ""
        assert len(answer["top"]) == 2
        assert 1 / 3 <= float(probability) <= 1


def test_predict_takes_files_folders_and_patterns_once_each(
    verb: Verb, tiny_run: fieldmark.Run, make_pictures: Any, tmp_path: Path
) -> None:
    make_pictures(tmp_path, {"new": 2, "old": 3, 'a "b", c': 1})
    words = ["new", "new/000.png", "old/00[01].png", 'a "b", c']
    answers = json.loads(verb("predict", tiny_run.path, *words, "--format", "json").out)
    expected = ["new/000.png", "new/001.png", "old/000.png", "old/001.png", 'a "b", c/000.png']
    assert [answer["path"] for answer in answers] == expected
    rows = list(
        csv.DictReader(io.StringIO(verb("predict", tiny_run.path, *words, "--format", "csv").out))
    )
    assert [row["path"] for row in rows] == expected


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_a_bad_file_has_its_row_and_the_others_are_done(
    verb: Verb, tiny_run: fieldmark.Run, style: str
) -> None:
    good = held_back(tiny_run)
    Path("notes.jpg").write_text("no picture")
    done = verb(
        "predict", tiny_run.path, good[0], "notes.jpg", "gone.jpg", good[1], "--format", style
    )
    assert done.code == 1
    assert done.err.splitlines()[-1] == "2 pictures could not be read; the rows say why"
    if style == "json":
        answers = json.loads(done.out)
        assert [("top" in a, "error" in a) for a in answers] == [
            (True, False),
            (False, True),
            (False, True),
            (True, False),
        ]
        assert answers[2]["error"] == "no such file"
    elif style == "csv":
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert [bool(row["error"]) for row in rows] == [False, True, True, False]
        assert [row["class"] == "" for row in rows] == [False, True, True, False]
    else:
        lines = done.out.splitlines()
        assert lines[0].split() == ["class", "probability", "picture"]
        assert [
            line.endswith(path) for line, path in zip(lines[1::3], [good[0], good[1]], strict=True)
        ]
        assert lines[2].startswith("error  notes.jpg  not a picture")
        assert lines[3] == "error  gone.jpg  no such file"


@pytest.mark.parametrize("top", [1, 3, 20])
def test_predictions_keep_their_paths_whole_in_a_narrow_terminal(
    verb: Verb,
    terminal: None,
    tiny_run: fieldmark.Run,
    make_pictures: Any,
    tmp_path: Path,
    top: int,
) -> None:
    """Rich's table folded paths into two lines, and with --top 20 printed nothing but blanks."""
    make_pictures(tmp_path, {"a long folder name/" * 6 + "蚂蚁": 2})
    done = verb("predict", tiny_run.path, "a long folder name", "--top", top)
    lines = done.out.splitlines()
    for number in range(2):
        assert sum(line.endswith(f"蚂蚁/00{number}.png") for line in lines) == 1
    answers = [line for line in lines if re.match(r" *(cat|dog|owl) +[01]\.\d{3}", line)]
    assert len(answers) == 2 * min(top, 3)
    assert "…" not in done.out


# summary, models, show ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "total"),
    [
        ("vgg16", "138,357,544"),
        ("resnet50 --classes 4", "23,516,228"),
        ("alexnet_half --classes 5", "14,591,685"),
        (
            "resnet18 --classes 10 --channels 1 --set model.options.conv_bias=true "
            "--set model.options.norm_shortcut=false",
            "11,178,378",
        ),
    ],
)
def test_summary_of_a_name(verb: Verb, words: str, total: str) -> None:
    done = verb("summary", *words.split())
    assert done.code == 0, done.err
    assert f"parameters   {total} ({total} trainable)" in done.out
    layers = [line.split() for line in done.out.splitlines() if line.startswith("  ")]
    column = [int(fields[3].replace(",", "")) for fields in layers if len(fields) > 3]
    assert sum(column) == int(total.replace(",", ""))


def test_summary_fits_eighty_columns(verb: Verb, terminal: None) -> None:
    lines = verb("summary", "resnet50").out.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "MFLOPs"]
    boundaries = [number for number, line in enumerate(lines) if set(line.strip()) == {"─"}]
    assert [lines[number + 1].split()[0] for number in boundaries] == [
        *("stem", "layer1", "layer2", "layer3", "layer4", "head"),
    ]
    assert all(len(line) <= 80 and "…" not in line for line in lines)


def test_summary_of_a_run(verb: Verb, tiny_run: fieldmark.Run) -> None:
    num_parameters = json.loads((tiny_run.path / "metrics.json").read_text())["num_parameters"]
    done = verb("summary", tiny_run.path)
    assert f"parameters   {num_parameters:,} ({num_parameters:,} trainable)" in done.out
    assert "for one picture of 3x32x32" in done.out
    assert "for one picture of 3x64x64" in verb("summary", tiny_run.path, "--size", 64).out


def test_summary_heeds_the_words_of_data(verb: Verb, tiny_run: fieldmark.Run) -> None:
    done = verb("summary", "resnet18", "--set", "data.size=96", "--set", "data.channels=1")
    assert "for one picture of 1x96x96" in done.out
    assert (
        "for one picture of 3x64x64" in verb("summary", tiny_run.path, "--set", "data.size=64").out
    )
    done = verb("summary", "vgg11", "--set", "data.size=5")
    assert done.code == 2
    assert "vgg11 needs pictures of at least" in done.err


def test_help_names_every_kind_of_weights(verb: Verb) -> None:
    said = " ".join(verb("train", "--help").out.replace("│", " ").split())
    for kind in ("imagenet", "a tag", "a run", "a file", "hf:org/name", "https://...#sha256=HEX"):
        assert kind in said


def test_models_are_all_listed_at_eighty_columns(verb: Verb, terminal: None) -> None:
    lines = verb("models").out.splitlines()
    names = [card.name for card in (*list_models(), *list_timm_models())]
    assert [line.split()[0] for line in lines[1:]] == names
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("augmented", [False, True])
def test_show_draws_and_names_what_it_cannot(
    verb: Verb, make_pictures: Any, tmp_path: Path, augmented: bool
) -> None:
    make_pictures(tmp_path / "photos", {"cat": 3, "dog": 3})
    Path("photos/cat/empty.jpg").touch()
    flag = ["--augmented", "--augment", "standard"] if augmented else []
    done = verb("show", "photos", "--num", 4, "--size", 32, "--out", "sheet.png", *flag)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "wrote sheet.png"
    assert "1 file left out" in done.out
    assert "empty.jpg: file is empty" in done.out
    with Image.open("sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_show_never_writes_over_a_file(verb: Verb, make_pictures: Any, tmp_path: Path) -> None:
    photos = make_pictures(tmp_path / "photos", {"cat": 2, "dog": 2})
    before = {path: path.read_bytes() for path in photos.glob("*/*.png")}
    refused = verb("show", "photos", "--out", "photos/cat/000.png")
    assert refused.code == 2
    assert "exists already, and was not touched" in refused.err
    assert {path: path.read_bytes() for path in photos.glob("*/*.png")} == before

    done = [verb("show", "photos") for _ in range(3)]
    names = ["contact_sheet.png", "contact_sheet-2.png", "contact_sheet-3.png"]
    assert [x.out.splitlines()[-1] for x in done] == [f"wrote {name}" for name in names]
    assert all(Path(name).stat().st_size for name in names)
