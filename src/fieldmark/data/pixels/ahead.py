"""Pictures decoded while they are open for another reason, so that each is decoded once.

Before a training divides its pictures it looks at each of them (`check.looks`); how a picture is to
be stored depends on the part it will be in. Which part that will be is known but for the copies
that the look may find. So each picture is stored as it will most likely be needed; `build_store`
finds it in the pixel cache, and decodes the few that were put into another part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from PIL import Image

from fieldmark.data.check.looks import LOOK_DECODE_PX
from fieldmark.data.contents import Content
from fieldmark.data.pictures import Header, decode_alike
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Decoded, Form
from fieldmark.data.pixels.keeping import Write, found, writing
from fieldmark.progress import Progress


class _Target(NamedTuple):
    form: Form
    write: Write


class Ahead:
    """Stores pictures that are open for a look; see `looks.WhileOpen`.

    Attributes:
        stored: keys of the contents that were stored.
    """

    def __init__(self, wanted: Mapping[str, _Target]) -> None:
        self._wanted = wanted
        self.stored: set[str] = set()

    def make(self, key: str, picture: Image.Image, header: Header) -> Decoded | None:
        """The picture in its form; None where it is stored already, or was opened too small."""
        target = self._wanted.get(key)
        if target is None or not decode_alike(header, LOOK_DECODE_PX, target.form.decode_px):
            return None
        return target.form.make(picture)

    def keep(self, content: Content, path: str, made: Decoded) -> None:
        """Add what `make` gave to the pixel cache."""
        self._wanted[content.key].write(content, path, made)
        self.stored.add(content.key)


@contextmanager
def storing_ahead(
    paths: Mapping[Form, Sequence[str]],
    contents: Mapping[str, Content | None],
    cache: PixelCache,
    progress: Progress,
) -> Iterator[Ahead]:
    """Around looking at pictures: what is not in the cache yet gets into it.

    Args:
        paths: of the pictures that will most likely be needed in each form.
        contents: of these files.
    """
    wanted: dict[str, _Target] = {}
    with ExitStack() as until_done:
        # In one order in every process, as each waits for a form while it has the lock of another.
        for form, of_form in sorted(paths.items(), key=lambda item: item[0].name):
            known = {path: content.key for path in of_form if (content := contents.get(path))}
            there = until_done.enter_context(found(cache, form, [*known.values()], progress))
            missing = [path for path, key in known.items() if key not in there]
            write = until_done.enter_context(writing(cache, form, missing, progress))
            if write.writer is not None:
                for path in missing:
                    wanted.setdefault(known[path], _Target(form, write))
        yield Ahead(wanted)
