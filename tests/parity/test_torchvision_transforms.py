"""Pixels against torchvision: the evaluation crop on PIL pictures, and every augmentation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tvf

from fieldmark.data.augment.colour import jitter_color
from fieldmark.data.augment.crop import draw_crops, random_resized_crop
from fieldmark.data.augment.geometry import rotate
from fieldmark.data.preprocess import fit_to_input
from fieldmark.types import Preprocess
from support.references import is_resized_whole, noise, torchvision_pixels
from support.stores import load_exact


def preprocess(size: int, crop_fraction: float, interpolation: Any = "bilinear") -> Preprocess:
    return Preprocess(size, 3, (0.0,) * 3, (1.0,) * 3, "crop", crop_fraction, interpolation)


sizes = st.integers(1, 90) | st.integers(1, 700)
preprocesses = st.builds(
    preprocess,
    st.sampled_from((1, 8, 31, 64, 224)),
    st.sampled_from((1.0, 0.875, 0.9, 0.5)),
    st.sampled_from(("bilinear", "bicubic")),
)


@settings(max_examples=150)
@given(sizes, sizes, preprocesses)
def test_the_evaluation_crop_is_torchvisions_to_the_pixel(
    width: int, height: int, p: Preprocess
) -> None:
    picture = noise(width, height)
    ours = np.asarray(fit_to_input(picture, p))
    assert ours.shape == (p.size, p.size, 3)
    if is_resized_whole(width, height, p):
        np.testing.assert_array_equal(ours, torchvision_pixels(picture, p))


@settings(max_examples=30)
@given(
    st.integers(1, 40), st.floats(4.01, 60), st.booleans(), st.sampled_from((1.0, 0.875)), st.data()
)
def test_a_long_picture_is_cropped_where_torchvision_crops_it(
    short: int, longer: float, portrait: bool, crop_fraction: float, data: st.DataObject
) -> None:
    width, height = (short, round(short * longer)) if portrait else (round(short * longer), short)
    p = preprocess(data.draw(st.sampled_from((16, 64))), crop_fraction)
    picture = noise(width, height)
    difference = np.asarray(fit_to_input(picture, p)).astype(int) - torchvision_pixels(picture, p)
    assert np.abs(difference).max() <= 2  # rows and columns are each rounded once
    assert np.abs(difference).mean() <= 0.5


@pytest.mark.parametrize(("width", "height"), [(97, 41), (41, 97), (1, 1), (64, 64), (301, 200)])
def test_load_exact_gives_those_pixels_for_a_file(width: int, height: int) -> None:
    p = preprocess(32, 0.875)
    picture = noise(width, height)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        picture.save(path)
        np.testing.assert_array_equal(load_exact(str(path), p), torchvision_pixels(picture, p))


def test_a_small_jpeg_is_decoded_in_full(tmp_path: Path) -> None:
    noise(100, 80).save(tmp_path / "a.jpg", quality=95)
    p = preprocess(64, 1.0, "bicubic")  # half of 80 px would be less than 2 x 64: decoded in full
    expected = torchvision_pixels(Image.open(tmp_path / "a.jpg").convert("RGB"), p)
    np.testing.assert_array_equal(load_exact(str(tmp_path / "a.jpg"), p), expected)


def test_a_random_crop_is_torchvisions_resized_crop_of_the_same_box() -> None:
    pictures = [np.array(noise(w, h, seed=w)) for w, h in ((40, 30), (200, 90), (9, 50))]
    scale, ratio = (0.3, 1.0), (0.75, 1.333)
    ours = random_resized_crop(pictures, 24, scale, ratio, torch.Generator().manual_seed(5))
    boxes = draw_crops(
        torch.tensor([p.shape[:2] for p in pictures]),
        scale,
        ratio,
        torch.Generator().manual_seed(5),
    )
    for image, picture, box in zip(ours, pictures, boxes.tolist(), strict=True):
        chw = torch.tensor(picture).permute(2, 0, 1).contiguous()
        expected = tvf.resized_crop(chw, *box, [24, 24], antialias=True)
        # Memory layouts take different kernels, which round differently by one level at most.
        assert (image.int() - expected.int()).abs().max() <= 1


def test_the_areas_of_random_crops_are_distributed_as_torchvisions() -> None:
    """Two-sample Kolmogorov-Smirnov distance, against its 0.1 % critical value."""
    num, height, width = 4000, 60, 80
    scale, ratio = (0.2, 1.0), (0.75, 4 / 3)
    boxes = draw_crops(
        torch.tensor([[height, width]] * num), scale, ratio, torch.Generator().manual_seed(0)
    )
    ours = np.sort((boxes[:, 2] * boxes[:, 3]).numpy() / (height * width))
    torch.manual_seed(0)
    canvas = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(canvas, list(scale), list(ratio)) for _ in range(num)]
    theirs = np.sort([box[2] * box[3] / (height * width) for box in drawn])
    grid = np.linspace(0, 1, 400)
    distance = np.abs(np.searchsorted(ours, grid) - np.searchsorted(theirs, grid)).max() / num
    assert distance < 1.95 * (2 / num) ** 0.5


def smooth(num: int, height: int, width: int) -> torch.Tensor:
    """(num, 3, height, width) colourful float pictures without sharp edges, all different."""
    coarse = torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return tvf.resize(coarse, [height, width], antialias=True)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_a_rotation_agrees_with_torchvision_inside_the_picture(height: int, width: int) -> None:
    images = smooth(6, height, width)
    ours = rotate(images, 30.0, torch.Generator().manual_seed(3))
    draws = torch.rand(6, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert draws.abs().max() > 0.5
    for image, original, draw in zip(ours, images, draws.tolist(), strict=True):
        degrees = 30.0 * draw
        expected = tvf.rotate(original, degrees, InterpolationMode.BILINEAR)
        radius = min(height, width) // 2 - 3  # what never left the picture
        rows, columns = torch.meshgrid(
            torch.arange(height) - (height - 1) / 2,
            torch.arange(width) - (width - 1) / 2,
            indexing="ij",
        )
        inside = rows**2 + columns**2 < radius**2
        torch.testing.assert_close(image[:, inside], expected[:, inside], atol=2e-4, rtol=0)


@pytest.mark.parametrize("word", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_means_what_it_means_in_torchvision(word: str, channels: int) -> None:
    images = smooth(5, 12, 10)[:, :channels]
    ours = jitter_color(images, torch.Generator().manual_seed(2), **{word: 0.8})
    draws = torch.rand(5, generator=torch.Generator().manual_seed(2)) * 2 - 1
    adjust = getattr(tvf, f"adjust_{word}")
    for image, original, draw in zip(ours, images, draws.tolist(), strict=True):
        expected = adjust(original, 1 + 0.8 * draw)
        torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)
