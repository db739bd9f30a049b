"""The learning rates are torch's own, step by step, and never leave their range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.recipe import ScheduleRecipe
from fieldmark.training.schedule import learning_rate

PEAK = 0.3
SHAPES = [(1, 2), (2, 1), (7, 3), (10, 5), (1, 20)]  # steps an epoch, epochs


def rates(schedule: ScheduleRecipe, steps: int, epochs: int, peak: float = PEAK) -> list[float]:
    return [learning_rate(schedule, peak, step, steps, epochs) for step in range(steps * epochs)]


def torch_rates(make: Callable[[torch.optim.Optimizer], Any], total: int) -> list[float]:
    """What an optimizer's learning rate is at each step under one of torch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(("steps", "epochs"), SHAPES)
@pytest.mark.parametrize("rise", [0.0, 0.25, 0.3, 0.9])
def test_one_cycle_is_torchs(steps: int, epochs: int, rise: float) -> None:
    total = steps * epochs
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK, total_steps=total, pct_start=rise, cycle_momentum=False
        ),
        total,
    )
    ours = rates(ScheduleRecipe("one_cycle", rise_fraction=rise), steps, epochs)
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("steps", "epochs"), SHAPES)
def test_cosine_is_torchs(steps: int, epochs: int) -> None:
    total = steps * epochs
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total), total
    )
    assert rates(ScheduleRecipe("cosine"), steps, epochs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_step_is_torchs_lambda_over_epochs(every: int) -> None:
    gamma, steps, epochs = 0.92, 4, 9
    per_epoch = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: gamma ** (epoch // every)
        ),
        epochs,
    )
    ours = rates(ScheduleRecipe("step", step_epochs=every, gamma=gamma), steps, epochs)
    assert ours == pytest.approx([lr for lr in per_epoch for _ in range(steps)], rel=1e-12)


def test_constant_stays_at_the_peak() -> None:
    assert rates(ScheduleRecipe("constant"), 3, 4) == [PEAK] * 12


@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_warm_up_rises_in_equal_parts_to_the_peak(name: Any) -> None:
    schedule = ScheduleRecipe(name, warmup_epochs=1.5, step_epochs=10)
    seen = rates(schedule, 4, 5)
    assert seen[:6] == pytest.approx([PEAK * k / 6 for k in range(1, 7)])
    assert seen[6] == pytest.approx(PEAK)  # the schedule proper begins at its top


def test_cosine_after_a_warm_up_is_the_cosine_of_the_steps_that_are_left() -> None:
    seen = rates(ScheduleRecipe("cosine", warmup_epochs=1), 4, 5)
    assert seen[4:] == pytest.approx(rates(ScheduleRecipe("cosine"), 4, 4))
    assert seen[-1] < 0.05 * PEAK


@given(
    name=st.sampled_from(["constant", "step", "cosine", "one_cycle"]),
    steps=st.integers(1, 40),
    epochs=st.integers(1, 12),
    warmup=st.floats(0, 30),
    rise=st.floats(0, 1),
    gamma=st.floats(0.01, 1),
    every=st.integers(1, 15),
    peak=st.floats(1e-6, 10),
)
def test_every_step_has_a_rate_above_zero_and_not_above_the_peak(
    name: Any, steps: int, epochs: int, warmup: float, rise: float, gamma: float, every: int,
    peak: float,
) -> None:  # fmt: skip
    schedule = ScheduleRecipe(
        name, warmup_epochs=warmup, rise_fraction=rise, gamma=gamma, step_epochs=every
    )
    for lr in rates(schedule, steps, epochs, peak):
        assert math.isfinite(lr)
        assert 0 < lr <= peak * (1 + 1e-12)


@given(rise=st.floats(0, 1), steps=st.integers(2, 60))
def test_one_cycle_rises_once_and_falls_once(rise: float, steps: int) -> None:
    seen = rates(ScheduleRecipe("one_cycle", rise_fraction=rise), steps, 1)
    top = seen.index(max(seen))
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)
