"""Several ways of training one network, compared on the same pictures; and what to do then.

Choosing is done on the validation part. The test part is looked at once for each mode, to say how
good it is and whether the best by validation is better than the others by more than luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.evaluation.paired import FEWEST_DISCORDANT, SIGNIFICANT, Paired, holm, mcnemar
from fieldmark.evaluation.tables import csv_text
from fieldmark.progress import duration
from fieldmark.types import Estimate

NOTES: Final = (
    "The best mode is chosen by validation accuracy (among equals by validation loss). The test "
    "part is looked at once for each mode, after that, and chooses nothing.",
    "p is that of the exact McNemar test against the best on the same test pictures; beside it how "
    "many are discordant, that is right in one of the two alone. Each mode was trained once: other "
    "seeds may put modes that are close in another order.",
    "Time: of this run. A mode whose features an earlier run has stored takes less than it would "
    "alone.",
)
MUCH_QUICKER: Final = 0.5  # of the best mode's time


@dataclass(frozen=True, slots=True)
class ModeResult:
    """One mode of a comparison.

    Attributes:
        mode: scratch, frozen, partial or finetune.
        run: its run directory.
        failed: why it has no figures; empty where it has.
        test: accuracy on the test part.
        num_val, val_accuracy, val_loss: of the kept epoch, on the part that chooses.
        seconds: the whole run; pictures that another mode has decoded already are not counted.
        num_trainable: parameters that trained.
        peak_bytes: memory at its fullest; None where nobody looked.
        kept_epoch: the epoch whose weights were kept; 0 is the head that came first.
        paired: this mode beside the best one; None for the best itself.
    """

    mode: str
    run: str
    failed: str = ""
    test: Estimate | None = None
    num_val: int = 0
    val_accuracy: float = 0.0
    val_loss: float = 0.0
    seconds: float = 0.0
    num_trainable: int = 0
    peak_bytes: int | None = None
    kept_epoch: int | None = None
    paired: Paired | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of a mode that failed, the reason alone."""
        if self.failed:
            return {"mode": self.mode, "run": self.run, "failed": self.failed}
        values = asdict(self)
        values["paired"] = self.paired.to_dict() if self.paired else None
        return values


def best_of(results: Sequence[ModeResult]) -> ModeResult | None:
    """The best finished mode by validation accuracy, then loss, then the order given."""
    finished = [result for result in results if not result.failed]
    return max(finished, key=lambda r: (r.val_accuracy, -r.val_loss), default=None)


def pair_with_best(
    results: Sequence[ModeResult], correct: Mapping[str, NDArray[np.bool_]]
) -> tuple[ModeResult, ...]:
    """The results, each finished one beside the best.

    Args:
        correct: for each finished mode, (n,) whether each test picture was answered rightly; the
            same pictures in the same order for all.
    """
    best = best_of(results)
    if best is None:
        return tuple(results)
    return tuple(
        replace(r, paired=None)
        if r.failed or r is best
        else replace(r, paired=mcnemar(correct[r.mode], correct[best.mode]))
        for r in results
    )


def advise(results: Sequence[ModeResult]) -> tuple[str, ...]:
    """Which mode to go on with and why, in sentences that claim no more than p shows."""
    best = best_of(results)
    if best is None:
        return ("No mode could be trained.",)
    others = [r for r in results if r.paired is not None]
    if not others:
        return (f"Only {best.mode} was trained: there is nothing to compare it with.",)
    said = [_why(best, others)]
    if unmoved := [r.mode for r in (best, *others) if r.kept_epoch == 0]:
        said.append(
            f"{_and(unmoved)} kept the head that came first (epoch 0): training more of the "
            "network improved nothing on validation, so what was kept is a frozen network. More "
            "epochs or a lower --lr may change that."
        )
    adjusted = holm([r.paired.p_value for r in others if r.paired])
    shown = [r for r, p in zip(others, adjusted, strict=True) if p < SIGNIFICANT]
    open_ones = [r for r in others if r not in shown]
    if worse := [r for r in shown if r.paired and r.paired.difference < 0]:
        said.append(f"The test part bears that out against {_each(worse)}.")
    if better := [r for r in shown if r.paired and r.paired.difference > 0]:
        said.append(
            f"But on the test part {_each(better)} did better than {best.mode}: the "
            f"{best.num_val} validation pictures may have chosen by luck. Train both again with "
            "other seeds, or with more pictures in val, before you decide."
        )
    if open_ones:
        said.append(_no_difference(best, open_ones))
    quicker = [r for r in open_ones if r.seconds <= MUCH_QUICKER * best.seconds]
    if quicker:
        quickest = min(quicker, key=lambda r: r.seconds)
        said.append(
            f"{quickest.mode} took {duration(quickest.seconds)} where {best.mode} took "
            f"{duration(best.seconds)}: enough for trying things out."
        )
    return tuple(said)


