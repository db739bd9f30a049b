"""The pixel cache: decoded pictures on disk, for every later run, and what frozen networks have
computed of them. A folder for each form.

    <cache directory>/pixels/
        limit                           how large all of it may get, in bytes
        crops-224px-0123456789abcdef/   a form: `Form.name`
            form.json                   what the name stands for
            pack-*.safetensors          see `packs`
            *.lock                      held while a process decodes
        features-224px-0123456789abcdef/   the same for a `FeatureForm`

Nothing in it is needed: what is missing is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, get_args

import filelock

from fieldmark.data.pixels.form import Kind
from fieldmark.data.pixels.packs import SUFFIX, UNSEALED, Place, read_index
from fieldmark.download import cache_directory
from fieldmark.errors import OutputError
from fieldmark.files import nearest_existing, write_text
from fieldmark.progress import Progress

DEFAULT_LIMIT: Final = 20 * 10**9
KEEP_FREE: Final = 0.05  # of the disk: a full one stops other programs
FEATURES: Final = "features"  # the kind of a form that is no picture's

_FORM_NAME: Final = "form.json"
_PACKS: Final = f"pack-*{SUFFIX}"
_HALF_WRITTEN: Final = f"pack-*{UNSEALED}"
_LIMIT_NAME: Final = "limit"
_STALE_SECONDS: Final = 24 * 3600  # nobody decodes one data set for so long
_QUIET_SECONDS: Final = 3600  # nor writes nothing to a pack for so long


K = TypeVar("K")


class NamedForm(Protocol):
    """A `Form`, or whatever else has a folder here."""

    @property
    def name(self) -> str:
        """Of its folder: a kind, a dash, and what nothing else of this kind has."""

    def describe(self) -> dict[str, Any]:
        """All that decides what is kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the cache has of one form.

    Attributes:
        folder: where.
        about: the words of `Form.describe`; empty where they cannot be read.
        num_pictures: decoded, or views that features are of; the same one twice where two runs
            made it at the same time.
        num_bytes: on disk.
        used: when a run last used it, seconds since 1970.
    """

    folder: Path
    about: dict[str, object]
    num_pictures: int
    num_bytes: int
    used: float


class PixelCache:
    """All forms. Everything of it is safe beside other processes.

    Args:
        root: None takes the user's cache directory.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_directory("pixels")

    def folder(self, form: NamedForm) -> Path:
        """Where packs of `form` lie, or will lie."""
        return self.root / form.name

    def find(self, form: NamedForm, contents: Iterable[str]) -> dict[str, Place]:
        """Where those of the pictures are that are here; marks their packs as used now."""
        return self._find(form, set(contents), lambda content, _: content)

    def find_views(
        self, form: NamedForm, wanted: Iterable[tuple[str, float]]
    ) -> dict[tuple[str, float], Place]:
        """The same of (content, view), where a content has several."""
        return self._find(form, set(wanted), lambda content, place: (content, place.tag))

    def _find(
        self, form: NamedForm, wanted: set[K], key_of: Callable[[str, Place], K]
    ) -> dict[K, Place]:
        found: dict[K, Place] = {}
        for pack in sorted(self.folder(form).glob(_PACKS)):
            of_pack = {
                key: place
                for key, place in ((key_of(*entry), entry[1]) for entry in read_index(pack))
                if key in wanted and key not in found
            }
            if of_pack:
                found |= of_pack
                with suppress(OSError):
                    os.utime(pack)
        return found

    @contextmanager
    def decoding(
        self,
        form: NamedForm,
        contents: Iterable[str],
        progress: Progress,
        what: str = "is decoding these pictures",
    ) -> Iterator[None]:
        """Around decoding these pictures: where another process decodes the very same, wait for
        it. A process that dies lets go of its place; where nothing can be locked, nobody waits.

        Args:
            what: the other one does, told while it is waited for.
        """
        folder = self.folder(form)
        digest = hashlib.sha256("".join(sorted(contents)).encode()).hexdigest()[:16]
        with suppress(OSError, OutputError):  # said when the first picture is written
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _FORM_NAME).is_file():
                write_text(folder / _FORM_NAME, json.dumps(form.describe(), indent=2) + "\n")
        _sweep(folder)
        lock = filelock.FileLock(folder / f"{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress.say(f"another Fieldmark {what}; waiting for it")
            lock.acquire()
        except (OSError, NotImplementedError):
            pass  # a file system without locks: both decode, and either result will do
        try:
            yield
        finally:
            lock.release()

    def has_room(self, num_bytes: int) -> bool:
        """Whether so much can be added, if need be by removing what was not used for longest."""
        return self._is_writable() and num_bytes <= min(
            self.limit, self._free_bytes() + self.num_bytes
        )

    def make_room(self, num_bytes: int) -> bool:
        """Remove packs, those first that were not used for longest, until `num_bytes` can be added.

        Returns:
            False where there is not enough to remove; then nothing is removed.
        """
        packs = sorted((_used(path), path, _size(path)) for path in self._packs())
        excess = max(
            sum(size for _, _, size in packs) + num_bytes - self.limit,
            num_bytes - self._free_bytes(),
        )
        going = []
        for _, pack, size in packs:
            if excess <= 0:
                break
            going.append(pack)
            excess -= size
        if excess > 0:
            return False
        for pack in going:
            with suppress(OSError):  # another process has removed it, or (Windows) reads it
                pack.unlink()
        return True

    @property
    def num_bytes(self) -> int:
        """Of all packs, and of those that are being written."""
        return sum(map(_size, (*self._packs(), *self.root.glob(f"*/{_HALF_WRITTEN}"))))

    def list_kept(self) -> list[Kept]:
        """What there is, by form; the one used last comes first."""
        kept = []
        for folder in sorted({pack.parent for pack in self._packs()}):
            packs = list(folder.glob(_PACKS))
            num_pictures = sum(1 for pack in packs for _ in read_index(pack))
            used = max(map(_used, packs), default=0.0)
            kept.append(Kept(folder, _about(folder), num_pictures, sum(map(_size, packs)), used))
        return sorted(kept, key=lambda item: -item.used)

    def clear(self) -> int:
        """Remove all pictures and features; returns the bytes that were freed. The limit stays.

        Raises:
            OutputError: something cannot be removed.
        """
        freed = self.num_bytes
        try:
            for folder in filter(_is_ours, self.root.glob("*/")):
                # By name, and not the whole folder: whoever chose a cache directory may have
                # things of his own in it. What is being written is left to who writes it.
                for path in folder.glob(_PACKS):
                    path.unlink()
                _sweep(folder)
                if {path.name for path in folder.iterdir()} <= {_FORM_NAME}:
                    (folder / _FORM_NAME).unlink(missing_ok=True)
                    folder.rmdir()
        except OSError as error:
            raise _cannot_change(self.root, error) from error
        return freed - self.num_bytes

    @property
    def limit(self) -> int:
        """Bytes that all of it may take."""
        try:
            return int((self.root / _LIMIT_NAME).read_text())
        except (OSError, ValueError):
            return DEFAULT_LIMIT

    def set_limit(self, num_bytes: int) -> None:
        """Bound the cache, and make it keep the bound at once.

        Raises:
            OutputError: the cache directory cannot be written, or a pack cannot be removed.
        """
        try:
            write_text(self.root / _LIMIT_NAME, f"{num_bytes}\n")
        except OutputError as error:
            raise _cannot_change(self.root, error.__cause__) from error
        if self.num_bytes > num_bytes and not self.make_room(0):
            raise OutputError(
                "the cache cannot be made smaller",
                given=self.root,
                fix="check its permissions, or end the trainings that are reading it",
            )

    def _packs(self) -> list[Path]:
        return list(self.root.glob(f"*/{_PACKS}"))

    def _is_writable(self) -> bool:
        folder = nearest_existing(self.root)
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

    def _free_bytes(self) -> int:
        """Of the disk, without what must stay free."""
        try:
            disk = shutil.disk_usage(nearest_existing(self.root))
        except OSError:
            return 0
        return max(0, disk.free - round(KEEP_FREE * disk.total))


def _sweep(folder: Path) -> None:
    """Remove what crashes and finished processes have left."""
    for path in folder.glob("*.lock"):
        if time.time() - _used(path) > _STALE_SECONDS:
            with suppress(OSError):
                path.unlink()
    for path in folder.glob(_HALF_WRITTEN):
        if time.time() - _used(path) > _QUIET_SECONDS:
            with suppress(OSError):
                path.unlink()


def _is_ours(folder: Path) -> bool:
    return any(folder.name.startswith(f"{kind}-") for kind in (*get_args(Kind), FEATURES))


def _cannot_change(root: Path, error: BaseException | None) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"the cache cannot be changed: {reason}",
        given=root,
        fix="check its permissions and the free space, or name another place in FIELDMARK_CACHE",
    )


def _about(folder: Path) -> dict[str, object]:
    try:
        about = json.loads((folder / _FORM_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
