"""The only place that opens a picture.

Whatever is wrong with a file comes out as a PictureError with a reason short enough for a table.
A locator `BUNDLE#17` names a picture inside an IDX file, a named data set or an Arrow file; a file
that really has that name comes first.
"""

from __future__ import annotations

import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from fieldmark.data.modes import is_grey, is_wide, to_mode
from fieldmark.data.sources.arrow import is_arrow_locator, read_arrow
from fieldmark.data.sources.idx import load_idx
from fieldmark.data.sources.named import NAMED_SOURCES, load_named
from fieldmark.errors import DownloadError, PictureError, SourceError
from fieldmark.progress import Progress

MAX_MEGAPIXELS: Final = 300
NO_SUCH_FILE: Final = "no such file"

# Pillow's own limit warns at 89 megapixels, which a stitched photo reaches. It is a global; it is
# only ever raised here, and never switched off, because decoders check it again inside a file.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_MEGAPIXELS * 10**6)
# Odd metadata in one of 10,000 files must not tear the progress bar: what matters is raised.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Formats decoded inside the process, without a helper program (EPS would start Ghostscript).
_SAFE_FORMATS: Final = (
    *("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "ICO"),
)
_SCALED_FORMATS: Final = ("JPEG", "MPO")  # decoded at 1/2, 1/4 or 1/8 where that is enough
_NUM_PROBE_THREADS: Final = 8  # waiting for the disk, not for the processor
_NUM_REMEMBERED: Final = 20_000  # headers; a scan and two estimates ask for the same ones
_PROBES_PER_TASK: Final = 32

# First bytes of what people take for pictures, or for whole ones: (pattern, what to say).
_SIGNATURES: Final = (
    (rb"....ftyp(heic|heix|hevc|mif1|msf1|heim|heis)", "HEIC, which is not read: save as JPEG"),
    (rb"%PDF", "a PDF, not a picture"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "an archive, not a picture: unpack it"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript, not a picture"),
    (rb"\s*<(svg|\?xml)", "SVG or XML, not a picture of pixels"),
    (rb"8BPS", "Photoshop, which is not read: save as PNG"),
    (rb"\xff\xd8\xff", "damaged or truncated: begins like a JPEG, but its header cannot be read"),
    (rb"\x89PNG", "damaged or truncated: begins like a PNG, but its header cannot be read"),
    (rb"GIF8", "damaged or truncated: begins like a GIF, but its header cannot be read"),
    (rb"RIFF....WEBP", "damaged or truncated: begins like a WebP, but cannot be read"),
)

# EXIF orientation (tag 0x0112, CIPA DC-008, section 4.6.4): what brings the picture upright.
_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header says: size as displayed, px, and whether there is no colour."""

    width: int
    height: int
    is_grey: bool


@dataclass(frozen=True, slots=True)
class Header:
    """What a file is, whatever is made of it.

    Attributes:
        format: as Pillow calls it (JPEG, PNG ...); "" for a picture inside a bundle.
        mode: of the pixels as stored, as Pillow calls it (RGB, L, P, CMYK, I;16 ...).
        bits: a channel; 8 or 16, where 16 stands for more than 8.
        has_alpha: parts are transparent, or could be.
        width, height: as displayed, px.
    """

    format: str
    mode: str
    bits: int
    has_alpha: bool
    width: int
    height: int


def open_picture(path: str, channels: int, min_short_side_px: int | None = None) -> Image.Image:
    """The picture as people see it, 8 bits a channel, in mode "L" (1 channel) or "RGB" (3).

    EXIF orientation is applied. Of an animation the first frame is taken. 16-bit grey keeps its
    high byte (65535 becomes 255), and so do 12-bit scans. Transparency is laid over white: cut-outs
    are drawn for white pages, and the colour beneath a transparent pixel is an accident a network
    would learn.

    Args:
        min_short_side_px: a JPEG may come smaller, by 2, 4 or 8, as long as its short side keeps at
            least so many pixels. Decoding is several times quicker then.

    Raises:
        PictureError: it cannot be used; `problem` is the reason.
    """
    return open_with_header(path, channels, min_short_side_px)[0]


def open_with_header(
    path: str, channels: int, min_short_side_px: int | None = None
) -> tuple[Image.Image, Header]:
    """`open_picture`, and what the file was: one opening for both."""
    assert channels in (1, 3), channels
    mode = "L" if channels == 1 else "RGB"
    if (pixels := read_bundled(path)) is not None:
        height, width = pixels.shape[:2]
        stored_mode = "L" if pixels.ndim == 2 else "RGB"
        header = Header("", stored_mode, bits=8, has_alpha=False, width=width, height=height)
        return Image.fromarray(pixels).convert(mode), header
    with _opened(path) as picture:
        stored, wide = picture.size, is_wide(picture)
        if min_short_side_px is not None and picture.format in _SCALED_FORMATS:
            # A square request, so it does not matter whether EXIF swaps the axes.
            picture.draft(None, (max(1, min_short_side_px),) * 2)
        picture.load()
        # Only now: Pillow turns a TIFF itself while loading, and then takes its mark away.
        orientation = _orientation(picture)
        result = to_mode(picture, mode)
        if orientation in _UPRIGHT:
            result = result.transpose(_UPRIGHT[orientation])
        # Whether `size` is that of a turned picture depends on Pillow's version; the result knows.
        same_way = (result.width >= result.height) == (stored[0] >= stored[1])
        header = Header(
            picture.format or "",
            picture.mode,
            bits=16 if wide else 8,
            has_alpha=picture.has_transparency_data,
            width=stored[0] if same_way else stored[1],
            height=stored[1] if same_way else stored[0],
        )
    result.info = {}  # or the next reader of the orientation would turn it again
    return result, header


def decode_alike(header: Header, one_px: int, other_px: int) -> bool:
    """Whether `open_with_header` gives the same pixels for these two `min_short_side_px`."""
    short_px = min(header.width, header.height)
    return header.format not in _SCALED_FORMATS or (
        _jpeg_scale(short_px, one_px) == _jpeg_scale(short_px, other_px)
    )


def _jpeg_scale(short_px: int, min_px: int) -> int:
    """By what `Image.draft` divides a picture with this short side."""
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(1, short_px // max(1, min_px)))


def probe_picture(path: str) -> Probe:
    """Size and colour from the header alone; the pixels are not decoded.

    Raises:
        PictureError: as `open_picture`, but damage behind the header goes unseen.
    """
    if (pixels := read_bundled(path)) is not None:
        return Probe(pixels.shape[1], pixels.shape[0], is_grey=pixels.ndim == 2)
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # inside another file, or not there: said when it is opened
        return _probe_file(path, ())
    return _probe_file(path, (status.st_size, status.st_mtime_ns, status.st_ino))


@lru_cache(_NUM_REMEMBERED)
def _probe_file(path: str, state: tuple[int, ...]) -> Probe:
    """`state` changes with the file."""
    with _opened(path) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):
            # As stored: whether `size` is turned already depends on Pillow's version.
            width, height = picture.tag_v2[256], picture.tag_v2[257]
        # A PNG may keep its mark behind the pixels, and is not decoded to look for it.
        in_header = picture.format != "PNG" or "exif" in picture.info
        if in_header and _orientation(picture) >= 5:
            width, height = height, width
        return Probe(width, height, is_grey=is_grey(picture.mode))


def probe_pictures(paths: Sequence[str], progress: Progress) -> list[Probe | PictureError]:
    """`probe_picture` for many, in order; what is wrong with a file takes its place."""

    def probe_slice(start: int) -> list[Probe | PictureError]:
        return [_probe_or_error(path) for path in paths[start : start + _PROBES_PER_TASK]]

    results: list[Probe | PictureError] = []
    pool = ThreadPoolExecutor(_NUM_PROBE_THREADS, thread_name_prefix="fieldmark-probe")
    try:
        with progress.task("looking at the pictures", len(paths)) as task:
            for found in pool.map(probe_slice, range(0, len(paths), _PROBES_PER_TASK)):
                results += found
                task.advance(len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def is_named_locator(path: str) -> bool:
    """Whether `path` names a picture of a named data set, as `digits#17` does."""
    bundle, hash_sign, index = path.rpartition("#")
    return bool(hash_sign) and index.isdecimal() and bundle in NAMED_SOURCES


def _probe_or_error(path: str) -> Probe | PictureError:
    try:
        return probe_picture(path)
    except PictureError as error:
        return error


def read_bundled(path: str) -> NDArray[np.uint8] | None:
    """(h, w) pixels, or (h, w, 3), where `path` is a locator of an array; None where it is a file,
    or may be one, or is one inside another (`read_encoded`).

    Raises:
        PictureError: there is no such picture.
    """
    bundle, hash_sign, index = path.rpartition("#")
    if not (hash_sign and index.isdecimal()) or is_arrow_locator(path) or _is_file(path):
        return None
    if _is_file(bundle):
        try:
            images = load_idx(bundle, 3)
        except SourceError as error:
            raise PictureError(error.problem) from error
    elif bundle in NAMED_SOURCES:
        try:
            images = load_named(bundle).images
        except (SourceError, DownloadError) as error:
            raise PictureError(f"{error.problem}: `fieldmark datasets --get {bundle}`") from error
    else:
        return None
    if int(index) >= len(images):
        raise PictureError(f"there are only {len(images):,} pictures in that file")
    pixels: NDArray[np.uint8] = images[int(index)]
    return pixels


def read_encoded(path: str) -> bytes | None:
    """The bytes of a picture's file that lies inside another; None where `path` names no such.

    Raises:
        PictureError: there is no such picture.
    """
    return read_arrow(path) if is_arrow_locator(path) and not _is_file(path) else None


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte: said when it is opened
        return False


@cache
def _formats(with_tga: bool) -> tuple[str, ...]:
    Image.init()
    wanted = (*_SAFE_FORMATS, "TGA") if with_tga else _SAFE_FORMATS
    return tuple(name for name in wanted if name in Image.OPEN)


@contextmanager
def _stream(path: str) -> Iterator[IO[bytes]]:
    """The bytes of a picture's file, wherever it lies."""
    if (content := read_encoded(path)) is not None:
        if not content:
            raise PictureError("file is empty")
        yield BytesIO(content)
        return
    status = Path(path).stat()
    # Asked before opening: opening a pipe waits for somebody to write to it.
    if not stat.S_ISREG(status.st_mode):
        is_folder = stat.S_ISDIR(status.st_mode)
        raise PictureError("a folder, not a file" if is_folder else "not a regular file")
    if status.st_size == 0:
        raise PictureError("file is empty")
    with Path(path).open("rb") as stream:
        yield stream


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open, and turn whatever goes wrong until the end of the block into a PictureError."""
    try:
        with _stream(path) as stream:
            # TGA has no signature: by content alone, other files would pass for one.
            formats = _formats(with_tga=path.lower().endswith(".tga"))
            try:
                picture = Image.open(stream, formats=formats)
            except UnidentifiedImageError:
                stream.seek(0)
                raise PictureError(_what_else(stream.read(64))) from None
            with picture:
                megapixels = picture.width * picture.height / 1e6
                if megapixels > MAX_MEGAPIXELS:
                    raise PictureError(_too_large(megapixels))
                if picture.mode == "F":
                    raise PictureError("32-bit float pixels, whose range is not known")
                yield picture
    except PictureError:
        raise
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError,
    # MemoryError and more; one bad picture must not stop the other 9,999.
    except Exception as error:
        raise PictureError(_reason(error)) from error


def _reason(error: Exception) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return NO_SUCH_FILE
    if isinstance(error, PermissionError):
        return "no permission"
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        pixels = re.search(r"\d{6,}", message)
        return _too_large(int(pixels[0]) / 1e6) if pixels else f"too large: {message[:80]}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror or message[:80]}"
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return "truncated: the file ends before the picture does"
    return f"damaged: {message[:80] or type(error).__name__}"


def _too_large(megapixels: float) -> str:
    return f"too large: {megapixels:,.0f} megapixels (limit {MAX_MEGAPIXELS})"


def _what_else(head: bytes) -> str:
    for pattern, reason in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return reason
    return f"not a picture (first bytes: {head[:12]!r})"


def _orientation(picture: Image.Image) -> int:
    """1 to 8; 1, upright, where the metadata says nothing or is itself damaged."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1  # the pixels may well be sound
    return value if isinstance(value, int) and value in _UPRIGHT else 1
