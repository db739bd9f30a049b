"""What only a process of its own shows: Ctrl-C, a closed pipe, a full disk, two streams."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fieldmark
from fieldmark import api, cli

# A process started in the background of a script, as CI may be, inherits a SIGINT that is ignored.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from fieldmark.cli import main
main()
"""
FIELDMARK = (sys.executable, "-c", START)
TRAIN = (*FIELDMARK, "train", "--model", "resnet10", "--size", "32", "--device", "cpu")


@pytest.fixture
def photos(make_pictures: Callable[..., Path], tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "photos", {"cat": 10, "dog": 10})


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_model_so_far(photos: Path, tmp_path: Path) -> None:
    words = (*TRAIN, photos, "--epochs", "1000", "--name", "stopped")
    with subprocess.Popen(
        words, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " 2/1000 " in line:
                break
        else:
            pytest.fail(f"it ended by itself: {process.communicate()}")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    run = tmp_path / "runs" / "stopped"
    assert process.returncode == 130
    assert err == "stopped by Ctrl-C\n"
    assert out.splitlines()[-1] == "the best model so far is kept in runs/stopped/model.safetensors"
    history = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert len(history) >= 2
    assert (run / "curves.png").is_file()
    answer = fieldmark.load(run).predict(photos / "cat" / "000.png")
    assert answer.label in ("cat", "dog")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("models",), ("predict", "RUN", "PHOTOS", "--format", "csv")])
def test_closed_pipe_ends_quietly(
    tiny_run: fieldmark.Run, photos: Path, words: tuple[str, ...]
) -> None:
    """As in `fieldmark models | head -0`."""
    named = {"RUN": str(tiny_run.path), "PHOTOS": str(photos)}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*FIELDMARK, *(named.get(word, word) for word in words)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.slow
def test_answers_go_to_the_file_and_bars_to_the_terminal(
    tiny_run: fieldmark.Run, photos: Path, tmp_path: Path
) -> None:
    """`fieldmark predict ... > answers.json`, typed in a terminal."""
    screen, terminal = pty.openpty()
    words = (*FIELDMARK, "predict", tiny_run.path, photos, "--format", "json")
    with (tmp_path / "answers.json").open("w") as file:
        done = subprocess.run(words, stdout=file, stderr=terminal, check=False)
    os.close(terminal)
    shown = os.read(screen, 100_000).decode()
    os.close(screen)
    assert done.returncode == 0
    assert len(json.loads((tmp_path / "answers.json").read_text())) == 20
    assert "classifying" in shown
    assert "cat" not in shown


@pytest.mark.parametrize("num_left", [0, 9])
def test_streamed_pictures_that_vanish_end_the_training_with_their_name(
    verb: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_left: int
) -> None:
    """With nothing left there was a traceback; with some left, a batch of one, or silence."""
    write_history = api.write_history

    def write_and_lose(run: Any, history: Any) -> None:
        write_history(run, history)
        for path in sorted(photos.glob("*/*.png"))[num_left:]:
            path.unlink(missing_ok=True)

    monkeypatch.setattr(api, "write_history", write_and_lose)
    words = ("--model", "resnet10", "--size", 32, "--epochs", 3, "--device", "cpu")
    done = verb("train", photos, *words, "--set", "data.cache=none", "--out", "run")
    assert done.code == 2
    assert "a picture that was there can no longer be read: no such file" in done.err
    assert str(photos) in done.err
    assert "the best model so far is kept in run/model.safetensors" in done.out
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_names_in_any_script_get_through_where_the_region_knows_other_letters(
    make_pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """As on Windows with the output sent to a file: the encoding is not UTF-8."""
    photos = make_pictures(tmp_path / "photos", {"蚂蚁": 10, "蜜蜂": 10})
    western = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    for words in (
        (*TRAIN, photos, "--epochs", "1", "--name", "run"),
        (*FIELDMARK, "evaluate", "run"),
        (*FIELDMARK, "predict", "run", photos),
        (*FIELDMARK, "predict", "run", photos, "--format", "csv"),
    ):
        done = subprocess.run(words, cwd=tmp_path, env=western, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert "蚂蚁" in done.stdout.decode("utf-8")


def test_a_terminal_keeps_its_encoding_and_shows_other_letters_as_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Screen(io.BytesIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, "cp1252"))
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    monkeypatch.setattr(cli, "app", lambda: sys.stdout.write("é 蚁"))
    cli.main()
    sys.stdout.flush()
    assert screen.getvalue() == b"\xe9 \\u8681"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds tables and pictures, but no model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    try:
        refused = subprocess.run(mount, capture_output=True, check=False).returncode
    except OSError:
        refused = 1
    if refused:
        pytest.skip("no small disk can be mounted here (root alone may)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_said_and_leaves_no_half_of_a_model(
    verb: Any, photos: Path, small_disk: Path
) -> None:
    words = ("--model", "resnet10", "--size", 32, "--epochs", 1, "--device", "cpu")
    done = verb("train", photos, *words, "--out", small_disk / "run")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "No space left on device" in done.err
    assert "free space" in done.err
    assert "is kept" not in done.out
    left = sorted(path.name for path in (small_disk / "run").iterdir())
    assert "model.safetensors" not in left
    assert not [name for name in left if name.startswith(".")]
    assert "history.csv" in left


# What keeps a verb busy for a while, once its hidden folder is there.
SLOW = """
import time
from fieldmark import {module} as module
def sleepy(*words, **more):
    print("begun", flush=True)
    time.sleep(60)
module.{function} = sleepy
from fieldmark.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process at once")
@pytest.mark.parametrize(
    ("words", "module", "function"),
    [
        (("split", "photos", "out"), "partition", "_write_origins"),
        (("check", "photos", "--out", "out"), "inspection", "write_check_page"),
    ],
    ids=["split", "check"],
)
def test_sigterm_leaves_nothing_behind(
    photos: Path, tmp_path: Path, words: tuple[str, ...], module: str, function: str
) -> None:
    """As `docker stop` and batch systems end a process."""
    program = SLOW.format(module=module, function=function)
    with subprocess.Popen(
        (sys.executable, "-c", program, *words),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "begun\n":
                break
        else:
            pytest.fail(f"it ended by itself: {process.communicate()}")
        assert [path for path in tmp_path.iterdir() if path.name.startswith(".out.")]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "stopped by SIGTERM\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_sigterm_is_taken_over_only_where_nobody_else_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(cli, "app", lambda: found.append(signal.getsignal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        cli.main()
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "else cleaning up may break off"
        cli.main()  # as under nohup
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        thread = threading.Thread(target=cli.main)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [handler, signal.SIG_IGN, signal.SIG_DFL]