def _why(best: ModeResult, others: Sequence[ModeResult]) -> str:
    text = (
        f"Go on with {best.mode}: it has {best.val_accuracy:.1%} of the {best.num_val} validation "
        "pictures right, "
    )
    if tied := [r.mode for r in others if r.val_accuracy == best.val_accuracy]:
        return f"{text}as many as {_and(tied)}, at the lowest loss."
    second = max(others, key=lambda r: (r.val_accuracy, -r.val_loss))
    ahead = round((best.val_accuracy - second.val_accuracy) * best.num_val)
    luck = f" (fewer than {FEWEST_DISCORDANT} may well be luck)" * (ahead < FEWEST_DISCORDANT)
    return f"{text}{ahead} more than {second.mode}{luck}."


def _no_difference(best: ModeResult, open_ones: Sequence[ModeResult]) -> str:
    pairs = [r.paired for r in open_ones if r.paired]
    text = (
        f"Against {_each(open_ones)} the {pairs[0].n} test pictures show no difference, which does "
        "not mean that there is none: "
    )
    ranges = [
        f"{r.mode} may be up to {max(0.0, -p.low):.1%} worse or {max(0.0, p.high):.1%} better"
        for r, p in zip(open_ones, pairs, strict=True)
    ]
    text += "; ".join(ranges) + " (95 % interval)."
    if few := [r for r, p in zip(open_ones, pairs, strict=True) if _shows_nothing(p)]:
        text += (
            f" {_and([r.mode for r in few])} and {best.mode} disagree on fewer than "
            f"{FEWEST_DISCORDANT} pictures, too few for any test: it takes more test pictures."
        )
    return text


def _shows_nothing(paired: Paired) -> bool:
    return paired.num_discordant < FEWEST_DISCORDANT


def _each(results: Sequence[ModeResult]) -> str:
    return _and([f"{r.mode} ({p_words(r.paired.p_value)})" for r in results if r.paired])


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def p_words(p_value: float) -> str:
    """`p = 0.34`; never 0, which no test can give."""
    if p_value < 0.001:
        return "p < 0.001"
    if p_value >= 0.995:
        return "p = 1"
    return f"p = {p_value:.2f}" if p_value >= 0.1 else f"p = {p_value:.2g}"


def comparison_csv(results: Sequence[ModeResult]) -> str:
    """A row a mode. `only_this`, `only_best`: test pictures that one of the two alone has right."""
    header = [
        *("mode", "run", "best", "test_accuracy", "test_low", "test_high", "num_test"),
        *("val_accuracy", "val_loss", "difference", "difference_low", "difference_high"),
        *("only_this", "only_best", "p_value", "seconds", "trainable_parameters"),
        *("peak_memory_bytes", "kept_epoch", "failed"),
    ]
    best = best_of(results)
    rows: list[list[object]] = []
    for r in results:
        row: list[object] = [r.mode, r.run, str(r is best).lower()]
        if r.failed or r.test is None:
            rows.append([*row, *[""] * (len(header) - 4), r.failed])
            continue
        p = r.paired
        row += [r.test.value, r.test.low, r.test.high, r.test.n, r.val_accuracy, r.val_loss]
        row += [p.difference, p.low, p.high] if p else [""] * 3
        row += [p.num_a_only, p.num_b_only, p.p_value] if p else [""] * 3
        row += [f"{r.seconds:.1f}", r.num_trainable]
        row += ["" if each is None else each for each in (r.peak_bytes, r.kept_epoch)]
        rows.append([*row, ""])
    return csv_text([header, *rows])
