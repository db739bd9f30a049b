"""Which changed copies of real photos does `fieldmark check` find, and what does it take for one?

    python benchmarks/copies.py --photos ../shared/data/hymenoptera --out benchmarks/copies_DATE.md

Each change is made to every photo, one change at a time; a copy is found when it is called nearly
the same as its original. No tuning is done here: the bounds in `data/check/copies.py` are judged.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from fieldmark.data.check.copies import find_copies
from fieldmark.data.check.looks import look_at
from fieldmark.data.pictures import open_picture
from fieldmark.progress import Silent

Change = Callable[[Image.Image], Image.Image]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="pictures at any depth")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    paths = sorted(str(path) for path in arguments.photos.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as made:
        os.environ["FIELDMARK_CACHE"] = f"{made}/cache"
        num_false = num_pairs_found(paths)
        found = {name: num_found(paths, change, Path(made)) for name, change in CHANGES.items()}
    num = len(paths)
    rows = "\n".join(f"| {name} | {count} |" for name, count in found.items())
    text = (
        "# Which copies are found\n\n"
        f"Made by `python benchmarks/copies.py {' '.join(sys.argv[1:])}`, Pillow "
        f"{PIL.__version__}. {num} photos; of {num * (num - 1) // 2:,} pairs of originals "
        f"{num_false} are called copies.\n\n"
        f"| change, made to each photo | copies found, of {num} |\n|---|---|\n{rows}\n"
    )
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


def num_found(paths: list[str], change: Change, made: Path) -> int:
    """How many changed copies are called nearly the same as their originals."""
    folder = made / "copies"
    folder.mkdir(exist_ok=True)

    def write(item: tuple[int, str]) -> str:
        number, path = item
        copy = folder / f"{number}.png"
        change(open_picture(path, 3)).save(copy, compress_level=1)
        return str(copy)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        copies = [*pool.map(write, enumerate(paths))]
    found = find_copies(look_at([*paths, *copies], Silent()), Silent())
    node_of = {i: node for node, members in enumerate(found.nodes) for i in members}
    count = 0
    for i in range(len(paths)):
        original, copy = node_of[i], node_of[len(paths) + i]
        count += original == copy or copy in found.near.get(original, ())
    return count


def num_pairs_found(paths: list[str]) -> int:
    """Pairs among the originals that are called copies."""
    near = find_copies(look_at(paths, Silent()), Silent()).near
    return sum(len(others) for others in near.values()) // 2


def through(file_format: str, **words: int) -> Change:
    """Written as a file of that format, and read again."""

    def change(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, file_format, **words)
        return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")

    return change


def scaled(factor: float) -> Change:
    return lambda p: p.resize(
        (max(1, round(p.width * factor)), max(1, round(p.height * factor))),
        Image.Resampling.BICUBIC,
    )


def cropped(share: float) -> Change:
    """Without `share` of width and height, more of it on the left and at the top."""

    def change(picture: Image.Image) -> Image.Image:
        dx, dy = share * picture.width, share * picture.height
        box = (0.7 * dx, 0.6 * dy, picture.width - 0.3 * dx, picture.height - 0.4 * dy)
        return picture.crop(tuple(map(round, box)))

    return change


def with_bar(picture: Image.Image) -> Image.Image:
    """A white bar over the lower right corner, a third of the width and a tenth of the height."""
    changed = picture.copy()
    box = (round(picture.width * 2 / 3), round(picture.height * 0.9), picture.width, picture.height)
    ImageDraw.Draw(changed).rectangle(box, fill="white")
    return changed


def with_border(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(picture, round(0.05 * min(picture.size)), "white")


CHANGES: dict[str, Change] = {
    "JPEG quality 50": through("JPEG", quality=50),
    "JPEG quality 20": through("JPEG", quality=20),
    "half the size": scaled(0.5),
    "a quarter of the size": scaled(0.25),
    "twice the size": scaled(2),
    "WebP quality 60": through("WEBP", quality=60),
    "GIF, 64 colours": lambda p: p.quantize(64).convert("RGB"),
    "squashed to a square": lambda p: p.resize((min(p.size),) * 2),
    "30 % brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.3),
    "30 % darker": lambda p: ImageEnhance.Brightness(p).enhance(0.7),
    "40 % more contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.4),
    "half the saturation": lambda p: ImageEnhance.Color(p).enhance(0.5),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "cropped by 2 %": cropped(0.02),
    "cropped by 5 %": cropped(0.05),
    "cropped by 10 %": cropped(0.1),
    "cropped by 20 %": cropped(0.2),
    "turned by 2 degrees": lambda p: p.rotate(2, Image.Resampling.BICUBIC),
    "white bar over a corner": with_bar,
    "white border of 5 %": with_border,
    "mirrored": ImageOps.mirror,
}


if __name__ == "__main__":
    main()
