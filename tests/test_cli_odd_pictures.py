"""Every odd and damaged picture in one folder, under names of every kind, through every verb."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldmark.data.manifest import read_manifest

Verb = Callable[..., Any]  # see conftest.py
TRAIN = ("train", "--model", "resnet10", "--size", 32, "--epochs", 1, "--device", "cpu")
LABELS = ("蚂蚁 ants", "蜜蜂 [bees]")
BAD = {  # a word of the reason
    "cut short.png": "truncated",
    "空.jpg": "empty",
    "text.jpg": "not a picture",
    "notes.txt": "not a picture",
}
ORIENTATION = 0x0112  # EXIF tag; 6: the camera was held on its side


def write_good(folder: Path, rng: np.random.Generator) -> None:
    """Ten pictures, one of each odd kind that can be used all the same."""
    folder.mkdir(parents=True, exist_ok=True)

    def noise(height_px: int = 24, width_px: int = 36) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8))

    noise().convert("P").save(folder / "palette.png")
    noise().convert("L").save(folder / "grey.png")
    noise().convert("RGBA").save(folder / "alpha.png")
    noise().convert("CMYK").save(folder / "cmyk.jpg")
    deep = rng.integers(0, 2**16, (24, 36), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "sixteen bits.png")
    noise().save(folder / "animated.gif", save_all=True, append_images=[noise(), noise()])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    noise().save(folder / "rotated.jpg", exif=exif)
    noise(1, 1).save(folder / "dot.png")
    noise().save(folder / "蚂蚁 在 叶子上.png")
    noise().save(folder / 'it\'s 100% [fine], "really".PNG')


def write_bad(folder: Path, rng: np.random.Generator) -> None:
    """The files of `BAD`: no whole pictures."""
    pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cut short.png").write_bytes(content[: len(content) // 2])
    (folder / "空.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    (folder / "notes.txt").write_text("hello")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of odd pictures, the bad ones and a large one among the first."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "my 照片"
    for label in LABELS:
        write_good(folder / label, rng)
    write_bad(folder / LABELS[0], rng)
    large = Image.new("RGB", (10_000, 6_000), (200, 120, 40))  # 60 megapixels
    large.save(folder / LABELS[1] / "60 MP.jpg", quality=50)
    return folder


@pytest.mark.slow
def test_odd_pictures_train_and_bad_ones_are_left_out(verb: Verb, source: Path) -> None:
    done = verb(*TRAIN, source, "--name", "odd 运行")
    assert done.code == 0, done.err
    run = Path("runs/odd 运行")

    # The bad ones: counted, named on screen, and all of them in left_out.csv.
    assert f"4 files left out (all in {run / 'left_out.csv'}):" in done.out
    assert "  and 1 more" in done.out
    reasons = {
        Path(row["path"]).name: row["reason"]
        for row in csv.DictReader((run / "left_out.csv").read_text().splitlines())
    }
    assert set(reasons) == set(BAD)
    for name, word in BAD.items():
        assert word in reasons[name]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["pictures"]["left_out"] == 4
    assert metrics["pictures"]["found"] == 2 * 10 + 1 + 4

    # The odd ones: all used, under their names.
    manifest = read_manifest(run / "manifest.csv")
    assert manifest.class_names == LABELS
    used = {(sample.label, Path(sample.path).name) for sample in manifest.samples}
    there = {(path.parent.name, path.name) for path in source.rglob("*.*")}
    assert used == {(label, name) for label, name in there if name not in reasons}
    assert len(used) == 21
    for label in LABELS:
        assert label in done.out
    for path in run.glob("*.png"):
        Image.open(path).verify()

    # The other verbs on the same folder.
    assert verb("evaluate", run, source, "--out", "again").code == 0
    shown = verb("show", source, "--out", "sheet.png")
    assert shown.code == 0, shown.err
    assert "left out" in shown.out
    answered = verb("predict", run, source, "--format", "json")
    assert answered.code == 1
    answers = json.loads(answered.out)
    assert len(answers) == 25
    failed = {Path(a["path"]).name for a in answers if "error" in a}
    assert failed == set(reasons)
    assert {a["top"][0]["class"] for a in answers if "top" in a} <= set(LABELS)


@pytest.mark.parametrize("name", BAD)
def test_strict_stops_at_the_first_bad_file(
    verb: Verb, make_pictures: Any, tmp_path: Path, name: str
) -> None:
    folder = make_pictures(tmp_path / "photos", {"cat": 4, "dog": 4})
    write_bad(folder / "cat", np.random.default_rng(0))
    for bad in BAD:
        if bad != name:
            (folder / "cat" / bad).unlink()
    done = verb(*TRAIN, folder, "--strict")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert f"given:  {folder / 'cat' / name}" in done.err
    assert "drop --strict" in done.err
    assert not list(Path().rglob("model.safetensors"))


def test_a_class_of_bad_pictures_only(verb: Verb, make_pictures: Any, tmp_path: Path) -> None:
    """Their headers are whole, so that only decoding finds them."""
    folder = make_pictures(tmp_path / "photos", {"cat": 4, "dog": 4, "owl": 4}, size=64)
    for path in (folder / "owl").iterdir():
        path.write_bytes(path.read_bytes()[:3000])
    done = verb(*TRAIN, folder)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "owl" in done.err
    assert "truncated" in done.err
    assert "do:" in done.err
