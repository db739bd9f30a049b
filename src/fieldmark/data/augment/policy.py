"""RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller & Hutter 2021), torchvision's.

The operations are torchvision's functions and their strengths those of its v2 transforms; ours are
the draws. Its transforms draw one operation for all pictures they are given, and from torch's
global generator; here each picture draws its own, from the generator of its batch. Pictures that
drew the same operation at the same strength are then computed in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Final, Literal, NamedTuple

import torch

NUM_BINS: Final = 31  # strengths of an operation, from none to the most


class Strength(NamedTuple):
    """What an operation's number is in bin 0 and in the last one, with steps as even.

    Attributes:
        signed: its sign is a coin's.
        whole: rounded to whole numbers.
    """

    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    whole: bool = False

    def at(self, position: int) -> float:
        value = self.first + (self.last - self.first) * position / (NUM_BINS - 1)
        return float(round(value)) if self.whole else value


# Translations are in px of a picture 331 px wide for RandAugment, which they follow in size (the
# paper's 150 px of AutoAugment's 331), and in plain px for TrivialAugment, whatever the size.
_TRANSLATE_SHARE: Final = 150 / 331
_NO_STRENGTH: Final = {name: Strength() for name in ("Identity", "AutoContrast", "Equalize")}


def randaugment_space(height: int, width: int) -> dict[str, Strength]:
    """The operations of `torchvision.transforms.v2.RandAugment` for pictures of this size."""
    enhance = Strength(0, 0.9, signed=True)
    return _NO_STRENGTH | {
        "ShearX": Strength(0, 0.3, signed=True),
        "ShearY": Strength(0, 0.3, signed=True),
        "TranslateX": Strength(0, _TRANSLATE_SHARE * width, signed=True),
        "TranslateY": Strength(0, _TRANSLATE_SHARE * height, signed=True),
        "Rotate": Strength(0, 30, signed=True),
        "Brightness": enhance,
        "Color": enhance,
        "Contrast": enhance,
        "Sharpness": enhance,
        "Posterize": Strength(8, 4, whole=True),
        "Solarize": Strength(1, 0),
    }


def trivialaugment_space() -> dict[str, Strength]:
    """The operations of `torchvision.transforms.v2.TrivialAugmentWide`."""
    most = Strength(0, 0.99, signed=True)
    return _NO_STRENGTH | {
        "ShearX": most,
        "ShearY": most,
        "TranslateX": Strength(0, 32, signed=True),
        "TranslateY": Strength(0, 32, signed=True),
        "Rotate": Strength(0, 135, signed=True),
        "Brightness": most,
        "Color": most,
        "Contrast": most,
        "Sharpness": most,
        "Posterize": Strength(8, 2, whole=True),
        "Solarize": Strength(1, 0),
    }


def randaugment(
    images_bchw: torch.Tensor,
    num_ops: int,
    magnitude: int,
    fill: Sequence[float],
    generator: torch.Generator,
) -> torch.Tensor:
    """`num_ops` operations a picture, one after the other, each of strength `magnitude` (0 to 30).

    Args:
        images_bchw: uint8.
        fill: one number a channel, 0-1: what comes in from outside when a picture is moved.
    """
    space = randaugment_space(*images_bchw.shape[-2:])
    for _ in range(num_ops):
        bins_b = torch.full((len(images_bchw),), magnitude)
        images_bchw = _apply_drawn(images_bchw, space, bins_b, fill, generator)
    return images_bchw


def trivialaugment(
    images_bchw: torch.Tensor, fill: Sequence[float], generator: torch.Generator
) -> torch.Tensor:
    """One operation a picture, of any strength from none to far more than RandAugment's.

    Args: as `randaugment`.
    """
    bins_b = torch.randint(NUM_BINS, (len(images_bchw),), generator=generator)
    return _apply_drawn(images_bchw, trivialaugment_space(), bins_b, fill, generator)


def _apply_drawn(
    images_bchw: torch.Tensor,
    space: Mapping[str, Strength],
    bins_b: torch.Tensor,
    fill: Sequence[float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Each picture through an operation of its own, drawn from `space`."""
    names, num = list(space), len(images_bchw)
    drawn = torch.randint(len(names), (num,), generator=generator).tolist()
    negative = torch.randint(2, (num,), generator=generator).tolist()
    alike: dict[tuple[str, float], list[int]] = {}
    for i, position in enumerate(bins_b.tolist()):
        name = names[drawn[i]]
        strength = space[name].at(position) * (-1 if space[name].signed and negative[i] else 1)
        alike.setdefault((name, strength), []).append(i)
    changed = images_bchw.clone()
    for (name, strength), members in alike.items():
        if name != "Identity":
            where = torch.tensor(members, device=images_bchw.device)
            changed[where] = apply_op(name, images_bchw[where], strength, fill)
    return changed


