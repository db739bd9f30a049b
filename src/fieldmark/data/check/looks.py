"""One cheap look at every picture: all that a check needs to know of it.

A picture is decoded once, a large photo at a fraction of its size, and what was seen is remembered
by the content of the file: a second check decodes nothing. A training, which needs the pictures
too, stores them while they are open.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.data.contents import Content, contents_of
from fieldmark.data.memory import Memory
from fieldmark.data.parallel import in_parallel
from fieldmark.data.pictures import Header, open_with_header
from fieldmark.errors import PictureError
from fieldmark.progress import Progress

# Names what is remembered: to be counted up when a look sees anything else than it did.
_KIND: Final = "look-3"
# A JPEG is opened with at least this short side: as large as a training at 224 px needs it, so
# that one decoding does for both (`pixels.ahead`). Smaller would be little quicker: most of the
# time goes into unpacking, which is the same at every scale.
LOOK_DECODE_PX: Final = 672
LOOK_SIDE_PX: Final = 96  # pictures are looked at with this short side, or smaller if they are
THUMB_PX: Final = 32  # what imagehash.phash makes of a picture before it transforms it
CHROMA_PX: Final = 4
# A smaller picture is not asked whether it is nearly another one (docs/check.md: "Small pictures").
MIN_NEAR_PX: Final = 64
# "One colour" is the commonest one and what differs from it by no more than JPEG may add.
_SAME_COLOUR: Final = 8
_SLICE: Final = 512  # looks that are in memory at once, and are remembered at once

Pixels = NDArray[np.uint8]
Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a picture is recognized by when its file is another.

    Attributes:
        phash: `imagehash.phash`, 64 bits as one number, the first bit highest.
        thumb: (32, 32) uint8, grey.
        chroma: (4, 4, 2) uint8, Cb and Cr; 128 is no colour.
    """

    phash: int
    thumb: Pixels
    chroma: Pixels


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one picture.

    Attributes:
        key: pictures with one key are the same: by their pixels if they are small, else by the
            bytes of their files.
        format, mode, bits, has_alpha, width, height: see `pictures.Header`.
        mean, std: R, G and B over the pixels, on the scale where white is 1.
        contrast: standard deviation of the brightness, on the same scale.
        one_colour: the share of pixels that have the commonest colour, or nearly.
        signature: None where the picture is too small to be told from others of its kind.
    """

    key: str
    format: str
    mode: str
    bits: int
    has_alpha: bool
    width: int
    height: int
    mean: Channels
    std: Channels
    contrast: float
    one_colour: float
    signature: Signature | None

    @property
    def is_small(self) -> bool:
        """Too small to be told from others of its kind."""
        return min(self.width, self.height) < MIN_NEAR_PX

    @property
    def unsigned(self) -> Look:
        """The figures alone: half a kilobyte instead of two."""
        return replace(self, signature=None)


class WhileOpen(Protocol):
    """What else is made of a picture that is open for its look."""

    def make(self, key: str, picture: Image.Image, header: Header) -> Any:
        """Something of the picture whose content has this key; None makes nothing. Called in
        several threads. The picture is "RGB", opened with LOOK_DECODE_PX, and not to be changed."""

    def keep(self, content: Content, path: str, made: Any) -> None:
        """Take what `make` gave. Called in one thread."""


def look_at(
    paths: Sequence[str],
    progress: Progress,
    *,
    memory: Memory | None = None,
    while_open: WhileOpen | None = None,
) -> Iterator[Look | PictureError]:
    """Look at every picture, in order; what is wrong with a file takes its place.

    Truncation shows, as files are read to their end at any scale. Few looks are in memory at once,
    as long as who asked for them keeps none.

    Args:
        memory: where looks are remembered; None takes the user's cache.
        while_open: what else is done with the pictures that are opened.
    """
    memory = memory or Memory()
    contents = contents_of(paths, progress, memory=memory)
    # What cannot be read has no content to be known by.
    names = [c.key if c else f"unreadable {path}" for path, c in zip(paths, contents, strict=True)]
    files = [_File(*item) for item in zip(names, paths, contents, strict=True)]
    slices = [slice(start, start + _SLICE) for start in range(0, len(names), _SLICE)]
    todo = {*names}
    for part in slices:
        todo.difference_update(memory.facts(_KIND, names[part]))
    if not todo:
        for part in slices:
            yield from _look_at_some(files[part], memory, lambda _: None, while_open)
        return
    with progress.task("examining the pictures", len(todo)) as task:

        def done(name: str) -> None:
            if name in todo:
                todo.remove(name)
                task.advance()

        for part in slices:
            yield from _look_at_some(files[part], memory, done, while_open)


class _File(NamedTuple):
    """One to look at; `name` is the key of its content, or says that it has none."""

    name: str
    path: str
    content: Content | None


def _look_at_some(
    files: Sequence[_File],
    memory: Memory,
    done: Callable[[str], None],
    while_open: WhileOpen | None,
) -> list[Look | PictureError]:
    """Looks in order, by what is remembered or anew; `done` hears of the latter."""
    found: dict[str, Look | PictureError] = {}
    for name, fact in memory.facts(_KIND, {file.name for file in files}).items():
        if (look := _from_text(fact)) is not None:
            found[name] = look
    fresh: dict[str, _File] = {}
    for file in files:  # of equal files one is looked at
        if file.name not in found:
            fresh.setdefault(file.name, file)

    def open_and_look(file: _File) -> tuple[Look | PictureError, Any]:
        try:
            picture, header = open_with_header(file.path, 3, LOOK_DECODE_PX)
        except PictureError as error:
            return error, None
        made = while_open.make(file.name, picture, header) if while_open else None
        return _look(file.name, picture, header), made

    seen: dict[str, Look] = {}
    try:
        for (name, file), (look_or_error, made) in zip(
            fresh.items(), in_parallel(open_and_look, [*fresh.values()]), strict=True
        ):
            found[name] = look_or_error
            if isinstance(look_or_error, Look):
                seen[name] = look_or_error
            if while_open and file.content and made is not None:
                while_open.keep(file.content, file.path, made)
            done(name)
    finally:  # also what was done before Ctrl-C
        memory.remember_facts(_KIND, {name: _to_text(look) for name, look in seen.items()})
    return [found[file.name] for file in files]


def _look(content: str, picture: Image.Image, header: Header) -> Look:
    full = (picture.width, picture.height) == (header.width, header.height)
    small = _reduced(picture)
    key = content
    if full and small is picture:  # then all its pixels are here
        key = sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    grey = small.convert("L")
    (red, green, blue), (red_std, green_std, blue_std) = _mean_std(small)
    return Look(
        key=key,
        format=header.format,
        mode=header.mode,
        bits=header.bits,
        has_alpha=header.has_alpha,
        width=header.width,
        height=header.height,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        contrast=_mean_std(grey)[1][0],
        one_colour=round(_share_of_one_colour(small), 4),
        signature=_sign(small, grey) if min(header.width, header.height) >= MIN_NEAR_PX else None,
    )


def _reduced(picture: Image.Image) -> Image.Image:
    """The picture with a short side of LOOK_SIDE_PX; smaller ones as they are."""
    scale = LOOK_SIDE_PX / min(picture.size)
    if scale >= 1:
        return picture
    size = (round(picture.width * scale), round(picture.height * scale))
    # With a gap whole pixels are averaged first, which is half as quick again; what is left to do
    # wants a smoother filter than a box.
    return picture.resize(size, Image.Resampling.HAMMING, reducing_gap=1.0)


def _mean_std(picture: Image.Image) -> tuple[list[float], list[float]]:
    """Of each channel, white = 1, to 5 digits; counted by Pillow, outside Python's lock."""
    counts = np.array(picture.histogram()).reshape(-1, 256) / (picture.width * picture.height)
    levels = np.arange(256) / 255
    mean = counts @ levels
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1))
    return mean.round(5).tolist(), std.round(5).tolist()


