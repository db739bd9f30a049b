"""The only place that talks to `huggingface_hub`.

Files come over plain HTTP, not over Xet, the hub's own protocol: that one asks hosts which mirrors
and firewalls do not know, and neither its stalls nor its failures keep to the time-outs promised
here. At the size of such weights it would gain little.
"""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fieldmark.hub.failures import ROOM, HubError, Kind, explain, host, is_timeout
from fieldmark.progress import Progress, Task, size

LOOKUP_SECONDS_WITH_COPY: Final = 4.0  # with a copy at hand nobody should wait long for news
ATTEMPTS_TO_LOOK_UP: Final = 2
ATTEMPTS_TO_FETCH: Final = 5  # after a break; the library itself takes up some breaks, not all
PAUSE_SECONDS: Final = 1.0
SWITCHED_OFF: Final = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")  # no telemetry, ever


@dataclass(frozen=True)
class Told:
    """What the hub says of a file: its version, its hash and its size in bytes.

    `etag` is the sha256 of a large file and the sha1 that git gives a small one; the library
    calls the file in its cache so.
    """

    commit: str
    etag: str
    size: int | None


@contextmanager
def library(progress: Progress) -> Iterator[Path]:
    """huggingface_hub, kept off the screen, off Xet and from telling who asks; gives its cache
    directory.

    Its warnings and log lines are for programmers; the two that a user should hear are said.

    Raises:
        HubError: it cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import huggingface_hub.utils.logging  # puts its handler in place now, not later
            from huggingface_hub import constants
        except (ImportError, ValueError) as error:  # as with HF_HUB_ETAG_TIMEOUT=soon
            raise HubError(
                Kind.HERE,
                f"the library huggingface_hub cannot be loaded: {error}",
                "check the variables that `env | grep HF_` shows; `pip install huggingface-hub`",
            ) from error
        log = logging.getLogger(huggingface_hub.__name__)
        before = log.handlers, log.propagate, log.level
        switches = {name: getattr(constants, name) for name in SWITCHED_OFF}
        log.handlers, log.propagate = [_InOurWords(progress)], False
        log.setLevel(logging.INFO)
        for name in SWITCHED_OFF:
            setattr(constants, name, True)
        try:
            yield cache_of_library()
        finally:
            log.handlers, log.propagate, level = before
            log.setLevel(level)
            for name, value in switches.items():
                setattr(constants, name, value)


def cache_of_library() -> Path:
    """Where its files lie: HF_HUB_CACHE, else `hub` in HF_HOME, else ~/.cache/huggingface/hub."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of variables that it no longer knows
        from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def folder_of(repo: str) -> str:
    """What the library calls the folder of a repository in its cache."""
    return "models--" + repo.replace("/", "--")


def find_copy(cache: Path, repo: str, file: str, revision: str) -> Path | None:
    """The file in the cache; of a branch, what it was when it was last looked up.

    Raises:
        HubError: the cache cannot be read.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repo, file, cache_dir=cache, revision=revision)
    except (OSError, ValueError) as error:
        raise HubError(Kind.HERE, f"cannot read the cache in {cache}: {error}", ROOM) from error
    return Path(found) if isinstance(found, str) else None


def is_known_to_be_absent(cache: Path, repo: str, file: str, commit: str) -> bool:
    """The hub has said before that this commit has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    with suppress(OSError, ValueError):
        found = try_to_load_from_cache(repo, file, cache_dir=cache, revision=commit)
        return found is _CACHED_NO_EXIST
    return False


