"""From a file to the network's input. That the crop is torchvision's is in tests/parity."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldmark.data.preprocess import (
    DECODE_MARGIN,
    MAX_ASPECT,
    STORE_MARGIN,
    STORE_SPARE,
    Pixels,
    denormalize,
    fit_to_input,
    measure_mean_std,
    normalize,
    to_batch,
)
from fieldmark.data.sources.scan import scan
from fieldmark.errors import PictureError
from fieldmark.types import Preprocess
from support.stores import load_canvas, load_exact, load_for_crops

RGB = Preprocess(32, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Preprocess(28, 1, (0.286,), (0.353,), crop_fraction=1.0)
BGR = replace(RGB, channel_order="bgr")


def save(picture: Image.Image, path: Path, **options: int) -> str:
    picture.save(path, **options)
    return str(path)


def landscape(width: int, height: int) -> Image.Image:
    """Something like a photo: broad shapes, edges and a little grain."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    half = Image.fromarray(shapes).resize((width // 8, height // 8), Image.Resampling.NEAREST)
    pixels = np.asarray(half.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


# Decoding a JPEG smaller -------------------------------------------------------------------------


def test_a_12_megapixel_jpeg_decoded_smaller_looks_the_same(tmp_path: Path) -> None:
    """Stated tolerance: half a grey level of 255 on average (0.15 measured)."""
    big = landscape(4000, 3000)
    path = save(big, tmp_path / "big.jpg", quality=90)
    preprocess = replace(RGB, size=224)

    with Image.open(path) as opened:  # the quick way is taken at all
        opened.draft(None, (round(256 * DECODE_MARGIN),) * 2)
        assert opened.size == (1000, 750)
    with Image.open(path) as opened:
        in_full = np.asarray(fit_to_input(opened, preprocess)).astype(int)
    ours = load_exact(path, preprocess).astype(int)
    assert in_full.std() > 30  # there is something to see
    assert np.abs(ours - in_full).mean() < 0.5


# Shapes ------------------------------------------------------------------------------------------


def test_squash_shows_the_whole_picture(tmp_path: Path) -> None:
    stripes = Image.new("RGB", (300, 50), "red")
    stripes.paste("lime", (100, 0, 200, 50))
    stripes.paste("blue", (200, 0, 300, 50))
    path = save(stripes, tmp_path / "stripes.png")
    squashed = load_exact(path, replace(RGB, size=30, resize="squash"))
    assert squashed[15, [3, 15, 27]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    cropped = load_exact(path, replace(RGB, size=30))
    assert (cropped == [0, 255, 0]).all()


def test_squashed_training_pictures_keep_the_proportions_of_evaluation(tmp_path: Path) -> None:
    """Crops cut from an unsquashed picture would show the network other shapes than the test."""
    path = save(Image.radial_gradient("L").resize((120, 48)).convert("RGB"), tmp_path / "wide.png")
    preprocess = replace(RGB, size=32, resize="squash")
    stored = load_for_crops(path, preprocess)
    assert stored.shape == (48, 48, 3)
    exact = load_exact(path, preprocess)
    again = np.asarray(Image.fromarray(stored).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(again.astype(int) - exact).mean() < 2


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (3, 4000)])
def test_odd_shapes_cost_no_memory(tmp_path: Path, width: int, height: int, resize: str) -> None:
    path = save(Image.new("RGB", (width, height), (10, 200, 90)), tmp_path / "odd.png")
    preprocess = replace(RGB, size=224, resize=resize)
    tracemalloc.start()  # counts numpy's memory; a result of gigabytes could not hide
    exact, stored = load_exact(path, preprocess), load_for_crops(path, preprocess)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert exact.shape == (224, 224, 3)
    assert (exact == [10, 200, 90]).all()
    if resize == "crop":  # nothing is scaled up; a squashed picture is a square, as in evaluation
        assert stored.shape[0] <= height
        assert stored.shape[1] <= width
    assert max(stored.shape[:2]) <= MAX_ASPECT * min(stored.shape[:2])
    assert peak_bytes < 2_000_000


def test_what_would_be_cut_away_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *args: object, **words: object) -> object:
        made.append(size)
        return resize(self, size, *args, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", spy)
    fit_to_input(Image.new("RGB", (1, 5000)), replace(RGB, size=224))
    fit_to_input(Image.new("RGB", (400, 300)), replace(RGB, size=224, crop_fraction=0.01))
    assert made
    assert max(max(size) for size in made) <= MAX_ASPECT * 224


def test_grey_and_colour_inputs_of_the_same_picture(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (40, 40), (255, 0, 0)), tmp_path / "red.png")
    grey = load_exact(path, GREY)
    assert grey.shape == (28, 28, 1)
    assert (grey == round(255 * 0.299)).all()  # ITU-R 601
    assert load_exact(path, RGB).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("width", "height"), [(200, 150), (1000, 90), (20, 30), (48, 48), (80, 60), (81, 61), (7, 900)]
)
def test_pictures_for_crops_keep_their_proportions_and_are_never_enlarged(
    tmp_path: Path, width: int, height: int
) -> None:
    path = save(
        landscape(max(width, 8), max(height, 8)).crop((0, 0, width, height)), tmp_path / "a.png"
    )
    stored = load_for_crops(path, RGB)
    stored_h, stored_w, _ = stored.shape
    wanted = round(STORE_MARGIN * RGB.size)
    assert min(stored_h, stored_w) in (min(width, height), wanted)
    assert min(stored_h, stored_w) <= STORE_SPARE * wanted
    assert stored_h <= height
    assert stored_w <= width
    proportions = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
    assert stored_w / stored_h == pytest.approx(proportions, rel=1 / min(stored_h, stored_w))
    if max(width, height) <= STORE_SPARE * wanted:
        np.testing.assert_array_equal(stored, np.asarray(Image.open(path)))


