"""Trainings on other sources, in other modes, and trainings that go wrong on the way."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fieldmark as fm
from fieldmark.api import Run
from fieldmark.data.manifest import read_manifest
from fieldmark.errors import CheckpointError, OutputError, RecipeError, SourceError, TrainingError
from fieldmark.models.resnet import ResNet
from fieldmark.progress import Silent


class Listener(Silent):
    """Hears everything; with `interrupt_at` it is the user who presses Ctrl-C at that task."""

    def __init__(self, interrupt_at: str = "nothing") -> None:
        self.lines: list[str] = []
        self.interrupt_at = interrupt_at

    def say(self, text: str) -> None:
        self.lines.append(text)

    def task(self, title: str, total: int | None, **words: Any) -> Any:
        if title.startswith(self.interrupt_at):
            raise KeyboardInterrupt
        return super().task(title, total, **words)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


pytestmark = pytest.mark.usefixtures("no_drawing")


def train(source: Any, out: Path, **words: Any) -> Run:
    quick = {"model": "resnet10", "size": 32, "epochs": 1, "batch_size": 8, "device": "cpu"}
    return fm.train(source, out=out, **{"progress": Silent(), **quick, **words})


@pytest.fixture
def photos(tmp_path: Path, make_pictures: Any) -> Path:
    folder: Path = make_pictures(tmp_path / "photos", {"ant": 10, "bee": 10}, size=32)
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, make_pictures: Any) -> Path:
    """A model of three classes, to start from."""
    folder = tmp_path_factory.mktemp("earlier")
    source = make_pictures(folder / "photos", {"cat": 8, "dog": 8, "eel": 8}, size=32)
    train(source, folder / "run")
    return folder / "run"


# Sources ------------------------------------------------------------------------------------------


def test_val_is_kept_for_the_test_unless_it_is_asked_to_choose(
    tmp_path: Path, make_pictures: Any
) -> None:
    make_pictures(tmp_path / "both" / "train", {"ant": 10, "bee": 10})
    make_pictures(tmp_path / "both" / "val", {"ant": 3, "bee": 2})
    kept = train(tmp_path / "both", tmp_path / "kept")
    assert kept.test is not None
    assert kept.test.accuracy.n == 5

    listener = Listener()
    chosen = train(tmp_path / "both", tmp_path / "chosen", val_is_val=True, progress=listener)
    assert chosen.test is None
    assert chosen.val.accuracy.n == 5
    assert "optimistic" in listener.text
    metrics = json.loads((chosen.path / "metrics.json").read_text())
    assert metrics["test"] is None
    assert metrics["val"]["accuracy"]["n"] == 5
    assert (chosen.path / "predictions.csv").read_text().count("\n") == 1 + 5
    with pytest.raises(CheckpointError, match="kept no test pictures"):
        fm.evaluate(chosen.path, progress=Silent())


def test_a_source_may_be_a_list_of_pairs(photos: Path, tmp_path: Path) -> None:
    pairs = [(path, path.parent.name) for path in photos.glob("*/*.png")]
    run = train(iter(pairs), tmp_path / "run")
    manifest = read_manifest(run.path / "manifest.csv")
    assert {(Path(s.path), s.label) for s in manifest.samples} == set(pairs)
    assert run.recipe.source == "pictures"


def test_train_limit_draws_from_the_training_part_alone(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", settings={"data.train_limit": 6})
    parts = Counter(sample.part for sample in read_manifest(run.path / "manifest.csv").samples)
    assert parts == {"train": 6, "val": 2, "test": 2}
    pictures = json.loads((run.path / "metrics.json").read_text())["pictures"]
    assert pictures["not_needed"] == pictures["found"] - 10 > 0


def test_classes_can_be_renamed_in_any_script(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", settings={"data.class_names": ["蚂蚁", "蜜蜂"]})
    indices = json.loads((run.path / "class_indices.json").read_text(encoding="utf-8"))
    assert indices == {"0": "蚂蚁", "1": "蜜蜂"}
    assert "蚂蚁" in (run.path / "class_indices.json").read_text(encoding="utf-8")
    assert run.load("cpu").predict(photos / "ant" / "000.png").class_names == ("蚂蚁", "蜜蜂")
    for sample in read_manifest(run.path / "manifest.csv").samples:
        assert sample.label == {"ant": "蚂蚁", "bee": "蜜蜂"}[Path(sample.path).parent.name]
    assert fm.evaluate(run.path, device="cpu", progress=Silent()).metrics.accuracy.n == 2
    # The same folders, under their old names, are still the right pictures to evaluate on.
    assert fm.evaluate(run.path, photos, progress=Silent()).metrics.accuracy.n > 0


def test_broken_pictures_are_left_out_counted_and_named(photos: Path, tmp_path: Path) -> None:
    whole = (photos / "ant" / "000.png").read_bytes()
    (photos / "ant" / "no bytes.png").touch()  # seen when the source is scanned
    (photos / "bee" / "半.png").write_bytes(whole[: len(whole) // 2])  # seen when it is decoded
    listener = Listener()
    run = train(photos, tmp_path / "run", progress=listener)
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["pictures"]["left_out"] == 2
    assert metrics["pictures"]["found"] == 22
    assert sum(metrics["pictures"][part] for part in ("train", "val", "test")) == 20
    left_out = (run.path / "left_out.csv").read_text(encoding="utf-8")
    for name in ("no bytes.png", "半.png"):
        assert name in left_out
        assert name in listener.text
        assert name not in (run.path / "manifest.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("cut", [0, 0.5])
def test_strict_stops_at_a_broken_picture_and_leaves_the_way_free(
    photos: Path, tmp_path: Path, cut: float
) -> None:
    broken = photos / "bee" / "000.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(SourceError) as caught:
        train(photos, tmp_path / "run", strict=True)
    assert str(broken) in str(caught.value)
    assert "--strict" in str(caught.value)
    broken.write_bytes(whole)  # mended: the same words must work now
    assert train(photos, tmp_path / "run", strict=True).test is not None


@pytest.mark.parametrize("gone", ["train", "all but the run"])
def test_a_run_is_evaluated_where_its_training_pictures_are_not(
    photos: Path, tmp_path: Path, make_pictures: Any, gone: str
) -> None:
    """A run trained on one machine and copied to another has its manifest, not its pictures."""
    run = train(photos, tmp_path / "run")
    for sample in read_manifest(run.path / "manifest.csv").samples:
        if gone != "train" or sample.part != "test":
            Path(sample.path).unlink()
    if gone == "train":
        evaluation = fm.evaluate(run.path, device="cpu", progress=Silent())
        assert run.test is not None
        assert evaluation.metrics.accuracy == run.test.accuracy
        assert evaluation.left_out == 0
    else:
        with pytest.raises(
            SourceError, match=r"(?s)no picture in the test part is where it was.*no such file"
        ):
            fm.evaluate(run.path, device="cpu", progress=Silent())
    fresh = make_pictures(tmp_path / "fresh", {"ant": 3, "bee": 1})
    assert fm.evaluate(run.path, fresh, device="cpu", progress=Silent()).metrics.accuracy.n == 4


@pytest.mark.parametrize("text", ["", "path,label\na.png,ant\n", "path,label,split\na.png\n", "\0"])
def test_a_runs_manifest_that_was_tampered_with_is_named(
    earlier: Path, photos: Path, tmp_path: Path, text: str
) -> None:
    shutil.copytree(earlier, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.csv").write_text(text)
    for source in (None, photos):
        with pytest.raises(CheckpointError, match="manifest cannot be read") as caught:
            fm.evaluate(tmp_path / "copy", source, device="cpu", progress=Silent())
        assert "manifest.csv" in str(caught.value)


# Weights and modes --------------------------------------------------------------------------------


def test_an_earlier_run_is_finetuned_with_a_classifier_of_its_own(
    earlier: Path, photos: Path, tmp_path: Path
) -> None:
    listener = Listener()
    run = train(
        photos, tmp_path / "run", weights=str(earlier), mode="finetune", lr=0.0, progress=listener
    )
    assert "a new classifier, for 2 classes instead of 3" in listener.text
    old, new = load_file(earlier / "model.safetensors"), load_file(run.path / "model.safetensors")
    weights = [key for key in old if not key.startswith("fc.") and "bn" not in key]
    assert all(old[key].equal(new[key]) for key in weights if "downsample.1" not in key)
    assert new["fc.weight"].shape == (2, 512)
    # Weights are used on pictures made as those they were trained on.
    assert run.load("cpu").info.preprocess == fm.load(earlier, "cpu").info.preprocess


def test_frozen_changes_the_head_and_not_a_bit_of_the_rest(
    earlier: Path, photos: Path, tmp_path: Path
) -> None:
    run = train(photos, tmp_path / "run", weights=str(earlier), mode="frozen")
    old, new = load_file(earlier / "model.safetensors"), load_file(run.path / "model.safetensors")
    assert all(old[key].equal(new[key]) for key in old if not key.startswith("fc."))


@pytest.mark.parametrize("mode", ["finetune", "frozen"])
def test_a_mode_that_needs_weights_is_refused_without(
    photos: Path, tmp_path: Path, mode: str
) -> None:
    with pytest.raises(RecipeError, match=f"mode {mode} starts from trained weights"):
        train(photos, tmp_path / "run", mode=mode)
    assert not (tmp_path / "run").exists()


def test_an_uneven_source_is_shown_evenly_where_that_is_asked_for(
    tmp_path: Path, make_pictures: Any
) -> None:
    source = make_pictures(tmp_path / "uneven", {"ant": 45, "bee": 6})
    seen: Counter[int] = Counter()

    def watch(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        if isinstance(module, nn.CrossEntropyLoss):
            seen.update(args[1].tolist())

    handle = nn.modules.module.register_module_forward_hook(watch)
    try:
        train(source, tmp_path / "run", epochs=3, settings={"training.sampling": "balanced"})
    finally:
        handle.remove()
    assert seen.total() >= 100
    assert 0.35 < seen[1] / seen.total() < 0.65  # shuffled, it would be about 0.1


def test_the_best_epoch_is_saved_and_judged_not_the_last(photos: Path, tmp_path: Path) -> None:
    """From the second epoch on, every answer is forced to be the first class."""
    networks: list[ResNet] = []

    class Saboteur(Listener):
        def task(self, title: str, total: int | None, **words: Any) -> Any:
            if title == "validation" and any(" 1/3 " in line for line in self.lines):
                with torch.no_grad():
                    networks[0].fc.bias[0] = 1e4
            return super().task(title, total, **words)

    def catch(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        if isinstance(module, ResNet):
            networks.append(module)

    handle = nn.modules.module.register_module_forward_hook(catch)
    try:
        run = train(photos, tmp_path / "run", epochs=3, progress=Saboteur())
    finally:
        handle.remove()
    assert [row.val_loss > 1000 for row in run.history] == [False, True, True]
    assert run.best == run.history[0]
    assert run.val.accuracy.value == run.best.val_accuracy
    assert run.val.loss == pytest.approx(run.best.val_loss, rel=1e-5)
    assert run.test is not None
    assert run.test.loss < 1000
    kept = fm.load(run.path, "cpu")
    assert kept.info.history["epoch"] == 1
    assert kept.model.state_dict()["fc.bias"].abs().max() < 1


# What goes wrong ----------------------------------------------------------------------------------


def test_an_interrupted_training_keeps_its_best_model_and_its_history(
    photos: Path, tmp_path: Path
) -> None:
    listener = Listener(interrupt_at="epoch 3/")
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "run", epochs=5, progress=listener)
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 2
    assert "the best model so far is kept in" in listener.text
    kept = fm.load(tmp_path / "run", "cpu")
    assert kept.info.history["epoch"] in (1, 2)
    assert kept.predict(photos / "ant" / "000.png").label in ("ant", "bee")
    assert fm.evaluate(tmp_path / "run", device="cpu", progress=Silent()).metrics.accuracy.n == 2


def test_a_loss_of_nan_stops_and_the_last_good_model_can_be_used(
    photos: Path, tmp_path: Path
) -> None:
    steps: list[int] = []

    def ruin(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor | None:
        if not isinstance(module, ResNet) or not module.training:
            return None
        steps.append(1)
        return out * math.nan if len(steps) == 5 else None  # 2 steps an epoch: in the third

    handle = nn.modules.module.register_module_forward_hook(ruin)
    try:
        with pytest.raises(TrainingError, match=r"nan at step 5; the model of epoch \d is kept"):
            train(photos, tmp_path / "run", epochs=5)
    finally:
        handle.remove()
    kept = fm.load(tmp_path / "run", "cpu")
    assert all(value.isfinite().all() for value in kept.model.state_dict().values())
    assert kept.info.history["epoch"] in (1, 2)


FULL = {
    "on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 102760448 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "on Apple's GPU": RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
    "in Python": MemoryError("Unable to allocate 931. GiB for an array"),
}
OF_THIS_SIZE = r"(?s)not enough memory.*batch_size 8, pictures of 32 x 32 px.*lower --batch-size"


@pytest.fixture
def fill_memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`fill_memory(error, after=3)`: the fourth forward pass from now on raises `error`."""

    def fill(error: Exception, after: int = 0) -> None:
        forward, passes = ResNet.forward, []

        def full(network: ResNet, images_bchw: torch.Tensor) -> torch.Tensor:
            passes.append(1)
            if len(passes) > after:
                raise error
            return forward(network, images_bchw)

        monkeypatch.setattr(ResNet, "forward", full)

    return fill


