"""The networks that are written out here, by name."""

from __future__ import annotations

from typing import Final

from fieldmark.models.alexnet import AlexNet
from fieldmark.models.c3 import C3ResNet
from fieldmark.models.resnet import ResNet
from fieldmark.models.vgg import VGG

NETWORKS: Final[dict[str, type[AlexNet] | type[VGG] | type[ResNet] | type[C3ResNet]]] = {
    **dict.fromkeys(AlexNet.variants, AlexNet),
    **dict.fromkeys(VGG.variants, VGG),
    **dict.fromkeys(ResNet.variants, ResNet),
    **dict.fromkeys(C3ResNet.variants, C3ResNet),
}
MODEL_NAMES: Final = tuple(NETWORKS)  # family by family, small to large


def is_own(name: str) -> bool:
    """Whether `name` is a network written out here; if not, it can only be timm's."""
    return name in NETWORKS