def test_a_crop_from_the_store_is_close_to_one_from_the_file(tmp_path: Path) -> None:
    """Stated tolerance: 3 grey levels on average for a crop of half the sides."""
    path = save(landscape(800, 600), tmp_path / "a.png")
    stored = Image.fromarray(load_for_crops(path, replace(RGB, size=64)))
    with Image.open(path) as picture:
        from_file = picture.resize((64, 64), Image.Resampling.BILINEAR, box=(200, 150, 600, 450))
    box = tuple(
        share * side for share, side in zip((0.25, 0.25, 0.75, 0.75), stored.size * 2, strict=True)
    )
    from_store = stored.resize((64, 64), Image.Resampling.BILINEAR, box=box)
    difference = np.asarray(from_store).astype(int) - np.asarray(from_file)
    assert np.abs(difference).mean() < 3.0


@pytest.mark.parametrize(
    ("width", "height", "aspect"),
    [(200, 150, 4 / 3), (150, 200, 3 / 4), (20, 20, 1.0), (30, 1200, 1 / MAX_ASPECT), (9, 6, 1.5)],
)
def test_a_canvas_is_the_whole_picture_in_a_square_and_knows_its_proportions(
    tmp_path: Path, width: int, height: int, aspect: float
) -> None:
    picture = landscape(max(width, 8), max(height, 8)).crop((0, 0, width, height))
    path = save(picture, tmp_path / "a.png")
    canvas, shown = load_canvas(path, RGB)
    side = round(STORE_MARGIN * RGB.size)
    assert canvas.shape == (side, side, 3)
    assert canvas.dtype == np.uint8
    assert shown == aspect
    # Of a long picture the middle, as everywhere: what random crops can be cut from.
    left = (width - min(width, MAX_ASPECT * height)) / 2
    top = (height - min(height, MAX_ASPECT * width)) / 2
    box = (left, top, width - left, height - top)
    expected = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(canvas, np.asarray(expected))


