"""What every test may use: real data where it is at hand, small pictures, a rule for GPU tests."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

import fieldmark
from fieldmark import report
from fieldmark.cli import app
from fieldmark.progress import Silent

REPOSITORY = Path(__file__).resolve().parent.parent

# Cores are few and shared: a slow example is no failure. CI tries the same examples every time, so
# that it judges the change and not the day's luck; everybody else draws new ones.
settings.register_profile(
    "fieldmark",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("fieldmark")

MakePictures = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/gpu needs a CUDA device, and says so where there is none."""
    gpu_folder = REPOSITORY / "tests" / "gpu"
    for item in items:
        if gpu_folder in item.path.parents:
            item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What Fieldmark keeps between runs is kept apart from the cache of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures that live beside the repository and are never copied into it."""
    folder = (REPOSITORY / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"real pictures are not at hand: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def make_pictures() -> MakePictures:
    """`make_pictures(folder, {"cat": 3, "dog": 5}, size=32)`; see `write_pictures`."""
    return write_pictures


def write_pictures(folder: Path, counts: Mapping[str, int], *, size: int = 32) -> Path:
    """Fill `folder` with class folders of `size` x `size` px PNGs; returns `folder`.

    A class is known by its colour, its pictures differ by noise: a network learns them in a few
    steps, and no two files are equal. The same call always gives the same bytes.
    """
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(label.encode()))
        colour = rng.integers(40, 216, 3)
        for number in range(count):
            noise = rng.integers(-30, 31, (size, size, 3))
            pixels = (colour + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:03d}.png")
    return folder


@dataclass(frozen=True)
class Finished:
    """What a command left behind in the terminal, colours taken off."""

    code: int
    out: str
    err: str


Verb = Callable[..., Finished]


@pytest.fixture
def verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Verb:
    """`verb("train", folder, "--epochs", 1)` does what the shell would, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(word) for word in words], prog_name="fieldmark")
        captured = capsys.readouterr()
        out, err = (re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", x) for x in captured)
        return Finished(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="module")
def no_drawing() -> Iterator[None]:
    """Pictures take most of the time of a tiny run, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_contact_sheet", "draw_confusion", "draw_curves"):
            patch.setattr(report, name, lambda *args, **words: None)
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> fieldmark.Run:
    """A training of a second, shared: read it, and write next to it, never into it."""
    folder = tmp_path_factory.mktemp("tiny")
    pictures = write_pictures(folder / "photos", {"cat": 12, "dog": 12, "owl": 12})
    words = {"model": "resnet10", "size": 32, "epochs": 2, "device": "cpu", "batch_size": 8}
    return fieldmark.train(pictures, out=folder / "run", progress=Silent(), **words)
