"""New pictures: each gets its row, in order, whatever is wrong with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fieldmark.predict as predict_module
from fieldmark.checkpoint import ModelInfo, save_model
from fieldmark.data.pictures import open_picture
from fieldmark.data.pixels.form import Form
from fieldmark.errors import CheckpointError, PictureError, SourceError
from fieldmark.models.registry import create_model
from fieldmark.predict import Predictor, find_pictures, load
from fieldmark.types import Preprocess
from support.stores import load_exact

NAMES = ("ant", "蜜蜂", "wasp")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that holds nothing but a model."""
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=3)
    folder = tmp_path_factory.mktemp("runs") / "bees"
    preprocess = Preprocess(32, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    save_model(
        folder / "model.safetensors",
        model,
        ModelInfo(model.architecture, NAMES, preprocess),  # type: ignore[arg-type]
    )
    return folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return load(run, "cpu")


@pytest.fixture
def pictures(tmp_path: Path, make_pictures: Any) -> list[str]:
    folder = make_pictures(tmp_path / "new", {"a": 5, "b": 4}, size=40)
    return sorted(map(str, folder.glob("*/*.png")))


# Classifying --------------------------------------------------------------------------------------


def test_probabilities_are_the_softmax_of_what_the_network_says(
    predictor: Predictor, pictures: list[str]
) -> None:
    for path in pictures:
        preprocess = predictor.info.preprocess
        pixels = load_exact(path, preprocess) / 255
        image = (pixels - np.array(preprocess.mean)) / np.array(preprocess.std)
        with torch.inference_mode():
            logits_bk = predictor.model(torch.from_numpy(image).float().permute(2, 0, 1)[None])
        expected = logits_bk[0].double().softmax(0)
        prediction = predictor.predict(path)
        assert prediction.path == path
        assert prediction.class_names == NAMES == predictor.class_names
        assert prediction.probabilities == pytest.approx(expected.tolist(), abs=1e-5)
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-12)
        assert prediction.label == NAMES[int(expected.argmax())]


def test_many_are_answered_as_each_alone_in_order(
    predictor: Predictor, pictures: list[str]
) -> None:
    shuffled = [*pictures[::2], *pictures[1::2]]
    together = predictor.predict(shuffled)
    assert [prediction.path for prediction in together] == shuffled
    for prediction in together:
        alone = predictor.predict(Path(prediction.path))
        assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_a_bad_file_gets_its_own_row_and_stops_nobody(
    predictor: Predictor, pictures: list[str], tmp_path: Path
) -> None:
    empty, text, missing = tmp_path / "empty.png", tmp_path / "notes.txt", tmp_path / "none.png"
    empty.touch()
    text.write_text("no picture at all")
    given = [pictures[0], str(empty), pictures[1], str(text), str(missing), pictures[2], tmp_path]
    rows = predictor.predict(list(map(str, given)))
    assert [row.path for row in rows] == list(map(str, given))
    assert [row.error is None for row in rows] == [True, False, True, False, False, True, False]
    assert rows[1].error == "file is empty"
    assert rows[3].error is not None
    assert "not a picture" in rows[3].error
    assert rows[4].error == "no such file"
    assert (rows[4].label, rows[4].probabilities) == (None, ())


def test_nothing_but_bad_files_is_no_failure(predictor: Predictor, tmp_path: Path) -> None:
    rows = predictor.predict([str(tmp_path / "x.png"), str(tmp_path / "y.png")])
    assert [row.error for row in rows] == ["no such file"] * 2
    assert predictor.predict([]) == []


def test_the_same_picture_twice_gets_two_rows(predictor: Predictor, pictures: list[str]) -> None:
    first, again, bad, bad_again = predictor.predict([pictures[0], pictures[0], "no", "no"])
    assert first == again
    assert first.error is None
    assert bad == bad_again
    assert bad.error == "no such file"


def test_one_bad_picture_alone_is_an_error_that_names_it(
    predictor: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(PictureError) as caught:
        predictor.predict(tmp_path / "gone.png")
    assert "cannot classify this picture: no such file" in str(caught.value)
    assert str(tmp_path / "gone.png") in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (Image.new("RGB", (8, 8)), "PIL.Image.Image"),
        ([Image.new("L", (8, 8))], "PIL.Image.Image"),
        (np.zeros((8, 8, 3), np.uint8), "numpy.ndarray"),
        (torch.zeros(3, 8, 8), "torch.Tensor"),
        (["a.png", None], "builtins.NoneType"),
        (17, "builtins.int"),
    ],
)
def test_what_is_no_path_is_refused_with_its_kind(
    predictor: Predictor, given: Any, kind: str
) -> None:
    with pytest.raises(SourceError) as caught:
        predictor.predict(given)
    assert "this is no path" in str(caught.value)
    assert kind in str(caught.value)
    assert "save the picture to a file" in str(caught.value)


