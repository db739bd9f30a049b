"""MixUp and CutMix: torchvision's arithmetic, and targets that say what is in the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from fieldmark.data.augment.mix import cutmix_, draw_share, mix_batch_, mixup_, soft_targets
from support.pictures import noise_batch, seeded

LABELS = torch.tensor([2, 0, 1, 1, 3, 0])


def images() -> torch.Tensor:
    return noise_batch(6).float() / 255


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_pictures_and_targets_are_torchvisions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same share and centre, which torchvision draws from the global generator."""
    theirs = getattr(v2, name)(num_classes=4)
    for seed in range(20):
        torch.manual_seed(seed)
        expected_images, expected_targets = theirs(images(), LABELS)
        torch.manual_seed(seed)
        share = float(theirs._dist.sample(()))
        if name == "MixUp":
            mixed = mixup_(images(), share)
        else:
            generator = torch.Generator()
            # theirs: the column, then the row; ours: the row, then the column
            width, height = images().shape[3], images().shape[2]
            column = int(torch.randint(width, (1,)))
            row = int(torch.randint(height, (1,)))
            places = iter([row, column])
            mixed = images()
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randint", lambda *a, p=places, **w: torch.tensor(next(p)))
                mixed, share = cutmix_(mixed, share, generator)
        torch.testing.assert_close(mixed, expected_images, atol=1e-6, rtol=0)
        targets = soft_targets(LABELS, share, 4)
        torch.testing.assert_close(targets, expected_targets, atol=1e-6, rtol=0)


@given(st.floats(0, 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 50))
def test_cutmix_says_which_share_of_a_picture_is_its_own(
    share: float, height: int, width: int, seed: int
) -> None:
    numbered = torch.arange(3.0).view(3, 1, 1, 1).repeat(1, 2, height, width)
    mixed, own = cutmix_(numbered.clone(), share, seeded(seed))
    for i in range(3):
        assert set(mixed[i].unique().tolist()) <= {float(i), float((i - 1) % 3)}
        assert (mixed[i] == i).float().mean().item() == pytest.approx(own, abs=1e-6)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.floats(0, 1))
def test_targets_sum_to_one_and_name_both_labels(labels: list[int], share: float) -> None:
    targets = soft_targets(torch.tensor(labels), share, 5)
    assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * len(labels))
    for i, label in enumerate(labels):
        partner = labels[i - 1]
        expected = 1.0 if partner == label else share
        assert targets[i, label].item() == pytest.approx(expected, abs=1e-6)
        assert targets[i, partner].item() == pytest.approx(
            expected if partner == label else 1 - share, abs=1e-6
        )


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha: float) -> None:
    generator = seeded()
    shares = np.array([draw_share(alpha, generator) for _ in range(3000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)  # Beta's
    assert ((shares >= 0) & (shares <= 1)).all()


def mixed(seed: int, **words: float) -> tuple[torch.Tensor, torch.Tensor]:
    alphas: Any = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0} | words
    return mix_batch_(images(), LABELS, 4, seeded(seed), **alphas)


def test_where_both_are_on_a_batch_takes_either_about_as_often() -> None:
    pasted = 0
    for seed in range(200):
        pictures, targets = mixed(seed, mixup_alpha=1.0, cutmix_alpha=1.0)
        # What CutMix makes is, value by value, of one picture or the other.
        is_own, is_other = pictures == images(), pictures == images().roll(1, 0)
        pasted += bool((is_own | is_other).all())
        assert targets.shape == (6, 4)
    assert pasted / 200 == pytest.approx(0.5, abs=0.14)  # 4 standard errors


def test_either_alone_is_always_taken() -> None:
    for seed in range(30):
        pictures, _ = mixed(seed, cutmix_alpha=1.0)
        assert ((pictures == images()) | (pictures == images().roll(1, 0))).all()
        pictures, targets = mixed(seed, mixup_alpha=1.0)
        share = targets[0, LABELS[0]].item()  # its partner, the last one, has another label
        torch.testing.assert_close(
            pictures, share * images() + (1 - share) * images().roll(1, 0), atol=1e-5, rtol=0
        )


def test_nothing_is_mixed_where_nothing_is_to_be_and_one_picture_has_no_partner() -> None:
    pictures, targets = mixed(0)
    assert torch.equal(pictures, images())
    assert targets is LABELS
    one = noise_batch(1).float()
    pictures, targets = mix_batch_(one, LABELS[:1], 4, seeded(), mixup_alpha=1.0, cutmix_alpha=1.0)
    assert pictures is one
    assert targets.tolist() == [2]
