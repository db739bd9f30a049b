"""What a training is told, and which pictures it may not separate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

import fieldmark
from fieldmark.data.check import copies
from fieldmark.data.check.quick import quick_check
from fieldmark.data.sources.scan import scan
from fieldmark.progress import Silent
from support.photos import film, photo


def fill(root: Path, *, parts: tuple[str, ...] = ("",), number: int = 6) -> Path:
    """Photos of two classes, all different."""
    seed = 0
    for part in parts:
        for label in ("ants", "bees"):
            folder = root / part / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                seed += 1
                photo(seed, 100, 80).save(folder / f"{i}.png", compress_level=1)
    return root


def check(source: Path) -> tuple[tuple[str, ...], list[set[str]]]:
    manifest = scan(source)
    found = quick_check(manifest, Silent(), shares=(0.8, 0.1, 0.1))
    names = [f"{Path(s.path).parent.name}/{Path(s.path).name}" for s in manifest.samples]
    return found.warnings, [{names[i] for i in group} for group in found.together]


def test_where_nothing_is_wrong_nothing_is_said(tmp_path: Path) -> None:
    assert check(fill(tmp_path)) == ((), [])


def test_copies_in_one_class_are_tied_together(tmp_path: Path) -> None:
    fill(tmp_path)
    with Image.open(tmp_path / "ants" / "2.png") as picture:
        picture.save(tmp_path / "ants" / "copy.jpg", quality=60)
    warnings, together = check(tmp_path)
    assert together == [{"ants/2.png", "ants/copy.jpg"}]
    assert warnings[0] == (
        "note: 1 picture there more than once, copies stay in one part where parts are drawn: "
        f"{tmp_path / 'ants' / 'copy.jpg'} and {tmp_path / 'ants' / '2.png'}."
    )
    assert "fieldmark check SOURCE" in warnings[-1]
    assert len(warnings) == 2


def test_copies_in_two_classes_are_warned_of(tmp_path: Path) -> None:
    fill(tmp_path)
    shutil.copy(tmp_path / "ants" / "1.png", tmp_path / "bees" / "x.png")
    warnings, together = check(tmp_path)
    assert warnings[0].startswith("WARNING: 1 picture in two classes, one of the labels is wrong: ")
    assert together == [{"ants/1.png", "bees/x.png"}]


def test_leaks_in_parts_that_the_source_gives_are_warned_of_and_left(tmp_path: Path) -> None:
    fill(tmp_path, parts=("train", "val"))
    shutil.copy(tmp_path / "train" / "ants" / "1.png", tmp_path / "val" / "ants" / "x.png")
    shutil.copy(tmp_path / "train" / "ants" / "1.png", tmp_path / "train" / "ants" / "y.png")
    warnings, together = check(tmp_path)
    assert warnings[0].startswith(
        "WARNING: 2 pictures in two parts, the figures will be too good: "
    )
    assert together == [{"ants/1.png", "ants/y.png"}]  # those that a draw of val could separate


def test_blank_pictures_and_far_too_few_of_a_class_are_warned_of(tmp_path: Path) -> None:
    fill(tmp_path, number=20)
    for i in range(2, 20):
        (tmp_path / "bees" / f"{i}.png").unlink()
    Image.new("RGB", (90, 90), "white").save(tmp_path / "ants" / "white.png")
    warnings, _ = check(tmp_path)
    assert warnings[0] == (
        f"WARNING: 1 picture (almost) all of one colour: {tmp_path / 'ants' / 'white.png'}."
    )
    assert warnings[-1].startswith("note: 21 pictures of ants and 2 of bees: 10 to 1. Macro F1")
    assert "--class-weights balanced or --sampling balanced" in warnings[-1]


def test_three_to_one_is_uneven_and_less_is_not(tmp_path: Path) -> None:
    fill(tmp_path, number=18)
    for i in range(6, 18):
        (tmp_path / "bees" / f"{i}.png").unlink()
    (note,), _ = check(tmp_path)
    assert note.startswith("note: 18 pictures of ants and 6 of bees: 3 to 1. ")
    (tmp_path / "ants" / "0.png").unlink()
    assert check(tmp_path)[0] == ()


def test_what_cannot_be_read_is_left_to_the_decoding(tmp_path: Path) -> None:
    fill(tmp_path)
    photo(99, 900, 700).save(tmp_path / "x.jpg")
    (tmp_path / "ants" / "half.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:9000])
    (tmp_path / "x.jpg").unlink()
    assert check(tmp_path) == ((), [])


WORDS = {"model": "resnet10", "size": 32, "epochs": 1, "device": "cpu", "batch_size": 8}


def test_without_findings_a_training_is_what_it_was(tmp_path: Path, no_drawing: None) -> None:
    source = fill(tmp_path / "photos", number=8)
    runs = [
        fieldmark.train(
            source,
            out=tmp_path / str(on),
            progress=Silent(),
            settings={"data.quick_check": on},
            **WORDS,
        )
        for on in (True, False)
    ]
    manifests = [(run.path / "manifest.csv").read_bytes() for run in runs]
    assert manifests[0] == manifests[1]
    assert runs[0].history[0].train_loss == runs[1].history[0].train_loss
    assert runs[0].test == runs[1].test


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_training_keeps_copies_in_one_part(tmp_path: Path, no_drawing: None, seed: int) -> None:
    source = fill(tmp_path / "photos", number=8)
    for i in range(8):
        with Image.open(source / "ants" / f"{i}.png") as picture:
            picture.resize((130, 100)).save(source / "ants" / f"copy{i}.png")
    run = fieldmark.train(
        source,
        out=tmp_path / "run",
        progress=Silent(),
        seed=seed,
        epochs=1,
        **({word: value for word, value in WORDS.items() if word != "epochs"}),
    )
    part_of = {
        Path(s.path).name: s.part
        for s in scan(run.path / "manifest.csv").samples
        if s.label == "ants"
    }
    assert len(set(part_of.values())) > 1
    for i in range(8):
        assert part_of[f"{i}.png"] == part_of[f"copy{i}.png"]


def test_a_class_that_is_one_film_can_still_be_trained(tmp_path: Path, no_drawing: None) -> None:
    for number, label in enumerate(("ants", "bees")):
        folder = tmp_path / "film" / label
        folder.mkdir(parents=True)
        for i, frame in enumerate(film(50 + number, 40)):
            frame.save(folder / f"{i:02d}.jpg", quality=90)
    warnings, together = check(tmp_path / "film")
    (chain,) = (line for line in warnings if "chain" in line)
    assert chain.startswith("WARNING: 40 pictures are a chain")
    assert "They and 1 other chain are cut into pieces, and up to " in chain
    assert "data.group_by" in chain
    assert 0 < max(map(len, together)) <= 4  # a tenth: what val and test should have
    run = fieldmark.train(tmp_path / "film", out=tmp_path / "run", progress=Silent(), **WORDS)
    assert run.test is not None


def test_a_film_that_fits_into_a_part_is_no_longer_cut(tmp_path: Path) -> None:
    fill(tmp_path, number=12)
    for i, frame in enumerate(film(50, 30)):
        frame.save(tmp_path / "ants" / f"frame{i:02d}.png", compress_level=1)
    warnings, together = check(tmp_path)
    assert together == [{f"ants/frame{i:02d}.png" for i in range(30)}]
    assert not any("chain" in line for line in warnings)


def test_a_set_too_large_to_compare_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "MAX_COMPARED", 11)
    warnings, together = check(fill(tmp_path))
    assert warnings[0].startswith("WARNING: 12 pictures are more than the 11 that can be compared")
    assert together == []
