"""Random erasing: how often, how much, and with what."""

from __future__ import annotations

import pytest
import torch

from fieldmark.data.augment.erase import ERASED_AREA, ERASED_RATIO, random_erase_
from support.pictures import seeded


def erased_boxes(erased: torch.Tensor, value: float) -> list[tuple[int, int]]:
    """Height and width of what no longer has `value`, of each picture; (0, 0) where all has."""
    sizes = []
    for image in erased:
        changed = (image != value).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        if not len(rows):
            sizes.append((0, 0))
            continue
        high, wide = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.98, "a rectangle, all of it"
        sizes.append((high, wide))
    return sizes


@pytest.mark.parametrize("channels", [1, 3])
def test_a_rectangle_of_noise_of_the_papers_area_and_proportions(channels: int) -> None:
    images = torch.full((600, channels, 40, 50), 0.5)
    erased = random_erase_(images.clone(), 0.25, seeded(1))
    sizes = [size for size in erased_boxes(erased, 0.5) if size[0]]
    assert len(sizes) / 600 == pytest.approx(0.25, abs=0.07)  # 4 standard errors
    areas = [high * wide / 2000 for high, wide in sizes]
    assert ERASED_AREA[0] * 0.8 < min(areas) < 0.06
    assert 0.3 < max(areas) <= ERASED_AREA[1] * 1.05
    ratios = [wide / high for high, wide in sizes]
    assert ERASED_RATIO[0] * 0.85 < min(ratios) < 0.5
    assert 2.0 < max(ratios) < ERASED_RATIO[1] * 1.2
    noise = erased[erased != 0.5]
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02)
    assert noise.var().item() == pytest.approx(1 / 12, abs=0.005)  # uniform from black to white


def test_bytes_are_erased_as_floats_are() -> None:
    images = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8, generator=seeded())
    in_bytes = random_erase_(images.clone(), 0.7, seeded(3))
    in_floats = random_erase_(images.float() / 255, 0.7, seeded(3))
    assert in_bytes.dtype == torch.uint8
    assert torch.equal(in_bytes.float() / 255, in_floats)
    assert not torch.equal(in_bytes, images)


def test_it_is_done_in_place_and_not_at_all_where_the_probability_is_zero() -> None:
    images = torch.full((4, 1, 8, 8), 0.5)
    assert random_erase_(images, 0.0, seeded()) is images
    assert (images == 0.5).all()
    assert random_erase_(images, 1.0, seeded()) is images
    assert (images != 0.5).flatten(1).any(dim=1).all()


def test_a_picture_of_one_pixel_is_erased_or_not() -> None:
    images = torch.full((50, 3, 1, 1), 0.5)
    changed = (random_erase_(images, 0.5, seeded()) != 0.5).flatten(1).any(dim=1)
    assert 10 < changed.sum() < 40