Op = Callable[[ModuleType, torch.Tensor, float, list[float]], torch.Tensor]


def _shear(along: Literal["x", "y"]) -> Op:
    def shear(
        tvf: ModuleType, images_bchw: torch.Tensor, strength: float, fill: list[float]
    ) -> torch.Tensor:
        # The strength is the shear of the affine matrix; torchvision takes it as an angle. About
        # the corner, not the centre: as in AutoAugment's first code, which all have followed.
        angle = math.degrees(math.atan(strength))
        angles = [angle, 0.0] if along == "x" else [0.0, angle]
        return _affine(tvf, images_bchw, fill, shear=angles, center=[0.0, 0.0])

    return shear


def _translate(along: Literal["x", "y"]) -> Op:
    def translate(
        tvf: ModuleType, images_bchw: torch.Tensor, strength: float, fill: list[float]
    ) -> torch.Tensor:
        shift = [int(strength), 0] if along == "x" else [0, int(strength)]
        return _affine(tvf, images_bchw, fill, translate=shift)

    return translate


def _affine(
    tvf: ModuleType, images_bchw: torch.Tensor, fill: list[float], **words: object
) -> torch.Tensor:
    nothing = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    moved: torch.Tensor = tvf.affine(
        images_bchw, **(nothing | words), interpolation=_bilinear(), fill=fill
    )
    return moved


def _bilinear() -> object:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BILINEAR


_OPS: Final[dict[str, Op]] = {
    "Identity": lambda tvf, x, strength, fill: x,
    "ShearX": _shear("x"),
    "ShearY": _shear("y"),
    "TranslateX": _translate("x"),
    "TranslateY": _translate("y"),
    "Rotate": lambda tvf, x, strength, fill: tvf.rotate(
        x, strength, interpolation=_bilinear(), fill=fill
    ),
    "Brightness": lambda tvf, x, strength, fill: tvf.adjust_brightness(x, 1 + strength),
    "Color": lambda tvf, x, strength, fill: tvf.adjust_saturation(x, 1 + strength),
    "Contrast": lambda tvf, x, strength, fill: tvf.adjust_contrast(x, 1 + strength),
    "Sharpness": lambda tvf, x, strength, fill: tvf.adjust_sharpness(x, 1 + strength),
    "Posterize": lambda tvf, x, strength, fill: tvf.posterize(x, int(strength)),
    "Solarize": lambda tvf, x, strength, fill: tvf.solarize(x, 255 * strength),
    "AutoContrast": lambda tvf, x, strength, fill: tvf.autocontrast(x),
    "Equalize": lambda tvf, x, strength, fill: tvf.equalize(x),
}


def apply_op(
    name: str, images_bchw: torch.Tensor, strength: float, fill: Sequence[float]
) -> torch.Tensor:
    """One operation at one strength to (b, c, h, w) uint8 pictures; the same comes back.

    Moved pictures are resampled bilinearly, and `fill` (0-1, one number a channel) comes in.
    """
    from torchvision.transforms.v2 import functional as tvf  # 2 s: only where it is used

    return _OPS[name](tvf, images_bchw, strength, [255.0 * level for level in fill])
