"""SIGTERM, which `docker stop` and batch systems send, ends a verb as Ctrl-C does: what was begun
is removed, what is whole is kept."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Final, NoReturn

TERMINATED: Final = 143  # 128 + 15, as shells have it


class Terminated(KeyboardInterrupt):
    """Somebody else asked this process to end."""


def end_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated`. Does nothing outside the main thread, where Python
    knows no signals, or where another program has decided otherwise."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


def _raise(signal_number: int, frame: FrameType | None) -> NoReturn:
    # Sent once more, to the whole group say, it would break off the cleaning up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