def test_memory_is_bounded_by_the_chunk(
    predictor: Predictor, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more pictures are decoded than the chunk that is asked for."""
    decoded: list[str] = []

    real = Form.decode

    def decode_and_count(form: Form, path: str) -> Any:
        decoded.append(path)
        return real(form, path)

    monkeypatch.setattr(predict_module, "CHUNK", 4)
    monkeypatch.setattr(Form, "decode", decode_and_count)
    rows = predictor.predict_each(pictures)
    assert decoded == []
    seen = [next(rows)]
    assert len(decoded) == 4
    seen += [next(rows) for _ in range(3)]
    assert len(decoded) == 4
    seen.append(next(rows))
    assert len(decoded) == 8
    seen += rows
    assert [row.path for row in seen] == pictures
    assert len(decoded) == len(pictures) == 9


def test_a_picture_of_a_named_data_set_is_a_picture(predictor: Predictor, tmp_path: Path) -> None:
    as_file = tmp_path / "seventeen.png"
    open_picture("digits#17", 1).save(as_file)
    inside, outside = predictor.predict(["digits#17", str(as_file)])
    assert inside.error is None
    assert inside.probabilities == outside.probabilities
    assert predictor.predict(["digits#99999"])[0].error is not None


# Loading ------------------------------------------------------------------------------------------


def test_a_model_is_found_by_folder_file_or_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[str]
) -> None:
    (run.parent / "runs").mkdir()
    (run.parent / "runs" / "by-name").symlink_to(run)
    monkeypatch.chdir(run.parent)
    answers = {
        load(word, "cpu").predict(pictures[0]).probabilities
        for word in (run, run / "model.safetensors", "by-name")
    }
    assert len(answers) == 1
    with pytest.raises(CheckpointError, match=r"(?s)no such run or model.*valid:  runs/by-name"):
        load("by-nome")


def test_predictions_are_in_evaluation_mode(predictor: Predictor) -> None:
    assert not any(module.training for module in predictor.model.modules())


# Finding ------------------------------------------------------------------------------------------


def test_folders_files_and_patterns_become_files_each_once(
    tmp_path: Path, make_pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path / "new", {"a": 2, "b": 1})
    (tmp_path / "new" / ".hidden.png").touch()
    (tmp_path / "new" / "读我 first.txt").touch()
    monkeypatch.chdir(tmp_path)
    below = ["new/a/000.png", "new/a/001.png", "new/b/000.png", "new/读我 first.txt"]
    assert find_pictures(["new"]) == below
    assert find_pictures(["new/*/000.png"]) == ["new/a/000.png", "new/b/000.png"]
    assert find_pictures(["new/**/*.png"]) == below[:3]
    assert find_pictures(["new/b/000.png", "new/b", "new/*/0*.png"]) == [below[2], *below[:2]]
    # A pattern that meets folders means what is in them, as when the shell resolves it.
    assert find_pictures(["new/*"]) == below


def test_a_file_with_brackets_in_its_name_is_that_file(tmp_path: Path) -> None:
    odd = tmp_path / "bee [1].png"
    Image.new("RGB", (8, 8)).save(odd)
    (tmp_path / "bee 1.png").touch()
    assert find_pictures([str(odd)]) == [str(odd)]


def test_a_missing_file_stays_in_the_list_for_its_error_row(tmp_path: Path) -> None:
    words = [str(tmp_path / "gone.jpg"), "digits#3", "x" * 5000 + ".jpg", "a\0b.png"]
    assert find_pictures(words) == words


@pytest.mark.parametrize("words", [["empty"], ["*.webp"], ["empty", "*.webp", "empty"]])
def test_words_that_all_mean_nothing_are_an_error(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        find_pictures(words)
    assert "no picture is found there" in str(caught.value)
    assert ", ".join(map(repr, words)) in str(caught.value)


def test_one_word_that_means_nothing_stops_no_other(
    predictor: Predictor, tmp_path: Path, make_pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, {"new": 1})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    found = find_pictures(["empty", "new", "*.webp", "gone.png"])
    rows = list(predictor.predict_each(found))
    assert [(row.path, row.error) for row in rows] == [
        ("empty", "no picture is found there"),
        ("new/000.png", None),
        ("*.webp", "no picture is found there"),
        ("gone.png", "no such file"),
    ]
    assert rows[1].label in NAMES


@pytest.mark.parametrize("word", ["new", "new/*", "new/caf\udce9.png"])
def test_a_name_that_cannot_be_printed_has_its_row(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    (tmp_path / "new").mkdir()
    try:
        Image.new("RGB", (8, 8)).save(tmp_path / "new" / "caf\udce9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    monkeypatch.chdir(tmp_path)
    (row,) = predictor.predict_each(find_pictures([word]))
    assert row.path == r"new/caf\xe9.png"
    assert row.error == "its name is not UTF-8: rename it"


def test_names_no_system_admits_get_their_error_row(predictor: Predictor) -> None:
    rows = predictor.predict(["x" * 5000 + ".jpg", "a\0b.png"])
    assert all(row.error for row in rows)
