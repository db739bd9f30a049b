"""Run directories: claimed without harm, and found again by what people type."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldmark.errors import CheckpointError, OutputError
from fieldmark.rundir import RunDirectory, check_place, find_model, new_run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")
    return path


# A new one ---------------------------------------------------------------------------------------


def test_out_wins_over_name_and_name_over_the_default() -> None:
    assert new_run("some/where", "mine", "default").path == Path("some/where")
    assert new_run(None, "mine", "default").path == Path("runs/mine")
    assert new_run(None, None, "default").path == Path("runs/default")
    assert Path("runs/mine").is_dir()
    assert Path("some/where").is_dir()


def test_a_place_that_cannot_be_written_is_refused_without_a_trace() -> None:
    check_place("some/where/new", None)
    check_place(None, "mine")
    check_place(None, None)
    assert not Path("some").exists()
    assert not Path("runs").exists()
    touch("runs")
    for out, name in ((None, None), (None, "mine"), ("runs/x", None), ("runs", None)):
        with pytest.raises(OutputError, match=r"cannot write(.|\n)*runs"):
            check_place(out, name)
    with pytest.raises(OutputError, match="one folder name"):
        check_place(None, "a/b")


def test_default_names_count_up_and_touch_nothing() -> None:
    for expected in ("photos-vgg11", "photos-vgg11-2", "photos-vgg11-3"):
        run = new_run(None, None, "photos-vgg11")
        assert run.path == Path("runs") / expected
        touch(run.model)
    assert Path("runs/photos-vgg11/model.safetensors").read_text() == "content"


@pytest.mark.parametrize("name", ["a/b", "/tmp/a", "../a", "..", ".", "", "a\\b", "a/"])
def test_a_name_is_one_folder_name(name: str) -> None:
    with pytest.raises(OutputError, match="a run's name is one folder name") as caught:
        new_run(None, name, "default")
    assert repr(name) in str(caught.value)
    assert "--out" in str(caught.value)
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["ants and bees", "蚂蚁", "v1.2", "-x"])
def test_names_with_spaces_and_in_any_script(name: str) -> None:
    assert new_run(None, name, "default").path == Path("runs") / name


@pytest.mark.parametrize("by", ["out", "name"])
def test_an_existing_run_is_left_untouched(by: str) -> None:
    kept = touch("runs/mine/history.csv")
    out, name = ("runs/mine", None) if by == "out" else (None, "mine")
    with pytest.raises(OutputError, match="exists and is not empty; nothing in it was touched"):
        new_run(out, name, "default")
    assert kept.read_text() == "content"
    assert list(Path("runs/mine").iterdir()) == [kept]


def test_an_empty_directory_may_be_used() -> None:
    Path("here").mkdir()
    assert new_run("here", None, "default").path == Path("here")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way_is_said(out: str) -> None:
    touch("file")
    with pytest.raises(OutputError, match="cannot write") as caught:
        new_run(out, None, "default")
    assert "--out" in str(caught.value)
    assert Path("file").read_text() == "content"


def test_no_two_things_of_a_run_share_a_file() -> None:
    run = RunDirectory(Path("r"))
    names = [name for name, value in vars(RunDirectory).items() if isinstance(value, property)]
    paths = [getattr(run, name) for name in names]
    assert len(set(paths)) == len(paths) > 10
    assert all(path.parent == run.path for path in paths)
    assert run.evaluation("test").metrics == Path("r/evaluations/test/metrics.json")


# Found again -------------------------------------------------------------------------------------


def test_a_model_is_found_by_directory_name_or_file() -> None:
    model = touch("runs/mine/model.safetensors")
    for given in ("runs/mine", "runs/mine/", Path("runs/mine"), "mine", model, model.absolute()):
        assert find_model(given).samefile(model)
    moved = touch("elsewhere/renamed.safetensors")
    assert find_model(moved) == moved


def test_a_path_comes_before_the_name_of_a_run() -> None:
    touch("runs/mine/model.safetensors")
    here = touch("mine/model.safetensors")
    assert find_model("mine") == here


def test_a_folder_of_pictures_does_not_hide_the_run_of_its_name() -> None:
    touch("photos/robin/1.jpg")
    model = touch("runs/birds/model.safetensors")
    assert find_model("birds") == model


@pytest.mark.parametrize("given", ["mine", "runs/mine"])
def test_a_run_that_never_finished_an_epoch_is_told_as_such(given: str) -> None:
    touch("runs/mine/recipe.toml")
    with pytest.raises(CheckpointError, match="no epoch was finished") as caught:
        find_model(given)
    assert str(Path("runs/mine")) in str(caught.value)


@pytest.mark.parametrize("given", ["nothing", "photos", "runs/nothing", ""])
def test_what_is_no_run_gets_the_runs_there_are(given: str) -> None:
    touch("photos/robin/1.jpg")
    for name in ("first", "second"):
        touch(f"runs/{name}/model.safetensors")
    touch("runs/unfinished/recipe.toml")
    with pytest.raises(CheckpointError, match="no such run or model file") as caught:
        find_model(given)
    assert f"{Path('runs/first')}, {Path('runs/second')}\n" in str(caught.value)
    assert "fieldmark train" in str(caught.value)


def test_where_nothing_was_made_yet_it_is_said_what_would_do() -> None:
    with pytest.raises(CheckpointError, match=r"a run directory, or a model\.safetensors"):
        find_model("nothing")


def test_a_name_longer_than_the_file_system_has_is_an_error_for_people() -> None:
    with pytest.raises(CheckpointError, match="cannot look there for a model"):
        find_model("x" * 5000)


def test_the_run_that_was_meant_is_offered() -> None:
    touch(RunDirectory(Path("runs/raw-resnet18")).model)
    touch(RunDirectory(Path("runs/raw-vgg11")).model)
    for typed in ("raw-resnet1", "runs/rwa-resnet18"):
        with pytest.raises(CheckpointError) as caught:
            find_model(typed)
        assert str(caught.value).endswith("do:     did you mean runs/raw-resnet18?")
    with pytest.raises(CheckpointError, match="do:     check the path"):
        find_model("something else")