@pytest.mark.parametrize("device", FULL)
def test_full_memory_in_the_first_epoch_is_said_with_the_way_out(
    photos: Path, tmp_path: Path, fill_memory: Any, device: str
) -> None:
    fill_memory(FULL[device])
    listener = Listener()
    with pytest.raises(TrainingError, match=OF_THIS_SIZE):
        train(photos, tmp_path / "run", progress=listener)
    assert listener.lines[-1] == f"no epoch was finished: {tmp_path / 'run'} holds no model"
    with pytest.raises(CheckpointError, match="holds no model: no epoch was finished"):
        fm.load(tmp_path / "run", "cpu")


def test_full_memory_later_leaves_what_was_kept(
    photos: Path, tmp_path: Path, fill_memory: Any
) -> None:
    fill_memory(FULL["on a GPU"], after=4)  # 2 steps and a validation an epoch
    listener = Listener()
    with pytest.raises(TrainingError, match=OF_THIS_SIZE):
        train(photos, tmp_path / "run", epochs=3, progress=listener)
    assert "the best model so far is kept in" in listener.lines[-1]
    assert fm.load(tmp_path / "run", "cpu").info.history["epoch"] == 1


def test_full_memory_is_said_in_evaluation_and_prediction(
    earlier: Path, tmp_path: Path, fill_memory: Any
) -> None:
    picture = next(earlier.parent.glob("photos/*/*.png"))
    fill_memory(FULL["on a CPU"])
    with pytest.raises(TrainingError, match=OF_THIS_SIZE):
        fm.evaluate(earlier, out=tmp_path / "e", batch_size=8, device="cpu", progress=Silent())
    with pytest.raises(TrainingError, match="not enough memory"):
        fm.load(earlier, "cpu").predict(picture)


def test_other_errors_of_torch_are_not_taken_for_full_memory(
    photos: Path, tmp_path: Path, fill_memory: Any
) -> None:
    fill_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(photos, tmp_path / "run")


def test_finished_work_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(OutputError, match="exists and is not empty; nothing in it was touched"):
        train(photos, tmp_path / "run")
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_runs_without_a_name_get_one_each(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"model": "resnet10", "size": 32, "epochs": 1, "device": "cpu", "progress": Silent()}
    runs = [fm.train(photos, **words) for _ in range(2)]  # type: ignore[arg-type]
    assert [run.path.as_posix() for run in runs] == [
        "runs/photos-resnet10",
        "runs/photos-resnet10-2",
    ]
    assert fm.load("photos-resnet10-2", "cpu").class_names == ("ant", "bee")


def test_an_unknown_word_is_answered_with_the_nearest(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'epochs'\?"):
        fm.train(photos, out=tmp_path / "run", epoch=3)
    assert not (tmp_path / "run").exists()