def test_a_squashed_canvas_is_cropped_as_the_square_it_is_trained_as(tmp_path: Path) -> None:
    path = save(landscape(90, 30), tmp_path / "a.png")
    canvas, aspect = load_canvas(path, replace(RGB, resize="squash"))
    assert aspect == 1.0
    expected = landscape(90, 30).resize(canvas.shape[:2], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(canvas, np.asarray(expected))
    assert load_canvas(path, replace(RGB, channels=1, mean=(0,), std=(1,)))[0].shape[2] == 1


def test_a_bad_file_is_a_picture_error_either_way(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    for load in (load_exact, load_for_crops, load_canvas):
        with pytest.raises(PictureError, match="empty"):
            load(str(tmp_path / "bad.jpg"), RGB)


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocess", [RGB, BGR, GREY])
def test_every_grey_level_survives_normalize_and_denormalize(preprocess: Preprocess) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = levels.repeat(2, preprocess.channels, 1, 1)
    normal = normalize(images, preprocess)
    assert normal.dtype == torch.float32
    white = [(1 - m) / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
    if preprocess is BGR:
        white.reverse()
    assert normal[0, :, -1, -1].tolist() == pytest.approx(white)
    torch.testing.assert_close(normalize(images.float() / 255, preprocess), normal)
    assert torch.equal(denormalize(normal, preprocess), images)


def test_bgr_gives_the_network_blue_first_and_takes_each_colours_own_mean_from_it() -> None:
    """As Keras' 2017 weights want it: BGR, 0-255, minus (103.939, 116.779, 123.68) in that order.

    On the scale where white is 1, with a std of 1/255, the same numbers come out.
    """
    mean = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # of red, green, blue
    preprocess = replace(BGR, mean=mean, std=(1 / 255,) * 3)
    red_green_blue = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [50 - 103.939, 100 - 116.779, 200 - 123.68]
    assert normalize(red_green_blue, preprocess).flatten().tolist() == pytest.approx(expected)


@given(
    channels=st.sampled_from((1, 3)),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    bgr=st.booleans(),
    mean=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_denormalize_undoes_normalize_in_either_order(
    channels: int,
    height: int,
    width: int,
    bgr: bool,
    mean: list[float],
    std: list[float],
    channels_last: bool,
    seed: int,
) -> None:
    order = "bgr" if bgr and channels == 3 else "rgb"
    preprocess = Preprocess(
        8, channels, tuple(mean[:channels]), tuple(std[:channels]), channel_order=order
    )
    images = torch.randint(
        0, 256, (2, channels, height, width), generator=torch.Generator().manual_seed(seed)
    ).to(torch.uint8)
    if channels_last:  # as `to_batch` makes them
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    normal = normalize(images, preprocess)
    assert torch.equal(denormalize(normal, preprocess), images)
    assert torch.equal(images, before)
    assert normal.stride() == normalize(images, replace(preprocess, channel_order="rgb")).stride()


def test_denormalize_shows_what_lies_outside_as_black_and_white() -> None:
    images = torch.tensor([-100.0, 100.0]).view(1, 1, 1, 2)
    assert denormalize(images, GREY).flatten().tolist() == [0, 255]


def test_a_batch_has_channels_first() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    batch = to_batch([picture, picture + 100])
    assert batch.shape == (2, 3, 2, 4)
    assert batch.dtype == torch.uint8
    assert batch[1, 2, 1, 3] == picture[1, 3, 2] + 100


@given(
    st.sampled_from((1, 3)),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_mean_and_std_are_those_of_all_pixels(
    channels: int, sizes: list[tuple[int, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pictures: list[Pixels] = [
        rng.integers(0, 256, (h, w, channels), dtype=np.uint8) for h, w in sizes
    ]
    mean, std = measure_mean_std(iter(pictures), channels)
    pixels = np.concatenate([p.reshape(-1, channels) for p in pictures]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=5.1e-5)
    expected_std = pixels.std(axis=0)
    expected_std[expected_std < 1e-4] = 1.0  # one flat colour: nothing to divide by
    np.testing.assert_allclose(std, expected_std, atol=5.1e-5)


def test_fashion_mnist_has_its_published_mean_and_std(shared_data: Path) -> None:
    """0.2860 and 0.3530 over all 60,000; a twelfth of them comes within 0.003."""
    manifest = scan(shared_data / "fashion-mnist")
    paths = [sample.path for sample in manifest.of_part("train")][::12]
    assert len(paths) == 5000
    mean, std = measure_mean_std((load_for_crops(path, GREY) for path in paths), 1)
    assert mean[0] == pytest.approx(0.2860, abs=0.003)
    assert std[0] == pytest.approx(0.3530, abs=0.003)
