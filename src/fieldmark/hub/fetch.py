"""A file from the hub, and the config.json beside it: from the cache, or fetched now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fieldmark.errors import DownloadError
from fieldmark.hub.failures import HubError, Kind
from fieldmark.hub.library import (
    cache_of_library,
    fetch,
    find_copy,
    folder_of,
    is_known_to_be_absent,
    library,
    list_files,
    look_up,
    note_absence,
)
from fieldmark.hub.reference import PREFIX, Reference, parse_reference
from fieldmark.hub.verify import verified
from fieldmark.progress import Progress, Silent, size

CONFIG_FILE: Final = "config.json"
MAX_CONFIG_BYTES: Final = 1 << 20
MAX_LISTED: Final = 12


@dataclass(frozen=True)
class HubFile:
    """A verified file from the hub, in the library's cache.

    Attributes:
        path: the .safetensors file.
        config: what the repository's config.json holds; None where it has none, or (and then this
            is said) where it is not in the cache and the hub does not answer.
    """

    path: Path
    config: Mapping[str, Any] | None


def fetch_from_hub(reference: str, progress: Progress) -> HubFile:
    """The file that `hf:ORG/NAME[/FILE][@REVISION]` names, from the cache or fetched now.

    FILE is model.safetensors and REVISION is main unless they are given. A branch or tag is looked
    up on the hub, and taken from the cache if the hub does not answer within seconds; an exact
    commit that is in the cache is taken from there, and nobody is asked.

    Raises:
        DownloadError: not a reference; no such repository, revision or file; not allowed; the hub
            is away and the cache has no copy; the disk; a wrong hash. Says how to do it by hand.
    """
    wanted = parse_reference(reference)
    try:
        with library(progress) as cache:
            weights = _get_weights(wanted, cache, progress)
            return HubFile(weights.path, _get_config(wanted, weights, cache, progress))
    except HubError as failure:
        raise _error(wanted, failure) from failure


def is_cached(reference: str) -> bool:
    """`are_cached` of one reference."""
    return are_cached([reference])[0]


def are_cached(references: Sequence[str]) -> list[bool]:
    """For each reference: is its file in the cache?

    Quick for a thousand: the cache directory is listed once, and only the repositories that are in
    it are looked into. No network, no hashing; and False where anything is wrong.
    """
    with suppress(Exception):  # a list of models must not fail for a damaged cache
        cache = cache_of_library()
        folders = {folder.name for folder in cache.iterdir()}
        return [_is_in(cache, folders, reference) for reference in references]
    return [False] * len(references)


def _is_in(cache: Path, folders: set[str], reference: str) -> bool:
    with suppress(DownloadError, HubError):
        wanted = parse_reference(reference)
        if folder_of(wanted.repo) in folders:
            return find_copy(cache, wanted.repo, wanted.file, wanted.revision) is not None
    return False


@dataclass(frozen=True)
class _Found:
    """The weights in the cache, their commit, and whether the hub answered (None: not asked)."""

    path: Path
    commit: str
    hub_answered: bool | None


def _get_weights(wanted: Reference, cache: Path, progress: Progress) -> _Found:
    copy = find_copy(cache, wanted.repo, wanted.file, wanted.revision)
    if copy is not None and wanted.is_exact:
        return _Found(verified(copy, cache), wanted.revision, None)
    try:
        told = look_up(wanted.repo, wanted.file, wanted.revision, has_copy=copy is not None)
    except HubError as failure:
        if copy is None or not failure.kind.allows_copy:
            raise _with_more(wanted, failure, cache) from failure
        commit = _commit_of(copy, cache)
        progress.say(f"{wanted.repo}: {failure}; using the copy in the cache ({commit[:8]})")
        return _Found(verified(copy, cache), commit, False)
    if copy is None or _commit_of(copy, cache) != told.commit:
        copy = fetch(wanted.repo, wanted.file, wanted.revision, told, cache, progress)
    return _Found(verified(copy, cache, told.etag), _commit_of(copy, cache), True)


def _commit_of(copy: Path, cache: Path) -> str:
    """The library keeps a file as models--ORG--NAME/snapshots/COMMIT/FILE."""
    return copy.relative_to(cache).parts[2]


def _with_more(wanted: Reference, failure: HubError, cache: Path) -> HubError:
    """What the repository has instead of the file; or that the cache cannot help either."""
    if failure.kind is Kind.AWAY:
        problem = f"{failure}; and there is no copy in {cache}"
        return HubError(failure.kind, problem, *failure.steps)
    if failure.kind is not Kind.NO_FILE:
        return failure
    there = list_files(wanted.repo, wanted.revision)
    good = [name for name in there if name.endswith(".safetensors")]
    if good:
        shown = ", ".join(good[:MAX_LISTED]) + (", ..." if len(good) > MAX_LISTED else "")
        step = f"name one that it has, as in {PREFIX}{wanted.repo}/{good[0]}; it has {shown}"
    elif there:
        step = "it has no .safetensors file at all: take another repository"
    else:
        step = "look at the model's page on the hub for the names of its files"
    return HubError(failure.kind, str(failure), step)


def _get_config(
    wanted: Reference, weights: _Found, cache: Path, progress: Progress
) -> Mapping[str, Any] | None:
    """config.json of the same commit."""
    repo, commit = wanted.repo, weights.commit
    copy = find_copy(cache, repo, CONFIG_FILE, commit)
    if copy is None and is_known_to_be_absent(cache, repo, CONFIG_FILE, commit):
        return None
    if copy is None:
        try:
            if weights.hub_answered is False:
                raise HubError(Kind.AWAY, "the hub does not answer")
            copy = _fetch_config(repo, commit, cache)
        except HubError as failure:
            if weights.hub_answered or not failure.kind.allows_copy:
                raise
            progress.say(f"{repo}: {failure}; going on without its {CONFIG_FILE}")
    return None if copy is None else _read_config(verified(copy, cache))


def _fetch_config(repo: str, commit: str, cache: Path) -> Path | None:
    try:
        told = look_up(repo, CONFIG_FILE, commit, has_copy=True)
    except HubError as failure:
        if failure.kind is not Kind.NO_FILE:
            raise
        note_absence(cache, repo, CONFIG_FILE, commit)
        return None
    _check_config_size(told.size)
    return fetch(repo, CONFIG_FILE, commit, told, cache, Silent())


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        _check_config_size(path.stat().st_size)
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _odd_config(f"cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise _odd_config("is not a JSON object")
    return config


def _check_config_size(num_bytes: int | None) -> None:
    if num_bytes is not None and num_bytes > MAX_CONFIG_BYTES:
        raise _odd_config(f"has {size(num_bytes)}, and {size(MAX_CONFIG_BYTES)} are allowed")


def _odd_config(problem: str) -> HubError:
    return HubError(Kind.NO_FILE, f"its {CONFIG_FILE} {problem}", "tell whoever published it")


def _error(wanted: Reference, failure: HubError) -> DownloadError:
    steps = [
        *failure.steps,
        "or get it by hand: open this in a browser, on any machine,",
        f"  {wanted.address}",
        "and give the path of the file to --weights",
    ]
    return DownloadError(
        f"cannot get {wanted.file} from the hub: {failure}",
        given=wanted,
        fix=("\n" + " " * 10).join(steps),
    )
