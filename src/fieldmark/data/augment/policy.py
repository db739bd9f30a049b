"""RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller & Hutter 2021), torchvision's.

The operations are torchvision's functions and their strengths those of its v2 transforms; ours are
the draws. Its transforms draw from torch's global generator, which is the training's and not the
loader thread's, and the same for all pictures they are given; here each picture draws its own,
from the generator of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

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


# RandAugment moves by AutoAugment's 150 px in a picture of 331, TrivialAugment by px as they are.
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


class Op(NamedTuple):
    """One operation for one picture."""

    name: str
    strength: float


def draw_ops(
    space: Mapping[str, Strength], bins_b: torch.Tensor, generator: torch.Generator
) -> list[Op]:
    """An operation for each picture, each as likely as any other, its strength from `bins_b`."""
    names, num = list(space), len(bins_b)
    drawn = torch.randint(len(names), (num,), generator=generator).tolist()
    negative = torch.randint(2, (num,), generator=generator).tolist()
    ops = []
    for name, position, turned in zip(
        (names[i] for i in drawn), bins_b.tolist(), negative, strict=True
    ):
        strength = space[name].at(position)
        ops.append(Op(name, -strength if space[name].signed and turned else strength))
    return ops


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

    Returns:
        New pictures, uint8.
    """
    space = randaugment_space(*images_bchw.shape[-2:])
    bins_b = torch.full((len(images_bchw),), magnitude)
    rounds = [draw_ops(space, bins_b, generator) for _ in range(num_ops)]
    return apply_ops(images_bchw, rounds, fill)


def trivialaugment(
    images_bchw: torch.Tensor,
    fill: Sequence[float],
    generator: torch.Generator,
) -> torch.Tensor:
    """One operation a picture, of any strength from none to far more than RandAugment's.

    Arguments and result as of `randaugment`.
    """
    bins_b = torch.randint(NUM_BINS, (len(images_bchw),), generator=generator)
    rounds = [draw_ops(trivialaugment_space(), bins_b, generator)]
    return apply_ops(images_bchw, rounds, fill)


def apply_ops(
    images_bchw: torch.Tensor, rounds: Sequence[Sequence[Op]], fill: Sequence[float]
) -> torch.Tensor:
    """Each round's operations, one a picture, after those of the round before.

    On a CPU on Pillow's pictures, which torchvision's functions also take: at 224 px 0.2 ms a
    picture for TrivialAugment, and 1.3 to 2 ms on tensors. On a GPU on tensors, all pictures of
    one operation and strength in one call.
    """
    levels = [round(255 * level) for level in fill]
    changed_bchw = images_bchw.clone()
    if images_bchw.device.type == "cpu":
        _apply_on_cpu(changed_bchw, rounds, levels)
        return changed_bchw
    return _apply_grouped(changed_bchw, rounds, levels)


def _apply_grouped(
    images_bchw: torch.Tensor, rounds: Sequence[Sequence[Op]], fill: list[int]
) -> torch.Tensor:
    """In place, and returned."""
    for ops in rounds:
        alike: dict[Op, list[int]] = {}
        for i, op in enumerate(ops):
            alike.setdefault(op, []).append(i)
        for op, members in alike.items():
            where = torch.tensor(members, device=images_bchw.device)
            images_bchw[where] = apply_op(images_bchw[where], op, fill)
    return images_bchw


def _apply_on_cpu(
    images_bchw: torch.Tensor, rounds: Sequence[Sequence[Op]], fill: list[int]
) -> None:
    """In place."""
    for i, pixels in enumerate(images_bchw.permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        for ops in rounds:
            picture = apply_op(picture, ops[i], fill)
        pixels[...] = np.asarray(picture).reshape(pixels.shape)


T = TypeVar("T", torch.Tensor, Image.Image)


def apply_op(picture: T, op: Op, fill: list[int]) -> T:
    """One operation, as torchvision's transforms do it when they have drawn it.

    What is moved is resampled by the nearest pixel, their default.

    Args:
        picture: uint8 (..., c, h, w), or a Pillow picture in mode "L" or "RGB".
        fill: 0 to 255, one number a channel: what comes in from outside.
    """
    from torchvision.transforms.v2 import functional as tvf  # 2 s: only where it is used

    strength = op.strength
    match op.name:
        case "Identity":
            changed = picture
        # The strength is the shear of the affine matrix, which torchvision takes as an angle; about
        # the corner, not the centre. Both as in the code of AutoAugment, which all have followed.
        case "ShearX":
            angle = math.degrees(math.atan(strength))
            changed = _move(picture, fill, shear=[angle, 0.0], center=[0.0, 0.0])
        case "ShearY":
            angle = math.degrees(math.atan(strength))
            changed = _move(picture, fill, shear=[0.0, angle], center=[0.0, 0.0])
        case "TranslateX":
            changed = _move(picture, fill, translate=[int(strength), 0])
        case "TranslateY":
            changed = _move(picture, fill, translate=[0, int(strength)])
        case "Rotate":
            changed = tvf.rotate(picture, strength, fill=fill)
        case "Brightness":
            changed = tvf.adjust_brightness(picture, 1 + strength)
        case "Color":
            changed = tvf.adjust_saturation(picture, 1 + strength)
        case "Contrast":
            changed = tvf.adjust_contrast(picture, 1 + strength)
        case "Sharpness":
            changed = tvf.adjust_sharpness(picture, 1 + strength)
        case "Posterize":
            changed = tvf.posterize(picture, int(strength))
        case "Solarize":
            changed = tvf.solarize(picture, 255 * strength)
        case "AutoContrast":
            changed = tvf.autocontrast(picture)
        case "Equalize":
            changed = tvf.equalize(picture)
    return changed


def _move(picture: T, fill: list[int], **words: Any) -> T:
    from torchvision.transforms.v2 import functional as tvf

    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    moved: T = tvf.affine(picture, **(still | words), fill=fill)
    return moved
