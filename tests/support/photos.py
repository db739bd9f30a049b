"""Pictures that are as different as photos are, and what people do to copies of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance


def photo(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Coloured patches of every size, from a sixth of the picture down to two pixels."""
    rng = np.random.default_rng(seed)
    result = np.zeros((height, width, 3))
    for num, strength in ((3, 1.0), (6, 0.8), (12, 0.6), (24, 0.5), (60, 0.4)):
        patches = rng.integers(0, 256, (num, num, 3), np.uint8)
        layer = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
        result += strength * (np.asarray(layer, float) - 128)
    return Image.fromarray((128 + result / 1.5).clip(0, 255).astype(np.uint8))


def film(seed: int, num_frames: int, step_px: int = 6) -> list[Image.Image]:
    """A view that moves over a larger photo."""
    whole = photo(seed, 240 + step_px * num_frames, 180)
    return [whole.crop((step_px * i, 0, step_px * i + 240, 180)) for i in range(num_frames)]


def through(picture: Image.Image, file_format: str, **words: int) -> Image.Image:
    """Written as a file of that format, and read again."""
    stream = io.BytesIO()
    picture.save(stream, file_format, **words)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Without `share` of its width and height, more of it on the left and at the top."""
    dx, dy = share * picture.width, share * picture.height
    left, top = round(0.7 * dx), round(0.6 * dy)
    right, bottom = picture.width - round(0.3 * dx), picture.height - round(0.4 * dy)
    return picture.crop((left, top, right, bottom))


COPIES = {
    "JPEG, quality 40": lambda p: through(p, "JPEG", quality=40),
    "WebP, quality 50": lambda p: through(p, "WEBP", quality=50),
    "64 colours": lambda p: p.quantize(64).convert("RGB"),
    "half the size": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.BICUBIC),
    "twice the size": lambda p: p.resize((2 * p.width, 2 * p.height), Image.Resampling.BICUBIC),
    "squashed": lambda p: p.resize((160, 160)),
    "brighter by 30 %": lambda p: ImageEnhance.Brightness(p).enhance(1.3),
    "darker by 30 %": lambda p: ImageEnhance.Brightness(p).enhance(0.7),
    "more contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.4),
    "half the saturation": lambda p: ImageEnhance.Color(p).enhance(0.5),
    "grey": lambda p: p.convert("L"),
    "cropped by 2 %": lambda p: cropped(p, 0.02),
    "cropped by 5 %": lambda p: cropped(p, 0.05),
}