def look_up(repo: str, file: str, revision: str, *, has_copy: bool) -> Told:
    """Ask the hub, without fetching. With a copy at hand: once, and not for long.

    Raises:
        HubError: no such thing, not allowed, or the hub is away.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    wait_seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
    if has_copy:
        wait_seconds = min(wait_seconds, LOOKUP_SECONDS_WITH_COPY)
    url = hf_hub_url(repo, file, revision=revision)
    for attempt in range(1, ATTEMPTS_TO_LOOK_UP + 1):
        try:
            told = get_hf_file_metadata(url, timeout=wait_seconds)
        except Exception as error:  # its HTTP library, and so its errors, have changed twice
            failure = explain(error, wait_seconds)
            if has_copy or failure.kind is not Kind.AWAY or attempt == ATTEMPTS_TO_LOOK_UP:
                raise failure from error
            time.sleep(PAUSE_SECONDS)
        else:
            break
    if told.commit_hash is None or told.etag is None:
        problem = f"{host()} answers, but not as a hub does"
        step = "perhaps this network wants a login in a browser first; or check HF_ENDPOINT"
        raise HubError(Kind.AWAY, problem, step)
    return Told(told.commit_hash, told.etag, told.size)


def fetch(repo: str, file: str, revision: str, told: Told, cache: Path, progress: Progress) -> Path:
    """Have the library put the file into its cache, if it is not there.

    Raises:
        HubError: it does not arrive, or cannot be written.
    """
    from huggingface_hub import constants, hf_hub_download

    if not (
        cache / folder_of(repo) / "blobs" / told.etag
    ).exists():  # as when another commit has it
        _check_room(cache, told.size)
    for attempt in range(1, ATTEMPTS_TO_FETCH + 1):
        try:
            got = hf_hub_download(
                repo,
                file,
                revision=revision,
                cache_dir=cache,
                etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
                tqdm_class=_bar_class(progress, f"{repo.rpartition('/')[2]}/{file}"),
            )
            return Path(got)
        except Exception as error:  # as above
            failure = explain(error, constants.HF_HUB_DOWNLOAD_TIMEOUT)
            if failure.kind is not Kind.AWAY or is_timeout(error) or attempt == ATTEMPTS_TO_FETCH:
                raise failure from error
            progress.say(f"{repo}: {failure}; once more")
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def note_absence(cache: Path, repo: str, file: str, commit: str) -> None:
    """Let the library ask once more for what is not there: then its cache knows for ever."""
    from huggingface_hub import hf_hub_download

    with suppress(Exception):
        hf_hub_download(repo, file, revision=commit, cache_dir=cache)


def list_files(repo: str, revision: str) -> list[str]:
    """The names of the files in a repository; none where the hub does not say."""
    from huggingface_hub import HfApi, constants

    with suppress(Exception):
        wait_seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
        about = HfApi().model_info(repo, revision=revision, timeout=wait_seconds)
        return [sibling.rfilename for sibling in about.siblings or ()]
    return []


class _InOurWords(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "Trying to resume" in text:
            self.progress.say("the connection to the hub broke; going on from where it ended")
        elif "waiting to acquire lock" in text:
            self.progress.say("another process is fetching the same file; waiting for it")


def _bar_class(progress: Progress, title: str) -> Any:
    """What the library takes for a class of progress bars; it reports to `progress`."""

    class Bar:
        def __init__(self, *, total: float | None = None, initial: float = 0, **_: object) -> None:
            whole = None if total is None else int(total)
            self.opened: AbstractContextManager[Task] = progress.task(
                title, whole, done=int(initial), in_bytes=True
            )

        def __enter__(self) -> Bar:
            self.task = self.opened.__enter__()
            return self

        def __exit__(self, *why: Any) -> None:
            self.opened.__exit__(*why)

        def update(self, count: float | None = 1) -> None:
            self.task.advance(int(count or 0))

    return Bar


def _check_room(cache: Path, needed: int | None) -> None:
    there = next((p for p in (cache, *cache.parents) if p.exists()), None)
    if there is None or needed is None:
        return
    with suppress(OSError):
        free = shutil.disk_usage(there).free
        if free < needed:
            problem = f"the disk is too full: {size(needed)} to come, {size(free)} free in {cache}"
            raise HubError(Kind.HERE, problem, ROOM)
