"""Whatever is wrong with what was asked for: exit code 2, words that help, nothing lost.

Damaged and odd pictures are in test_cli_odd_pictures.py, signals in test_cli_ends_early.py.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fieldmark
from fieldmark.errors import SourceError

Verb = Callable[..., Any]  # see conftest.py
TRAIN = ("train", "--model", "resnet10", "--size", 32, "--epochs", 1, "--device", "cpu")


@pytest.fixture
def refused(verb: Verb) -> Callable[..., str]:
    """Runs a command that must be refused in the four-part form; returns what was said."""

    def run(*words: object) -> str:
        done = verb(*words)
        assert done.code == 2, done.out
        assert "Traceback" not in done.err
        problem, *details = done.err.rstrip("\n").split("\n")
        assert problem
        assert not problem.startswith(" ")
        assert details, "a problem needs more words than itself"
        assert details[-1].startswith("  do:     ")
        assert all(line.startswith(("  given:  ", "  valid:  ", "  do:     ")) for line in details)
        assert not list(Path().rglob("model.safetensors"))
        said: str = done.err
        return said

    return run


@pytest.fixture
def photos(make_pictures: Callable[..., Path], tmp_path: Path) -> Path:
    """Nothing is wrong with these."""
    return make_pictures(tmp_path / "photos", {"cat": 5, "dog": 5})


# Folders ------------------------------------------------------------------------------------------


def test_missing_folder(refused: Any, photos: Path) -> None:
    said = refused(*TRAIN, "photo")
    assert "no such folder, file or data set" in said
    assert f"did you mean {photos}?" in said


def test_no_source_at_all(refused: Any) -> None:
    assert "no source was given" in refused(*TRAIN)


def test_empty_folder(refused: Any) -> None:
    Path("empty").mkdir()
    assert "it is empty" in refused(*TRAIN, "empty")


def test_pictures_without_class_folders(refused: Any, make_pictures: Any) -> None:
    make_pictures(Path("flat"), {".": 4})
    said = refused(*TRAIN, "flat")
    assert "no class folders, but 4 files" in said
    assert "one folder for each class" in said


def test_one_class(refused: Any, make_pictures: Any) -> None:
    make_pictures(Path("one"), {"cat": 4})
    said = refused(*TRAIN, "one")
    assert "only one class with pictures" in said
    assert "4 pictures of cat" in said
    assert str(Path("one/cat/000.png").resolve()) in said


def test_one_class_left_beside_empty_ones(refused: Any, make_pictures: Any) -> None:
    make_pictures(Path("one"), {"cat": 4, "dog": 0})
    said = refused(*TRAIN, "one")
    assert "only one class with pictures" in said
    assert "having no pictures: dog" in said


def test_one_class_left_beside_damaged_ones(refused: Any, make_pictures: Any) -> None:
    make_pictures(Path("one"), {"cat": 4})
    Path("one/dog").mkdir()
    Path("one/dog/000.png").touch()
    said = refused(*TRAIN, "one")
    assert "only one class with pictures" in said
    assert "dog/000.png (file is empty)" in said


def test_no_pictures_at_all(refused: Any) -> None:
    for name in ("a", "b"):
        (Path("texts") / name).mkdir(parents=True)
        (Path("texts") / name / "readme.txt").write_text("hello")
    said = refused(*TRAIN, "texts")
    assert "there are no pictures" in said
    assert "readme.txt (not a picture" in said


def test_too_few_pictures_for_a_split(refused: Any, make_pictures: Any) -> None:
    make_pictures(Path("few"), {"cat": 1, "dog": 2})
    said = refused(*TRAIN, "few")
    assert "too few pictures" in said
    assert "cat: 1, dog: 2" in said


@pytest.mark.slow
def test_an_empty_class_is_said_and_left_out(verb: Verb, make_pictures: Any) -> None:
    make_pictures(Path("photos"), {"cat": 4, "dog": 4, "owl": 0})
    done = verb(*TRAIN, "photos")
    assert done.code == 0, done.err
    assert "Left out, having no pictures: owl." in done.out


# Tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"path,label\ngone/a.png,cat\ngone/b.png,dog\n", "none of the pictures in this CSV"),
        (b"file,label\na.png,cat\n", "path"),
        (b"path,klass\na.png,cat\n", "label"),
        (b"path,label,split\na.png,cat,tran\n", "tran"),
        (b"", "empty"),
        (b"path,label\n", "a header and nothing below it"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe" * 9, "not a CSV in UTF-8"),
    ],
    ids=["files", "path column", "label column", "split word", "empty", "no rows", "binary"],
)
def test_csv_that_names_nothing(refused: Any, text: bytes, told: str) -> None:
    Path("table.csv").write_bytes(text)
    said = refused(*TRAIN, "table.csv")
    assert "table.csv" in said
    assert told in said


@pytest.mark.slow
def test_csv_with_some_missing_files_goes_on_without_them(verb: Verb, photos: Path) -> None:
    rows = [f"photos/{name}/00{i}.png,{name}" for name in ("cat", "dog") for i in range(6)]
    Path("table.csv").write_text("\n".join(["path,label", *rows]))
    done = verb(*TRAIN, "table.csv")
    assert done.code == 0, done.err
    assert "2 rows left out: no such file" in done.out
    listed = Path("runs/table-resnet10/left_out.csv").read_text().splitlines()
    assert [line.split("/")[-2:] for line in listed[1:]] == [
        ["cat", "005.png,no such file"],
        ["dog", "005.png,no such file"],
    ]


@pytest.mark.parametrize("label", [3, None, 2.5, b"cat"])
def test_label_that_is_no_text(photos: Path, label: object) -> None:
    rows = [(str(photos / "cat" / "000.png"), "cat"), (str(photos / "dog" / "000.png"), label)]
    with pytest.raises(SourceError) as caught:
        fieldmark.train(rows)  # type: ignore[arg-type]
    assert repr(label) in str(caught.value)


# IDX ----------------------------------------------------------------------------------------------


def write_idx(folder: Path, num_pictures: int, num_labels: int, *, cut: int = 0) -> Path:
    """An MNIST-like pair, its pictures `cut` bytes short."""
    folder.mkdir()
    pixels = struct.pack(">4B3I", 0, 0, 8, 3, num_pictures, 4, 4) + bytes(16 * num_pictures)
    labels = struct.pack(">4BI", 0, 0, 8, 1, num_labels) + bytes(i % 2 for i in range(num_labels))
    (folder / "train-images-idx3-ubyte").write_bytes(pixels[: len(pixels) - cut])
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    return folder


def test_idx_truncated(refused: Any) -> None:
    said = refused(*TRAIN, write_idx(Path("idx"), 20, 20, cut=5))
    assert "truncated" in said
    assert "train-images-idx3-ubyte: 315 of 320 values are there" in said


def test_idx_with_another_number_of_labels(refused: Any) -> None:
    said = refused(*TRAIN, write_idx(Path("idx"), 20, 19))
    assert "20 pictures in train-images-idx3-ubyte" in said
    assert "19 labels in train-labels-idx1-ubyte" in said


def test_idx_whose_gzip_is_cut(refused: Any) -> None:
    folder = write_idx(Path("idx"), 20, 20)
    whole = folder / "train-images-idx3-ubyte"
    packed = gzip.compress(whole.read_bytes())
    whole.unlink()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(packed[: len(packed) // 2])
    assert "train-images-idx3-ubyte.gz" in refused(*TRAIN, folder)


# Words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model resnet81", "did you mean 'resnet18'?"),
        ("--set training.epoch=3", "did you mean training.epochs?"),
        ("--set trainin.epochs=3", "did you mean training?"),
        ("--set label_smoothing=0.1", "did you mean training.label_smoothing?"),
        ("--set model.options.conv_biass=true", "did you mean 'conv_bias'?"),
        ("--set model.options.num_classes=3", "unknown option of resnet10"),
        ("--set training.epochs=many", "training.epochs must be a whole number"),
        ("--set epochs", "section.field=value"),
        ("--epochs 0", "1 to"),
        ("--lr nan", "optimizer.lr is out of range"),
        ("--seed -1", "seed is out of range"),
        ("--size 0", "data.size is out of range"),
        ("--optimizer adm", "did you mean adam?"),
        ("--schedule cosin", "did you mean cosine?"),
        ("--augment heavy", "auto, none, light, standard or strong"),
        ("--mode frozn", "did you mean frozen?"),
        ("--mode frozen", "add --weights"),
        ("--mode partial", "training.freeze_through"),
        ("--weights gone --mode finetune", "no such run or model file"),
        ("--device cuda:99", "cpu"),
        ("--device gpu", "cpu"),
        ("--model alexnet", "use --size 63 or more"),
        ("--recipe gone.toml", "gone.toml"),
        ("--recipe misspelt.toml", "did you mean training.epochs?"),
        ("--recipe yaml.toml", "the recipe is not TOML"),
        ("--recipe photos", "photos"),
        ("--set data.class_names=['cat']", "cat"),
        ("--set data.mean=[0.5,0.5]", "data.mean needs one number a channel"),
        ("--set data.val_fraction=0.6 --set data.test_fraction=0.6", "below 1"),
        ("--name a/b", "one folder name"),
    ],
)
def test_words_that_mean_nothing(refused: Any, photos: Path, words: str, told: str) -> None:
    Path("misspelt.toml").write_text("[training]\nepocs = 3\n")
    Path("yaml.toml").write_text("training:\n  epochs: 3\n")
    assert told in refused(*TRAIN, photos, *words.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("summary resnet81", "did you mean 'resnet18'?"),
        ("summary mobilenet", "alexnet, alexnet_half, vgg11"),
        (
            "summary resnet18 --set model.options.in_channels=1",
            "unknown option of resnet18",
        ),
        ("summary gone/run", "no such run or model file"),
        ("summary alexnet --size 32", "use --size 63 or more"),
        ("summary resnet18 --size 0", "data.size is out of range"),
        ("predict gone photos", "no such run or model file"),
        ("predict photos photos", "no such run or model file"),
        ("evaluate gone", "no such run or model file"),
        ("show gone", "no such folder, file or data set"),
        ("show photos --out /proc/gone/sheet.png", "cannot write"),
        ("show photos --set data.siz=3", "did you mean data.size?"),
    ],
)
def test_other_verbs(refused: Any, photos: Path, words: str, told: str) -> None:
    assert told in refused(*words.split())


def test_pattern_that_matches_nothing(verb: Verb, tiny_run: fieldmark.Run) -> None:
    done = verb("predict", tiny_run.path, "gone*.jpg")
    assert done.code == 2
    assert "gone*.jpg" in done.err
    assert done.out == ""


def test_pattern_that_matches_nothing_beside_a_picture(verb: Verb, tiny_run: fieldmark.Run) -> None:
    picture = next((tiny_run.path.parent / "photos").glob("*/*.png"))
    done = verb("predict", tiny_run.path, "gone*.jpg", picture, "--format", "json")
    assert done.code == 1
    bad, good = json.loads(done.out)
    assert bad == {"path": "gone*.jpg", "error": "no picture is found there"}
    assert good["path"] == str(picture)
    assert good["top"]


def test_pictures_of_a_class_the_model_does_not_know(
    verb: Verb, tiny_run: fieldmark.Run, make_pictures: Any
) -> None:
    make_pictures(Path("zoo"), {"cat": 2, "zebra": 2})
    done = verb("evaluate", tiny_run.path, "zoo", "--out", "e")
    assert done.code == 2
    assert "given:  'zebra'" in done.err
    assert not Path("e").exists()


# Model files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["cut", "empty", "not one", "folder"])
@pytest.mark.parametrize("name", ["predict", "evaluate", "summary"])
def test_damaged_model(verb: Verb, tiny_run: fieldmark.Run, name: str, harm: str) -> None:
    whole = tiny_run.path / "model.safetensors"
    damaged = Path("run") / "model.safetensors"
    damaged.parent.mkdir()
    if harm == "folder":
        damaged.mkdir()
    else:
        content = whole.read_bytes()
        damaged.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "not one": b"PK\x03\x04" * 99}[harm]
        )
    done = verb(name, "run", *(["a.jpg"] if name == "predict" else []))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "run" in done.err
    assert "do:" in done.err


# Places to write ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb_words", [TRAIN, ("evaluate",)])
def test_a_directory_with_something_in_it_stays_as_it_is(
    verb: Verb, photos: Path, tiny_run: fieldmark.Run, verb_words: tuple[object, ...]
) -> None:
    Path("mine").mkdir()
    Path("mine/precious.txt").write_text("years of work")
    source = [photos] if verb_words is TRAIN else [tiny_run.path]
    done = verb(*verb_words, *source, "--out", "mine")
    assert done.code == 2
    assert "nothing in it was touched" in done.err
    assert "given:  mine" in done.err
    assert [path.name for path in Path("mine").iterdir()] == ["precious.txt"]
    assert Path("mine/precious.txt").read_text() == "years of work"


def test_a_run_of_that_name_stays_as_it_is(refused: Any, photos: Path) -> None:
    Path("runs/best").mkdir(parents=True)
    Path("runs/best/notes.txt").write_text("years of work")
    assert "choose another --name" in refused(*TRAIN, photos, "--name", "best")
    assert [path.name for path in Path("runs/best").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("out", ["file", "file/run", "/proc/fieldmark", "n" * 300])
def test_places_that_cannot_be_written(refused: Any, photos: Path, out: str) -> None:
    """Not tested by taking permissions away: root, who runs tests in containers, has them all."""
    Path("file").write_text("in the way")
    said = refused(*TRAIN, photos, "--out", out)
    assert "cannot write" in said
    assert Path("file").read_text() == "in the way"
