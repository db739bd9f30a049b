"""Data sets of the Hugging Face hub, through its library `datasets`: `hf:ORG/NAME`.

The library keeps them as Arrow files in a cache of its own; a sample is a row of one. Nothing of
theirs is run: `datasets` 4 has done away with the programs that older data sets came with.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fieldmark.data.manifest import Manifest, build_manifest
from fieldmark.data.sources.candidates import PART_WORDS, counted, merge_duplicates
from fieldmark.data.sources.growth import watched
from fieldmark.data.sources.hf_columns import Columns, choose_columns, read_rows
from fieldmark.errors import SourceError
from fieldmark.hub.failures import HubError, Kind, explain
from fieldmark.hub.library import cache_of_library, library
from fieldmark.progress import Progress, size
from fieldmark.types import LeftOut, Part, Sample

PREFIX: Final = "hf:"
VALID: Final = (
    "hf:ORG/NAME, hf:ORG/NAME:CONFIG, hf:ORG/NAME@REVISION; behind it, with commas, "
    "image=COLUMN, label=COLUMN, split=SPLIT; or hf:FOLDER that `datasets` can read"
)
_WORDS: Final = ("image", "label", "split")
_LOOKUP_SECONDS: Final = 10.0
_REPO: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME: Final = re.compile(rf"(?P<repo>{_REPO})(:(?P<config>[^@:,]+))?(@(?P<revision>[^@:,]+))?")


@dataclass(frozen=True)
class HubSource:
    """`hf:...`, taken apart. `path`: a name on the hub, or a folder on this machine."""

    text: str
    path: str
    is_local: bool
    config: str | None = None
    revision: str | None = None
    image: str | None = None
    label: str | None = None
    split: str | None = None


def parse_hub_source(text: str) -> HubSource:
    """Raises SourceError: not `hf:` with a name, or words that it does not know."""
    name, *words = text.removeprefix(PREFIX).split(",")
    given = dict(word.partition("=")[::2] for word in words)
    unknown = [word for word in given if word not in _WORDS or not given[word]]
    if not unknown and (found := _folder_of(name)):
        return HubSource(text, found[0], True, config=found[1], **given)
    match = _NAME.fullmatch(name)
    if match is None or unknown:
        raise SourceError(
            f"no such word behind a data set's name: {unknown[0]!r}"
            if unknown
            else "no data set on the hub can have this name, and no folder here has it",
            given=text,
            valid=VALID,
            fix="copy the name from the head of its page on huggingface.co/datasets, "
            "as in hf:uoft-cs/cifar100,label=fine_label",
        )
    return HubSource(text, match["repo"], False, match["config"], match["revision"], **given)


def _folder_of(name: str) -> tuple[str, str | None] | None:
    """A folder on this machine, and the configuration behind it."""
    before, _, behind = name.rpartition(":")
    for folder, config in ((name, None), (before, behind)):
        # Not Path.expanduser, which raises for the home of somebody who does not exist.
        path = Path(os.path.expanduser(folder))  # noqa: PTH111
        if folder and path.is_dir():
            return str(path.resolve()), config
    return None


def scan_hub(text: str, progress: Progress) -> Manifest:
    """The labelled pictures of a data set on the hub, its splits as parts.

    Raises:
        SourceError: `datasets` is not installed, no such data set, no way to it, or its columns
            do not say which are the pictures and which the labels.
    """
    source = parse_hub_source(text)
    with _datasets(progress):
        splits, columns = _load(source, progress)
        return _manifest(source, splits, columns, progress)


@contextmanager
def _datasets(progress: Progress) -> Iterator[None]:
    """The library, silent, and telling nobody who uses it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(library(progress))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            import datasets
            import pyarrow  # noqa: F401 - what reads the pictures afterwards
            from huggingface_hub import utils as hub_utils
        except ImportError as error:
            raise SourceError(
                "data sets of the Hugging Face hub are read by the library `datasets`, which is "
                "not installed",
                given=str(error),
                fix="pip install 'fieldmark[datasets]'",
            ) from error
        except HubError as error:
            raise SourceError(str(error), fix="; ".join(error.steps)) from error
        counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
        is_offline = datasets.config.HF_HUB_OFFLINE
        level = datasets.logging.get_verbosity()
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        utils: Any = hub_utils  # which does not say that it has these functions
        with_bars: list[tuple[Any, bool]] = [
            (datasets, datasets.is_progress_bar_enabled()),
            (utils, not utils.are_progress_bars_disabled()),
        ]
        for place, _ in with_bars:
            place.disable_progress_bars()
        try:
            yield
        finally:
            datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
            datasets.config.HF_HUB_OFFLINE = is_offline
            datasets.logging.set_verbosity(level)
            for place, had in with_bars:
                if had:
                    place.enable_progress_bars()


