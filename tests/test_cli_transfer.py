"""`fieldmark transfer` as people meet it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fieldmark import cli, comparison
from fieldmark.assembly.mode_runs import Comparison
from fieldmark.cli import transfer as transfer_verb
from fieldmark.evaluation.modes import NOTES, ModeResult
from fieldmark.evaluation.paired import Paired
from fieldmark.printing_modes import print_comparison
from fieldmark.types import Estimate

Verb = Callable[..., Any]  # see conftest.py

PAIRED = Paired(
    difference=-0.3, low=-0.4, high=-0.2, num_a_only=2, num_b_only=47, p_value=1e-9, n=153
)
ROWS = (
    ModeResult(
        *("scratch", "runs/x/scratch"),
        test=Estimate(0.667, 0.589, 0.737, 153),
        seconds=75.0,
        num_trainable=2_226_434,
        peak_bytes=1_234_000_000,
        paired=PAIRED,
    ),
    ModeResult(
        *("frozen", "runs/x/frozen"),
        test=Estimate(0.961, 0.917, 0.982, 153),
        seconds=12.0,
        num_trainable=2562,
    ),
    ModeResult("finetune", "runs/x/finetune", failed="there is not enough memory"),
)
DONE = Comparison(Path("runs/x"), ROWS, "frozen", NOTES, ("Go on with frozen.", "For a reason."))


@pytest.fixture(autouse=True)
def known_verb() -> None:
    names = [command.callback.__name__ for command in cli.app.registered_commands]  # type: ignore[union-attr]
    if "transfer" not in names:
        cli.app.command(epilog=transfer_verb.EXAMPLE)(transfer_verb.transfer)


def lines_of(out: str, heading: str) -> list[list[str]]:
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(heading))
    return [" ".join(line.split()).split(" ") for line in lines[start : start + 4]]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(ROWS, "frozen", NOTES, DONE.advice)
    out = capsys.readouterr().out
    heading, scratch, frozen, finetune = (" ".join(line) for line in lines_of(out, "mode"))
    assert heading == "mode test accuracy against frozen time trained memory"
    assert scratch == ("scratch 0.667 (0.589-0.737) p < 0.001 (49) 1 min 15 s 2.2 M 1.2 GB")
    assert frozen == "frozen 0.961 (0.917-0.982) the best 12 s 2,562 -"
    assert finetune == "finetune failed"
    assert "finetune: there is not enough memory" in out
    assert out.rstrip().endswith("Go on with frozen. For a reason.")


def test_it_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    print_comparison((*ROWS, replace(ROWS[0], mode="finetune", seconds=4000.0)), "finetune", (), ())
    out = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert "p < 0.001 (49)" in out
    assert "1 h 06 min" in out
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines())) <= 80


def test_words_reach_the_call_and_the_next_step_names_the_best(
    verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def compare(source: str, **words: Any) -> Comparison:
        calls.append((source, {k: v for k, v in words.items() if v not in (None, {})}))
        return DONE

    monkeypatch.setattr(comparison, "compare_modes", compare)
    done = verb(
        *("transfer", "photos", "--model", "resnet18", "--modes", "frozen, finetune"),
        *("--freeze-through", "layer2", "--epochs", 3, "--set", "transfer.views=4"),
    )
    assert done.code == 0, done.err
    source, words = calls[0]
    del words["progress"]
    assert source == "photos"
    assert words == {
        "model": "resnet18",
        "modes": ["frozen", "finetune"],
        "freeze_through": "layer2",
        "epochs": 3,
        "settings": {"transfer.views": 4},
    }
    assert "Look at runs/x/error_curves.png, comparison.csv" in done.out
    assert "predict runs/x/frozen PICTURES" in done.out


def test_help_has_an_example(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = verb("transfer", "--help")
    assert done.code == 0
    assert "fieldmark transfer photos/" in done.out[done.out.index("Example") :]
    assert "--modes" in done.out


def test_what_can_be_put_right_is_said_without_a_trace(verb: Verb, make_pictures: Any) -> None:
    make_pictures(Path("photos"), {"cat": 10, "dog": 10})
    words = ("--model", "resnet18", "--device", "cpu", "--weights", "none")
    done = verb("transfer", "photos", *words, "--modes", "frozen")
    assert done.code == 2
    assert "frozen start from trained weights" in done.err
    assert "--weights imagenet" in done.err
    done = verb("transfer", "photos", *words, "--modes", "frozne")
    assert done.code == 2
    assert "did you mean 'frozen'" in done.err
