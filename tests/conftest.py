"""What every test may use: real data where it is at hand, small pictures, a rule for GPU tests."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent

# Cores are few and shared: a slow example is no failure.
settings.register_profile("fieldmark", deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