def _share_of_one_colour(picture: Image.Image) -> float:
    # Channel by channel: numpy takes many times longer over rows of three.
    red, green, blue = channels = [np.asarray(band).ravel() for band in picture.split()]
    cells = (red >> 4).astype(np.int16) << 8 | (green >> 4).astype(np.int16) << 4 | blue >> 4
    commonest = cells == np.bincount(cells).argmax()
    near = np.ones(len(red), bool)
    for values in channels:
        near &= np.abs(values - np.float32(np.median(values[commonest]))) <= _SAME_COLOUR
    return float(near.mean())


def _sign(small: Image.Image, grey: Image.Image) -> Signature:
    from imagehash import phash  # brings scipy

    thumb = grey.resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
    bits = np.packbits(phash(thumb).hash)
    chroma = small.convert("YCbCr").resize((CHROMA_PX, CHROMA_PX), Image.Resampling.BOX)
    return Signature(
        int.from_bytes(bits.tobytes(), "big"), np.asarray(thumb), np.asarray(chroma)[..., 1:].copy()
    )


# As text for the memory ---------------------------------------------------------------------------


def _to_text(look: Look) -> str:
    values = [getattr(look, field.name) for field in fields(Look)]
    if (signature := look.signature) is not None:
        values[-1] = (
            f"{signature.phash:016x}",
            base64.b64encode(signature.thumb.tobytes()).decode(),
            base64.b64encode(signature.chroma.tobytes()).decode(),
        )
    return json.dumps(values, separators=(",", ":"))


def _from_text(text: str) -> Look | None:
    """None for what another program, or a damaged disk, has left."""
    try:
        *values, signature = json.loads(text)
        words: list[Any] = [tuple(x) if isinstance(x, list) else x for x in values]
        words[1:3] = map(sys.intern, words[1:3])  # format and mode: a few words, of many pictures
        words.append(_signature_of(signature) if signature else None)
        return Look(*words)
    except (ValueError, TypeError):
        return None


def _signature_of(texts: Any) -> Signature:
    phash, thumb, chroma = texts
    return Signature(
        int(phash, 16),
        _pixels(thumb).reshape(THUMB_PX, THUMB_PX),
        _pixels(chroma).reshape(CHROMA_PX, CHROMA_PX, 2),
    )


def _pixels(text: str) -> Pixels:
    return np.frombuffer(base64.b64decode(text), np.uint8)