def _load(source: HubSource, progress: Progress) -> tuple[Mapping[str, Any], Columns]:
    """The splits, and the columns that were chosen, before anything is downloaded if the data set
    tells them beforehand."""
    import datasets

    failure = None if source.is_local else _look_up(source)
    saved = Path(source.path) if source.is_local else None
    try:
        if saved and any((saved / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(source.path)
            splits = loaded if isinstance(loaded, dict) else {"": loaded}
        else:
            if failure is not None:  # asking again would take long, and change nothing
                datasets.config.HF_HUB_OFFLINE = True
            builder = datasets.load_dataset_builder(
                source.path, name=source.config, revision=source.revision
            )
            if builder.info.features:
                choose_columns(source, builder.info.features)
            if not source.is_local and not Path(builder.cache_dir).is_dir():
                _say_what_comes(source, builder, progress)
            with watched(_folder_in_hub_cache(source), "fetching", _amount(builder), progress):
                builder.download_and_prepare()
            splits = builder.as_dataset()
    except SourceError:
        raise
    except Exception as error:  # those of its HTTP library, of Arrow, of the disk, its own
        raise _error(source, error, failure) from error
    if source.split is not None and source.split not in splits:
        raise SourceError(
            "the data set has no such split",
            given=f"{source.text}: {source.split}",
            valid=list(splits),
            fix="take one of the valid words, or leave split= out",
        )
    wanted = {name: splits[name] for name in splits if source.split in (None, name)}
    return wanted, choose_columns(source, next(iter(wanted.values())).features)


def _look_up(source: HubSource) -> HubError | None:
    """Ask the hub whether it has the data set and lets us read it: its answer is clearer than what
    `datasets` makes of it. An answer that a copy in the cache may stand against is returned.

    Raises:
        SourceError: there is no such revision.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(source.path, revision=source.revision, timeout=_LOOKUP_SECONDS)
    except Exception as error:  # its HTTP library, and so its errors, have changed twice
        failure = explain(error, _LOOKUP_SECONDS)
        if not failure.kind.allows_copy:
            raise _in_our_words(source, failure) from error
        return failure
    return None


def _say_what_comes(source: HubSource, builder: Any, progress: Progress) -> None:
    import datasets

    told = _amount(builder)
    amount = f"{size(told)} to download" if told else "it does not say how much is to download"
    licence = builder.info.license or "see its page"
    progress.say(
        f"{source.text}: {amount}, into {datasets.config.HF_DATASETS_CACHE} and the hub's cache; "
        f"licence: {licence}."
    )


def _amount(builder: Any) -> int | None:
    """Bytes to download, where the data set tells them."""
    told = builder.info.download_size
    return int(told) if told else None


def _folder_in_hub_cache(source: HubSource) -> Path:
    """Where the hub's library puts the files of this data set."""
    return cache_of_library() / f"datasets--{source.path.replace('/', '--')}" / "blobs"


def _error(source: HubSource, error: Exception, failure: HubError | None) -> SourceError:
    if failure is not None:  # there is no copy here either
        return _in_our_words(source, failure)
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and type(error).__name__ == "DatasetGenerationError":
        told = [f"{type(cause).__name__}: {cause}"]
    first = (told or [type(error).__name__])[0][:300]
    problem, fix = "the library `datasets` cannot read this data set", "look at its page on the hub"
    valid: list[str] | None = None
    if "script" in first:
        problem = "this data set can only be read by a program of its authors, and none is run"
        fix = "look for a copy of it as Parquet on the hub"
    elif "onfig name is missing" in str(error) or "BuilderConfig" in first:
        problem = "this data set has several configurations: say which"
        valid = re.findall(r"'([^']+)'", str(error).partition("[")[2].partition("]")[0]) or None
        fix = f"write it behind the name: {PREFIX}{source.path}:CONFIG"
    elif isinstance(error, OSError) and error.errno is not None and error.strerror:
        problem = f"the data set cannot be fetched or kept: {error.strerror}"
        fix = "make room, or name another directory in HF_HOME"
    elif isinstance(error, ConnectionError):
        return _in_our_words(source, explain(error, _LOOKUP_SECONDS))
    return SourceError(problem, given=f"{source.text}: {first}", valid=valid, fix=fix)


def _in_our_words(source: HubSource, failure: HubError) -> SourceError:
    steps = [step.replace("the model's page", "its page") for step in failure.steps]
    if failure.kind in (Kind.AWAY, Kind.REFUSED):
        steps.append("what `datasets` has fetched once needs no network")
    return SourceError(
        f"cannot get this data set from the hub: {failure}",
        given=source.text,
        fix="; ".join(steps),
    )


# Samples ------------------------------------------------------------------------------------------


def _manifest(
    source: HubSource, splits: Mapping[str, Any], columns: Columns, progress: Progress
) -> Manifest:
    parts = _parts_of(source, list(splits))
    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    notes = [f"Pictures are in the column {columns.image}, labels in {columns.label}."]
    used: list[str] = []
    for name, part in parts.items():
        found, bad = read_rows(splits[name], columns, part)
        if found:
            used.append(name)
            samples += found
            left_out += bad
        else:
            notes.append(f"Not looked at, having no labels: split {name}.")
    if len(used) == 1:
        samples = [replace(sample, part="") for sample in samples]
    ignored = [name for name in splits if name not in parts]
    if ignored:
        notes.append(f"Not looked at, being no part (train, val, test): {', '.join(ignored)}.")
    kept, duplicates, told = merge_duplicates(samples)
    manifest = build_manifest(
        kept,
        given=source.text,
        left_out=[*left_out, *duplicates],
        notes=[*notes, *told],
        progress=progress,
    )
    return replace(manifest, class_names=columns.in_order(manifest.class_names))


def _parts_of(source: HubSource, names: list[str]) -> dict[str, Part]:
    """Which splits are used, and as which part; one alone is no part."""
    parts = {name: PART_WORDS[name.lower()] for name in names if name.lower() in PART_WORDS}
    if len(names) == 1:
        return {names[0]: "train"}
    twice = len(set(parts.values())) < len(parts)
    if "train" not in parts.values() or twice:
        raise SourceError(
            "two splits both claim to be one part" if twice else "no split is the one to train on",
            given=f"{source.text}: {counted(len(names), 'split')}",
            valid=names,
            fix=f"say which one: {source.text},split={names[0]}",
        )
    return parts
