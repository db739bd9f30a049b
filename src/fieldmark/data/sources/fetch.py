"""Known data sets onto this machine: what is said before, mirrors, and what is here already."""

from __future__ import annotations

from pathlib import Path

from fieldmark.data.sources.known import KnownFile, KnownSet
from fieldmark.data.sources.once import unpacked_folder
from fieldmark.download import cache_directory, download, find_downloaded
from fieldmark.errors import DownloadError
from fieldmark.progress import Progress, size


def is_here(known: KnownSet) -> bool:
    """Whether it can be used without a network; reads next to nothing."""
    return is_prepared(known) or all(_find(file) is not None for file in known.files)


def is_prepared(known: KnownSet) -> bool:
    """Whether its archive lies unpacked in the cache, so that even the archive may be gone."""
    return known.kind in ("cifar", "archive") and prepared_folder(known).is_dir()


def prepared_folder(known: KnownSet) -> Path:
    """Where what its one archive holds lies, or will."""
    return unpacked_folder(known.files[0].sha256, "cifar" if known.kind == "cifar" else "")


def fetch_files(known: KnownSet, progress: Progress) -> list[Path]:
    """Its files in the cache, in the order of the table; said before they are downloaded.

    Raises:
        DownloadError: one is not to be had; says where to put it by hand.
    """
    missing = [file for file in known.files if _find(file) is None]
    if missing:
        progress.say(
            f"{known.name}: {known.num_pictures:,} {known.about}. "
            f"{size(sum(file.num_bytes for file in missing))} to download into "
            f"{cache_directory('downloads')}; licence: {known.licence}."
        )
    return [_fetch(file, progress) for file in known.files]


def _find(file: KnownFile) -> Path | None:
    return find_downloaded(file.urls[0], sha256=file.sha256, name=file.name)


def _fetch(file: KnownFile, progress: Progress) -> Path:
    first: DownloadError | None = None
    for url in file.urls:
        if first is not None:
            progress.say(f"{first.problem}; trying {url}")
        try:
            return download(url, sha256=file.sha256, name=file.name, progress=progress)
        except DownloadError as error:
            first = first or error
    assert first is not None, "every file of the table has an address"
    raise first
