"""What the pixel cache has of some pictures, and how it gets what it has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from fieldmark.data.contents import Content
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Decoded, Form
from fieldmark.data.pixels.packs import PackWriter, Place
from fieldmark.errors import OutputError
from fieldmark.progress import Progress


@contextmanager
def found(
    cache: PixelCache | None, form: Form, keys: Sequence[str | None], progress: Progress
) -> Iterator[dict[str, Place]]:
    """What the cache has of these pictures; the rest is ours to decode until the block ends."""
    if cache is None:
        yield {}
        return
    places = cache.find(form, filter(None, keys))
    missing = {key for key in keys if key and key not in places}
    if not missing:
        yield places
        return
    with cache.decoding(form, missing, progress):
        # Where it was waited for, another process has just decoded them.
        yield places | cache.find(form, missing)


class Write:
    """Adds pictures to the cache until it cannot be written; what is there twice goes in once."""

    def __init__(self, writer: PackWriter | None, progress: Progress, *, needed: bool) -> None:
        self.writer, self.progress, self.needed = writer, progress, needed
        self.written: set[str] = set()

    def __call__(self, content: Content | None, path: str, picture: Decoded) -> None:
        if self.writer is None or content is None or content.key in self.written:
            return
        # A file that was replaced since it was hashed is not what its key says.
        if content.is_as_it_was(path):
            self.written.add(content.key)
            with self._giving_up(self.writer):
                self.writer.add(content.key, picture)

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
            self.progress.say(f"{error.problem}; the next run decodes these pictures again")


@contextmanager
def writing(
    cache: PixelCache | None,
    form: Form,
    paths: Sequence[str],
    progress: Progress,
    *,
    needed: bool = False,
) -> Iterator[Write]:
    """Around decoding these files. Whatever ends the block, what was written until then is found by
    the next run.

    Args:
        needed: the pictures will be read from the cache. They are written even if that takes more
            room than was planned (another run may have taken it), as decoding them in every epoch
            would be worse; and where they cannot be written that is an error.
    """
    writer = None
    if cache and paths and (cache.make_room(form.estimate_bytes(paths)) or needed):
        writer = PackWriter(cache.folder(form), len(paths))
    write = Write(writer, progress, needed=needed)
    try:
        yield write
    except BaseException:
        with suppress(OutputError):
            write.seal()
        raise
    write.seal()
    if cache is not None and not needed:
        cache.make_room(0)  # the estimate may have been too low, or another run written beside us
