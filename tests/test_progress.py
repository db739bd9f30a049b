from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fieldmark import progress
from fieldmark.progress import Lines, Silent, Terminal, console_progress, duration, size

# Class and file names come as they are; none of these may change or break what is shown.
AWKWARD = "[red]ants[/] [/b] :bee: {task} %s 蚂蚁"


def watched(console_type: type[Terminal] | type[Lines]) -> tuple[Terminal | Lines, io.StringIO]:
    screen = io.StringIO()
    is_terminal = console_type is Terminal
    return console_type(Console(file=screen, force_terminal=is_terminal, width=120)), screen


class Clock:
    """Stands in for the time module: time passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_tell_now_and_then_how_far_and_how_long(clock: Clock) -> None:
    lines, screen = watched(Lines)
    with lines.task("decoding", 300) as task:
        for _ in range(100):  # half a second a picture: 100 s are left after 50 s
            clock.now += 0.5
            task.advance(note="loss 0.31")
    said = screen.getvalue().splitlines()
    assert said == [
        "decoding: 30/300, about 2 min 15 s left, loss 0.31",
        "decoding: 60/300, about 2 min 00 s left, loss 0.31",
        "decoding: 90/300, about 1 min 45 s left, loss 0.31",
    ]


def test_short_jobs_leave_no_lines(clock: Clock) -> None:
    lines, screen = watched(Lines)
    with lines.task("decoding", 10) as task:
        clock.now += 14
        task.advance(10)
    assert screen.getvalue() == ""


def test_a_slow_start_with_nothing_done_yet_is_no_division_by_zero(clock: Clock) -> None:
    lines, screen = watched(Lines)
    with lines.task("decoding", 10) as task:
        clock.now += 60
        task.advance(0, note="opening")
        assert screen.getvalue() == ""
        task.advance()
    assert screen.getvalue() == "decoding: 1/10, about 9 min 00 s left\n"


def test_bytes_are_counted_as_sizes_and_what_was_there_before_is_no_speed(clock: Clock) -> None:
    lines, screen = watched(Lines)
    with lines.task("model.pth", 100_000_000, done=60_000_000, in_bytes=True) as task:
        clock.now += 20
        task.advance(10_000_000)  # 10 MB in 20 s: 30 MB are left
    assert screen.getvalue() == "model.pth: 70.0 MB/100.0 MB, about 1 min 00 s left\n"


def test_a_total_that_nobody_knows_is_no_time_left(clock: Clock) -> None:
    lines, screen = watched(Lines)
    with lines.task("model.pth", None, in_bytes=True) as task:
        clock.now += 20
        task.advance(1_500, note="slow")
    assert screen.getvalue() == "model.pth: 1.5 kB, slow\n"


@pytest.mark.parametrize("total", [100_000_000, None])
def test_a_bar_of_bytes_begins_with_what_is_there(total: int | None) -> None:
    terminal, screen = watched(Terminal)
    with terminal.task("model.pth", total, done=60_000_000, in_bytes=True) as task:
        task.advance(10_000_000)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert ("70.0/100.0 MB" if total else "70.0/? MB") in plain


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 bytes"),
        (949, "949 bytes"),
        (1_000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_999, "1.0 MB"),
        (97_800_000, "97.8 MB"),
        (5_250_000_000, "5.2 GB"),
    ],
)
def test_sizes_are_for_people(num_bytes: int, shown: str) -> None:
    assert size(num_bytes) == shown


@pytest.mark.parametrize("console_type", [Terminal, Lines])
def test_text_is_shown_as_it_is(console_type: type[Terminal] | type[Lines], clock: Clock) -> None:
    reporter, screen = watched(console_type)
    reporter.say(AWKWARD)
    assert screen.getvalue() == AWKWARD + "\n"
    with reporter.task(AWKWARD, 2) as task:
        clock.now += 20
        task.advance(note=AWKWARD)
    assert screen.getvalue().count(AWKWARD) >= 2


def test_a_long_line_stays_one_line_in_a_pipe() -> None:
    lines, screen = watched(Lines)
    lines.say("x" * 500)
    assert screen.getvalue() == "x" * 500 + "\n"


def test_a_bar_counts_and_lines_scroll_above_it() -> None:
    terminal, screen = watched(Terminal)
    with terminal.task("decoding", 4) as task:
        task.advance(3, note="loss 0.31")
        terminal.say("epoch 1 is done")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "3/4" in plain
    assert "loss 0.31" in plain
    assert "epoch 1 is done" in plain.splitlines()


@pytest.mark.parametrize("console_type", [Terminal, Lines])
def test_one_task_inside_another(console_type: type[Terminal] | type[Lines]) -> None:
    reporter, _ = watched(console_type)
    with reporter.task("epochs", 2) as outer, reporter.task("validation", 3) as inner:
        inner.advance(3)
        outer.advance()


def test_silent_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.say("anything")
    with silent.task("decoding", 3) as task:
        task.advance(2, note="loss")
    assert capfd.readouterr() == ("", "")


def test_a_pipe_gets_lines_and_never_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(console_progress(), Lines)  # pytest's capture is no terminal
    console_progress(stderr=True).say("a warning")
    assert capsys.readouterr() == ("", "a warning\n")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (48, "48 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@given(st.floats(0, 1e7))
def test_a_duration_is_never_off_by_more_than_its_last_digit(seconds: float) -> None:
    units = {"s": 1, "min": 60, "h": 3600}
    parts = re.findall(r"(\d+) (s|min|h)", duration(seconds))
    told = sum(int(number) * units[unit] for number, unit in parts)
    assert abs(told - seconds) <= (0.5 if parts[-1][1] == "s" else 60)
    assert all(int(number) < 60 for number, unit in parts if unit != "h")


def test_bars_leave_stdout_to_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    """`fieldmark predict ... > answers.csv`: the bars are on stderr, a terminal."""
    bars, screen = watched(Terminal)
    with bars.task("classifying", 2) as task:
        print("a.jpg,ants,0.9")  # noqa: T201
        task.advance(2)
    assert capsys.readouterr().out == "a.jpg,ants,0.9\n"
    assert "a.jpg" not in screen.getvalue()
