"""Mode, views, input size and epochs within a given time, chosen from a few measurements.

Seconds are affine in epochs and in views, so that one measurement of a mode at a size answers for
every number of either: a mode at a size is the only thing that is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from fieldmark.budget.costs import (
    Candidate,
    ModeEstimate,
    about,
    count_epochs,
    count_views,
    estimate_line,
    mode_words,
)
from fieldmark.ranges import STORED

SHARE: Final = 0.85  # of the budget is planned for: decoding and the last look are not measured
SIZES_PX: Final = (224, 160, 128, 96)  # to go down to where time is short; multiples of 32

# The least share of the epochs asked for that is still the same kind of training, and the least
# number. A network that starts from random weights needs most of its epochs; one that starts from
# trained ones has a good head after few.
LEAST_SHARE: Final = {"scratch": 0.5, "finetune": 0.25, "partial": 0.25, "frozen": 0.25}
FEWEST_EPOCHS: Final = 3

# A smaller picture costs at least its share of the pixels; this much is allowed for noise before a
# size is passed over unmeasured.
NOISE: Final = 0.8


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """What the choice rests on: the words as they are now, and which of them may be changed.

    Attributes:
        trained: trained weights are named.
        mode: the one that was asked for; None leaves it open.
        views, size, epochs: what was asked for, or what is taken where time does not matter.
        views_given, size_given, epochs_given: asked for, so not to be changed.
        min_size_px: the smallest input the network admits; its only one, where there is one.
    """

    trained: bool
    mode: str | None
    views: int
    size: int
    epochs: int
    views_given: bool = False
    size_given: bool = False
    epochs_given: bool = False
    min_size_px: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """What fits, and what was given up for it.

    Attributes:
        mode, views, size, epochs: as in `Candidate`.
        said: a sentence for each thing given up, then what the choice takes.
        estimate: of this choice, worked out from what was measured.
        fits: False where not even the least did.
    """

    mode: str
    views: int
    size: int
    epochs: int
    said: list[str]
    estimate: ModeEstimate
    fits: bool

    @property
    def settings(self) -> dict[str, Any]:
        """As dotted settings of a recipe."""
        return Candidate(self.mode, self.views, self.size, self.epochs).settings


@dataclass(frozen=True, slots=True)
class _Rung:
    """Candidates that differ in epochs alone: `most.epochs` down to `fewest`."""

    most: Candidate
    fewest: int

    @property
    def least(self) -> Candidate:
        return replace(self.most, epochs=self.fewest)

    @property
    def pair(self) -> tuple[str, int]:
        """What is measured once for all views and epochs."""
        return self.most.mode, self.most.size


@dataclass(frozen=True, slots=True)
class _Measured:
    candidate: Candidate
    estimate: ModeEstimate

    def at(self, wanted: Candidate) -> ModeEstimate:
        """The same for other views and epochs of this mode and size."""
        fewer = max(self.candidate.views, 1) - max(wanted.views, 1)
        setup = max(0.0, self.estimate.setup_seconds - fewer * self.estimate.view_seconds)
        total = setup + wanted.epochs * self.estimate.seconds_per_epoch
        return replace(self.estimate, setup_seconds=setup, seconds_total=total)


@dataclass(frozen=True, slots=True)
class _Tried:
    rung: _Rung
    most: ModeEstimate
    least: ModeEstimate


def choose_within(
    budget_seconds: float, measure: Callable[[Candidate], ModeEstimate], facts: BudgetFacts
) -> Choice:
    """The best training that fits into 85 % of the budget.

    From best to least, with weights: all of them trained from a head that was trained first; the
    head alone, on several views a picture; on fewer; the same at smaller sizes. Without weights:
    half of the epochs, then smaller sizes. What was given is kept, and the rest makes room.

    The mode goes before the size: a head on good features is hardly below a short training of all
    weights, and better on pictures unlike those trained on (Kumar et al. 2022, arXiv:2202.10054),
    while size costs accuracy. Ants and bees, logistic regression on the centre crops' features of
    MobileNetV2 trained at 224 px, 153 pictures: 0.961 at 224, 0.954 at 160, 0.882 at 128, 0.856 at
    96 px.

    Args:
        measure: what a candidate costs. It is asked once for a mode at a size, in falling order,
            and for none that is known not to fit: one to three times as a rule, five at most.

    Where nothing fits the cheapest that was measured is chosen, with a warning.
    """
    limit = SHARE * budget_seconds
    ladder = list(_ladder(facts))
    measured: dict[tuple[str, int], _Measured] = {}
    tried: list[_Tried] = []
    for rung in ladder:
        if rung.pair not in measured:
            is_last = rung.pair == ladder[-1].pair
            if not is_last and _is_hopeless(rung.pair, ladder, measured, limit):
                continue
            measured[rung.pair] = _Measured(rung.most, measure(rung.most))
        there = measured[rung.pair]
        tried.append(_Tried(rung, there.at(rung.most), there.at(rung.least)))
        if tried[-1].least.seconds_total <= limit:
            epochs = _epochs_within(limit, tried[-1])
            chosen = replace(rung.most, epochs=epochs)
            estimate = there.at(chosen)
            said = _given_up(chosen, tried, facts)
            said.append(f"{_at_size(chosen)} takes {estimate_line(estimate, epochs)}")
            return _choice(chosen, said, estimate, fits=True)
    cheapest = min(tried, key=lambda each: each.least.seconds_total)
    chosen, estimate = cheapest.rung.least, cheapest.least
    said = [_nothing_fits(chosen, estimate, budget_seconds, facts)]
    return _choice(chosen, said, estimate, fits=False)


def _ladder(facts: BudgetFacts) -> Iterator[_Rung]:
    """Everything that may be chosen, best first."""
    sizes = [facts.size]
    if not facts.size_given:
        sizes += [px for px in SIZES_PX if facts.min_size_px <= px < facts.size]
    open_modes = ["finetune", "frozen"] if facts.trained else ["scratch"]
    if facts.trained and facts.views_given:  # they mean something only where they are stored
        open_modes = ["frozen"]
    modes = [facts.mode] if facts.mode else open_modes
    # Sizes are for the last mode: where one pass of all pictures does not fit, no training of all
    # weights does, not even at 96 px.
    pairs = [(mode, facts.size) for mode in modes]
    pairs += [(modes[-1], px) for px in sizes[1:]]
    for mode, px in pairs:
        views = _fewer_views(facts) if mode in STORED else [facts.views]
        for number in views:
            at_the_end = (mode, px, number) == (*pairs[-1], views[-1])
            fewest = FEWEST_EPOCHS
            if not at_the_end:
                fewest = max(fewest, math.ceil(LEAST_SHARE[mode] * facts.epochs))
            if facts.epochs_given:
                fewest = facts.epochs
            yield _Rung(Candidate(mode, number, px, facts.epochs), min(fewest, facts.epochs))


def _fewer_views(facts: BudgetFacts) -> list[int]:
    """The views asked for, then half as many, down to one."""
    views = [facts.views]
    while views[-1] > 1 and not facts.views_given:
        views.append(views[-1] // 2)
    return views


def _is_hopeless(
    pair: tuple[str, int],
    ladder: list[_Rung],
    measured: dict[tuple[str, int], _Measured],
    limit: float,
) -> bool:
    """Whether a larger size of this mode tells that even its least does not fit."""
    mode, px = pair
    larger = [size_px for other, size_px in measured if other == mode]
    if not larger:
        return False
    nearest = min(larger)
    leasts = [rung.least for rung in ladder if rung.pair == pair]
    cheapest = min(measured[mode, nearest].at(least).seconds_total for least in leasts)
    return NOISE * (px / nearest) ** 2 * cheapest > limit


def _epochs_within(limit: float, tried: _Tried) -> int:
    """The most epochs of the rung that end in time; its fewest are known to."""
    most, fewest = tried.most, tried.rung.fewest
    if most.seconds_total <= limit:
        return tried.rung.most.epochs
    epochs = int((limit - most.setup_seconds) / most.seconds_per_epoch)
    # A rounding apart from what the total of so many epochs is.
    while epochs > fewest and most.setup_seconds + epochs * most.seconds_per_epoch > limit:
        epochs -= 1
    return max(epochs, fewest)


def _choice(chosen: Candidate, said: list[str], estimate: ModeEstimate, *, fits: bool) -> Choice:
    return Choice(chosen.mode, chosen.views, chosen.size, chosen.epochs, said, estimate, fits=fits)


def _given_up(chosen: Candidate, tried: list[_Tried], facts: BudgetFacts) -> list[str]:
    """A sentence for the mode, the size, the views and the epochs that are not as they were."""
    said = []
    first = tried[0]
    if first.rung.most.mode != chosen.mode:
        mode, fewest = first.rung.most.mode, first.rung.fewest
        shorter = f" ({count_epochs(fewest)}: {about(first.least.seconds_total)})"
        said.append(
            f"{mode} would take {about(first.most.seconds_total)}"
            f"{shorter if fewest < first.rung.most.epochs else ''}: {mode_words(chosen)} instead"
        )
    if chosen.size != facts.size:
        larger = [each for each in tried if each.rung.pair[0] == chosen.mode]
        larger = [each for each in larger if each.rung.pair[1] > chosen.size]
        cheapest = min(larger, key=lambda each: each.least.seconds_total)
        said.append(
            f"size {chosen.size} px instead of {facts.size}: at {cheapest.rung.pair[1]} px it "
            f"would take {about(cheapest.least.seconds_total)} or more"
        )
    if chosen.mode in STORED and chosen.views != facts.views:
        said.append(f"{count_views(chosen.views)} instead of {facts.views}")
    if chosen.epochs != facts.epochs:
        full = about(tried[-1].most.seconds_total)
        said.append(f"{count_epochs(chosen.epochs)} instead of {facts.epochs}, which take {full}")
    return said


def _nothing_fits(
    least: Candidate, estimate: ModeEstimate, budget_seconds: float, facts: BudgetFacts
) -> str:
    kept = {
        "mode": facts.mode is not None,
        "size": facts.size_given,
        "epochs": facts.epochs_given,
        "views": facts.views_given,
    }
    given = [word for word, is_given in kept.items() if is_given]
    way_out = f"leave {' and '.join(given)} open, or give more time" if given else "give more time"
    return (
        f"WARNING: nothing fits well into {about(budget_seconds)}. The least there is, "
        f"{_at_size(least)}, takes {estimate_line(estimate, least.epochs)}; {way_out}"
    )


def _at_size(candidate: Candidate) -> str:
    return f"{mode_words(candidate)} at {candidate.size} px"
