"""What the cache has of some pictures, and how it gets what it has not: decoded pictures here, and
by the same way what is computed of them (`data.features.store`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from fieldmark.data.contents import Content
from fieldmark.data.pixels.cache import NamedForm, PixelCache
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.packs import PackWriter, Place
from fieldmark.errors import OutputError
from fieldmark.progress import Progress

K = TypeVar("K")  # what is looked for: the key of a content, perhaps with more


@dataclass(frozen=True)
class Goods(Generic[K]):
    """Something that is kept of pictures: how it is found and put away, and the words about it.

    Attributes:
        find: where those are that the cache has.
        put: into a pack, by the key of the content and which of several of this content it is.
        name: what cannot be written, where it cannot.
        making: what another process is doing, when it is waited for.
        again: what the next run does with what could not be written.
    """

    find: Callable[[PixelCache, NamedForm, set[K]], dict[K, Place]]
    put: Callable[[PackWriter, str, int, Any], None]
    name: str
    making: str
    again: str


PICTURES: Final = Goods[str](
    find=PixelCache.find,
    put=lambda writer, key, _, picture: writer.add(key, picture),
    name="decoded pictures",
    making="is decoding these pictures",
    again="decodes these pictures again",
)


def found(
    cache: PixelCache | None, form: Form, keys: Sequence[str | None], progress: Progress
) -> AbstractContextManager[dict[str, Place]]:
    """What the cache has of these pictures; the rest is ours to decode until the block ends."""
    return found_goods(PICTURES, cache, form, {key for key in keys if key}, progress)


@contextmanager
def found_goods(
    goods: Goods[K],
    cache: PixelCache | None,
    form: NamedForm,
    wanted: set[K],
    progress: Progress,
) -> Iterator[dict[K, Place]]:
    """What the cache has of what is wanted; the rest is ours to make until the block ends."""
    if cache is None:
        yield {}
        return
    places = goods.find(cache, form, wanted)
    missing = wanted - places.keys()
    if not missing:
        yield places
        return
    with cache.decoding(form, map(str, missing), progress, goods.making):
        # Where it was waited for, another process has just made them.
        yield places | goods.find(cache, form, missing)


class Write:
    """Adds what is made to the cache until it cannot be written; what is there twice goes in once.

    Args:
        needed: an error when it cannot be; else that is told, and costs the next run.
    """

    def __init__(
        self, goods: Goods[K], writer: PackWriter | None, progress: Progress, *, needed: bool
    ) -> None:
        self.writer, self.progress, self.needed = writer, progress, needed
        self.put, self.again = goods.put, goods.again
        self.written: set[tuple[str, int]] = set()

    def __call__(self, content: Content | None, path: str, made: Any, number: int = 0) -> None:
        """Add what was made of the file at `path`; `number` tells it from others of the same."""
        if self.writer is None or content is None or (content.key, number) in self.written:
            return
        # A file that was replaced since it was hashed is not what its key says.
        if content.is_as_it_was(path):
            self.written.add((content.key, number))
            with self._giving_up(self.writer):
                self.put(self.writer, content.key, number, made)

    def seal(self) -> None:
        if self.writer is not None:
            with self._giving_up(self.writer):
                self.writer.seal()

    @contextmanager
    def _giving_up(self, writer: PackWriter) -> Iterator[None]:
        try:
            yield
        except OutputError as error:
            writer.discard()
            self.writer = None
            if self.needed:
                raise
            self.progress.say(f"{error.problem}; the next run {self.again}")


def writing(
    cache: PixelCache | None,
    form: Form,
    paths: Sequence[str],
    progress: Progress,
    *,
    needed: bool = False,
) -> AbstractContextManager[Write]:
    """Around decoding these files; see `writing_goods`."""
    num_bytes = form.estimate_bytes(paths) if cache and paths else 0
    return writing_goods(PICTURES, cache, form, len(paths), num_bytes, progress, needed=needed)


@contextmanager
def writing_goods(
    goods: Goods[K],
    cache: PixelCache | None,
    form: NamedForm,
    num: int,
    num_bytes: int,
    progress: Progress,
    *,
    needed: bool,
) -> Iterator[Write]:
    """Around making so many. Whatever ends the block, what was written until then is found by the
    next run.

    Args:
        num_bytes: that they will take on disk.
        needed: they will be read from the cache. They are written even if that takes more room
            than was planned (another run may have taken it), as making them in every epoch would
            be worse; and where they cannot be written that is an error.
    """
    writer = None
    if cache and num and (cache.make_room(num_bytes) or needed):
        writer = PackWriter(cache.folder(form), num, goods.name)
    write = Write(goods, writer, progress, needed=needed)
    try:
        yield write
    except BaseException:
        with suppress(OutputError):
            write.seal()
        raise
    write.seal()
    if cache is not None and not needed:
        cache.make_room(0)  # the estimate may have been too low, or another run written beside us
