"""Opening pictures of every kind, and saying in a few words what is wrong with the others."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from fieldmark.data.pictures import (
    MAX_MEGAPIXELS,
    Probe,
    open_picture,
    probe_picture,
    probe_pictures,
)
from fieldmark.errors import PictureError
from fieldmark.progress import Silent

RED, GREEN = (200, 30, 40), (20, 160, 60)


def two_colours(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half green."""
    picture = Image.new("RGB", size, RED)
    picture.paste(GREEN, (size[0] // 2, 0, size[0], size[1]))
    return picture.quantize(2) if mode == "P" else picture.convert(mode)


def png_of(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG built by hand, independent of Pillow's writer."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


def reason_for(path: Path | str) -> str:
    with pytest.raises(PictureError) as caught:
        open_picture(str(path), 3)
    assert "\n" not in caught.value.problem
    assert len(caught.value.problem) < 100, "too long for a table"
    assert str(caught.value) == caught.value.problem
    return caught.value.problem


# What can be opened -------------------------------------------------------------------------------

FORMATS = [
    ("JPEG", "RGB", {"quality": 95}),
    ("JPEG", "CMYK", {"quality": 95}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "CMYK", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("WEBP", "RGB", {"lossless": True}),
    ("PPM", "RGB", {}),
    ("JPEG2000", "RGB", {}),
    ("ICO", "RGBA", {"sizes": [(40, 20)]}),
    ("TGA", "RGB", {}),
    ("AVIF", "RGB", {"quality": 95}),
]


@pytest.mark.parametrize(("kind", "mode", "options"), FORMATS)
def test_formats_keep_their_colours(
    tmp_path: Path, kind: str, mode: str, options: dict[str, object]
) -> None:
    if kind == "AVIF" and not ("avif" in features.modules and features.check("avif")):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a.{kind.lower()}"
    two_colours(mode).save(path, format=kind, **options)
    picture = open_picture(str(path), 3)
    assert (picture.mode, picture.size) == ("RGB", (40, 20))
    np.testing.assert_allclose(picture.getpixel((5, 10)), RED, atol=12)
    np.testing.assert_allclose(picture.getpixel((34, 10)), GREEN, atol=12)
    grey = open_picture(str(path), 1)
    assert (grey.mode, grey.size) == ("L", (40, 20))
    assert probe_picture(str(path)) == Probe(40, 20, is_grey=False)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_pictures_without_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    ramp = Image.fromarray(np.tile(np.uint8([0, 255]), (4, 3)))
    ramp.convert(mode).save(path)
    assert probe_picture(str(path)) == Probe(6, 4, is_grey=True)
    np.testing.assert_array_equal(np.asarray(open_picture(str(path), 1)), np.asarray(ramp))
    np.testing.assert_array_equal(
        np.asarray(open_picture(str(path), 3)), np.asarray(ramp.convert("RGB"))
    )


def test_grey_from_colour_is_luma_of_bt601(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    two_colours().save(path)
    red, green, blue = RED
    expected = 0.299 * red + 0.587 * green + 0.114 * blue
    assert open_picture(str(path), 1).getpixel((0, 0)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette index", "palette list", "RGB key"])
def test_transparency_lies_over_white(tmp_path: Path, mode: str) -> None:
    """Under the transparent left half there is black, which must not show."""
    path = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        pixels = np.zeros((4, 8, 4), np.uint8)
        pixels[:, 4:] = (90, 90, 90, 255)
        Image.fromarray(pixels).convert(mode).save(path)
    elif mode == "RGB key":
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, 4:] = 90
        Image.fromarray(pixels).save(path, transparency=(0, 0, 0))
    else:
        indices = Image.fromarray(np.tile(np.uint8([0] * 4 + [1] * 4), (4, 1)))
        palette = indices.convert("P")
        palette.putpalette([0, 0, 0, 90, 90, 90])
        palette.save(path, transparency=0 if mode == "palette index" else b"\x00\xff")
    for channels, white in ((1, 255), (3, (255, 255, 255))):
        picture = open_picture(str(path), channels)
        assert picture.getpixel((0, 0)) == white
        np.testing.assert_array_equal(picture.getpixel((7, 0)), 90)


def test_half_transparent_is_blended(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(path)
    assert open_picture(str(path), 1).getpixel((0, 0)) == pytest.approx(127, abs=1)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (6, 6), colour) for colour in (RED, GREEN, (0, 0, 0))]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(open_picture(str(path), 3).getpixel((3, 3)), RED, atol=4)


@pytest.mark.parametrize("make", ["png by hand", "tiff", "tiff big-endian", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, make: str) -> None:
    values = np.uint16([[0, 257, 128 * 257, 65535]])
    path = tmp_path / "a"
    if make == "png by hand":
        path.write_bytes(png_of(4, 1, 16, 0, b"\0" + values.astype(">u2").tobytes()))
    elif make == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    elif make == "tiff":
        Image.fromarray(values).save(path, format="TIFF")
    else:
        Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes()).save(path, format="TIFF")
    assert np.asarray(open_picture(str(path), 1)).tolist() == [[0, 1, 128, 255]]
    assert open_picture(str(path), 3).getpixel((3, 0)) == (255, 255, 255)
    assert probe_picture(str(path)).is_grey


def tiff_of(width: int, bits: int, packed: bytes) -> bytes:
    """A grey TIFF of one row, built by hand: Pillow writes no 12 bits."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    packed += bytes(len(packed) % 2)
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    return head + packed + struct.pack("<H", len(tags)) + directory + bytes(4)


def test_twelve_bits_are_scaled_as_declared(tmp_path: Path) -> None:
    """Scanners and microscopes: taken for 16 bits, 16 grey levels would be left of 256."""
    path = tmp_path / "scan.tif"
    bits = "".join(f"{value:012b}" for value in (0, 16, 2048, 4095))
    path.write_bytes(tiff_of(4, 12, int(bits, 2).to_bytes(6, "big")))
    assert np.asarray(open_picture(str(path), 1)).tolist() == [[0, 1, 128, 255]]
    assert open_picture(str(path), 3).getpixel((3, 0)) == (255, 255, 255)
    assert probe_picture(str(path)) == Probe(4, 1, is_grey=True)


def test_small_values_in_32_bits_do_not_turn_black_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.int32([[0, 128, 255]])).save(path)
    assert "32-bit pixels all below 256" in reason_for(path)
    for values, expected in (([0, 0], [0, 0]), ([0, 256, 65535], [0, 1, 255])):
        Image.fromarray(np.int32([values])).save(path)
        assert np.asarray(open_picture(str(path), 1)).tolist() == [expected]


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.float32([[0.5]])).save(path)
    assert reason_for(path) == "32-bit float pixels, whose range is not known"
    Image.fromarray(np.int32([[70_000]])).save(path)
    assert "outside 0-65535" in reason_for(path)


def stored_with(orientation: int, picture: Image.Image) -> Image.Image:
    """The array a camera would store so that `orientation` brings `picture` back: numpy only."""
    a = np.asarray(picture)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(undo(a)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = two_colours(size=(64, 32))
    upright.paste((0, 0, 255), (0, 0, 16, 16))  # blue in the upper left corner: no symmetry left
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    quality = {} if kind == "TIFF" else {"quality": 95}
    stored_with(orientation, upright).save(path, format=kind, exif=exif, **quality)
    for channels, least in ((3, None), (3, 16), (1, 16)):
        picture = open_picture(str(path), channels, least)
        expected = upright.convert(picture.mode).resize(picture.size, Image.Resampling.BOX)
        assert picture.width == 2 * picture.height
        difference = np.abs(np.int16(np.asarray(picture)) - np.int16(np.asarray(expected)))
        assert difference.mean() < 6
        assert "exif" not in picture.info, "nobody may turn it a second time"
    assert probe_picture(str(path)) == Probe(64, 32, is_grey=False)


BAD_EXIF = (b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as outside of tests, see the next one
def test_damaged_or_absurd_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for exif in BAD_EXIF:
        two_colours().save(path, exif=exif)
        assert open_picture(str(path), 3).size == (40, 20)
    odd = Image.Exif()
    odd[0x0112] = 77
    two_colours().save(path, exif=odd)
    assert open_picture(str(path), 3).size == (40, 20)


def test_odd_metadata_prints_nothing(tmp_path: Path) -> None:
    two_colours().save(tmp_path / "a.jpg", exif=BAD_EXIF[1])
    code = (
        "import sys; from fieldmark.data.pictures import open_picture; open_picture(sys.argv[1], 3)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("least", [1, 50, 74, 75, 76, 149, 150, 151, 300, 301, 5000])
def test_scaled_decoding_keeps_the_short_side(tmp_path: Path, least: int) -> None:
    path = tmp_path / "a.jpg"
    two_colours(size=(800, 600)).save(path)
    short = min(open_picture(str(path), 3, least).size)
    wanted = max((s for s in (75, 150, 300, 600) if s < 2 * least and s >= least), default=600)
    assert short == (75 if least <= 75 else wanted)
    assert short >= min(least, 600)


def test_only_jpeg_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    two_colours(size=(800, 600)).save(path)
    assert open_picture(str(path), 3, 10).size == (800, 600)


@pytest.mark.parametrize("name", ["a b.png", "猫 的 照片.png", "a#1.png", "a#1", "100%.png"])
def test_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    two_colours().save(path, format="PNG")
    assert open_picture(str(path), 3).size == (40, 20)
    assert probe_picture(str(path)).width == 40


def test_one_pixel(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.gif"):
        Image.new("RGB", (1, 1), RED).save(tmp_path / name)
        assert open_picture(str(tmp_path / name), 3, 100).size == (1, 1)


def test_sixty_megapixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    # 1 bit a pixel, black on the left half: 7.5 MB of rows that compress to nearly nothing.
    row = b"\0" + b"\0" * 625 + b"\xff" * 625
    path.write_bytes(png_of(10_000, 6_000, 1, 0, row * 6_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = open_picture(str(path), 1)
    assert picture.size == (10_000, 6_000)
    assert (picture.getpixel((10, 10)), picture.getpixel((9_990, 5_990))) == (0, 255)


# What cannot --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "megapixels"), [(20_000, 20_000, 400), (60_000, 60_000, "3,600")]
)
def test_too_large_is_refused_from_the_header(
    tmp_path: Path, width: int, height: int, megapixels: object
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of(width, height, 1, 0, b""))
    started = time.perf_counter()
    assert reason_for(path) == f"too large: {megapixels} megapixels (limit {MAX_MEGAPIXELS})"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests
        assert reason_for(path).startswith("too large")
    assert time.perf_counter() - started < 1


def jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format="JPEG")
    return stream.getvalue()


def png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format="PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "start"),
    [
        (b"", "file is empty"),
        (b"Dear all, here are", "not a picture (first bytes: b'Dear all, he')"),
        (b"\0" * 5000, "not a picture (first bytes: "),
        (jpeg()[:2000], "truncated: the file ends before the picture does"),
        (png()[:2000], "truncated: the file ends before the picture does"),
        (b"\xff\xd8\xff\xff\xd9\0\0\0", "damaged or truncated: begins like a JPEG"),
        (b"\x89PNG\n\n\n\n\n", "damaged or truncated: begins like a PNG"),
        (b"GIF87b no more", "damaged or truncated: begins like a GIF"),
        (png()[:200] + b"\0" * 400 + png()[600:], "damaged: "),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not read: save as JPEG"),
        (b"%PDF-1.7 ...", "a PDF, not a picture"),
        (b"PK\x03\x04...", "an archive, not a picture: unpack it"),
        (b"\x1f\x8b\x08...", "an archive, not a picture: unpack it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, not a picture"),
        (b'<?xml version="1.0"?><svg/>', "SVG or XML, not a picture of pixels"),
    ],
)
def test_reasons(tmp_path: Path, content: bytes, start: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert reason_for(path).startswith(start)


def test_reasons_that_are_not_in_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason_for(tmp_path / "gone.jpg") == "no such file"
    assert reason_for(tmp_path / "gone" / "a.jpg") == "no such file"
    assert reason_for(tmp_path / "gone.gz#3") == "no such file"
    assert reason_for(tmp_path) == "a folder, not a file"
    assert reason_for(str(tmp_path / ("x" * 300)) + "#1").startswith("cannot be read: ")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert reason_for(loop).startswith("cannot be read: ")
    path = tmp_path / "a.png"
    two_colours().save(path)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", forbidden)
        assert reason_for(path) == "no permission"


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason_for(tmp_path / "pipe.jpg") == "not a regular file"
    assert reason_for("/dev/zero") == "not a regular file"


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken"),
        ValueError("bad"),
        struct.error("short"),
        EOFError(),
        MemoryError(),
        zlib.error("stream"),
        IndexError("x"),
        Image.DecompressionBombError("Image size (999999999 pixels) exceeds"),
    ],
)
def test_whatever_a_decoder_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "a.png"
    two_colours().save(path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert reason_for(path)


def test_every_cut_of_a_file_is_a_picture_or_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for whole in (jpeg(), png()):
        for length in range(1, len(whole), 211):
            path.write_bytes(whole[:length])
            assert reason_for(path)


def test_flipped_bytes_never_escape(tmp_path: Path) -> None:
    path = tmp_path / "a"
    rng = np.random.default_rng(1)
    stream = io.BytesIO()
    two_colours().save(stream, format="TIFF", compression="tiff_lzw")
    for whole in (jpeg(), png(), stream.getvalue()):
        for _ in range(60):
            damaged = bytearray(whole)
            for position in rng.integers(0, len(whole), 5):
                damaged[position] = int(rng.integers(0, 256))
            path.write_bytes(damaged)
            with contextlib.suppress(PictureError):
                assert open_picture(str(path), 3).mode == "RGB"


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.tif", tmp_path / "b.jpg"
    two_colours().save(good)
    bad.write_bytes(jpeg()[:2000])
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.is_dir() else 0
    for _ in range(5):
        open_picture(str(good), 3)
        probe_picture(str(good))
        reason_for(bad)
    gc.collect()
    if before:
        assert len(list(handles.iterdir())) <= before


# Bundles and many at once -------------------------------------------------------------------------


def test_locators(tmp_path: Path) -> None:
    bundle = tmp_path / "train-images-idx3-ubyte"
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    bundle.write_bytes(struct.pack(">IIII", 0x803, 2, 3, 4) + pixels.tobytes())
    np.testing.assert_array_equal(np.asarray(open_picture(f"{bundle}#1", 1)), pixels[1])
    assert open_picture(f"{bundle}#0", 3).mode == "RGB"
    assert probe_picture(f"{bundle}#0") == Probe(4, 3, is_grey=True)
    assert reason_for(f"{bundle}#2") == "there are only 2 pictures in that file"
    bundle.write_bytes(b"nonsense")
    assert reason_for(f"{bundle}#0") == "this is not an IDX file"
    assert probe_picture("digits#17") == Probe(8, 8, is_grey=True)
    assert "1,797" in reason_for("digits#1797")


def test_probing_many_keeps_the_order(tmp_path: Path) -> None:
    paths = []
    for i in range(100):
        path = tmp_path / f"{i}.png"
        if i % 10 == 3:
            path.write_bytes(b"no picture")
        else:
            Image.new("L", (i + 1, 200)).save(path)
        paths.append(str(path))
    found = probe_pictures(paths, Silent())
    for i, probe in enumerate(found):
        if i % 10 == 3:
            assert isinstance(probe, PictureError)
        else:
            assert probe == Probe(i + 1, 200, is_grey=True)


def test_real_photos(shared_data: Path) -> None:
    paths = sorted(path for path in (shared_data / "hymenoptera").rglob("*") if path.is_file())
    assert len(paths) == 398
    for path in paths[::20]:
        probe = probe_picture(str(path))
        assert open_picture(str(path), 3).size == (probe.width, probe.height)
        small = open_picture(str(path), 3, 64)
        assert min(small.size) >= min(64, probe.width, probe.height)
