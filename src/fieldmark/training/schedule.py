"""Learning rates as pure functions of the step: nothing to save, nothing to get out of step."""

from __future__ import annotations

import math

from fieldmark.recipe import ScheduleRecipe

# One-cycle starts at peak / 25 and ends at start / 10^4 (Smith & Topin 2018; the defaults of
# fastai and of torch's OneCycleLR).
ONE_CYCLE_START = 25.0
ONE_CYCLE_END = 1e4


def learning_rate(
    schedule: ScheduleRecipe, peak: float, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """The learning rate of one step.

    Args:
        peak: the highest learning rate of the schedule.
        step: 0-based, counted over all epochs.
        steps_per_epoch, epochs: give the length of the run.
    """
    total = steps_per_epoch * epochs
    if schedule.name == "one_cycle":
        return peak * _one_cycle(step, total, schedule.rise_fraction)
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.name == "cosine":
        # SGDR's half period (Loshchilov & Hutter 2017) over the steps after the warm-up.
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    if schedule.name == "step":
        epoch = step // steps_per_epoch
        return float(peak * schedule.gamma ** (epoch // schedule.step_epochs))
    return peak


def _one_cycle(step: int, total: int, rise_fraction: float) -> float:
    """Share of the peak: up by a half cosine to the end of the rise, then down by another."""
    start, end = 1 / ONE_CYCLE_START, 1 / ONE_CYCLE_START / ONE_CYCLE_END
    top, last = rise_fraction * total - 1, total - 1
    if step <= top:
        return _half_cosine(start, 1.0, step / top if top > 0 else 1.0)
    return _half_cosine(1.0, end, (step - top) / (last - top) if last > top else 1.0)


def _half_cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * share))
