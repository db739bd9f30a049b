"""Where the official weights of the networks written out here are, and what travels with them.

They are torchvision's: trained on ImageNet-1k, published by the PyTorch project under the file
names below, each of which ends in the first 8 hex digits of its sha256. Sizes, crops and figures
are those of torchvision's own `*_Weights` tables, and a test holds this table to them.
Nothing here downloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from fieldmark.errors import ModelError, closest

BASE_URL: Final = "https://download.pytorch.org/models/"
IMAGENET: Final = "imagenet"  # the word that means a network's usual weights
NUM_IMAGENET_CLASSES: Final = 1000


@dataclass(frozen=True, slots=True)
class OfficialWeights:
    """Weights that their authors have published for a network.

    Attributes:
        tag: what they are called beside "imagenet": `imagenet1k_v2`, or timm's tag.
        source: where they are: `https://HOST/FILE#sha256=HEX` (a prefix of the hash will do), or
            `hf:ORGANISATION/NAME`, after which a slash and a file's name may follow.
        preprocess: the words of `types.Preprocess` that they were trained or evaluated with.
        num_classes: outputs; 1000 are those of `imagenet_class_names`.
        num_leading_classes: outputs before those, that mean nothing here (a background class).
    """

    tag: str
    source: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = NUM_IMAGENET_CLASSES
    num_leading_classes: int = 0


def _torchvision(tag: str, file: str, *, resize_px: int = 256) -> OfficialWeights:
    digits = file.removesuffix(".pth").rpartition("-")[2]
    preprocess = {
        "size": 224,
        "resize": "crop",
        "crop_fraction": 224 / resize_px,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "channel_order": "rgb",
    }
    return OfficialWeights(tag, f"{BASE_URL}{file}#sha256={digits}", MappingProxyType(preprocess))


# The first of a network is what "imagenet" means. The second generation was trained longer, with
# more augmentation, and is the more accurate one on ImageNet.
_WEIGHTS: Final[dict[str, tuple[OfficialWeights, ...]]] = {
    "alexnet": (_torchvision("imagenet1k_v1", "alexnet-owt-7be5be79.pth"),),
    "vgg11": (_torchvision("imagenet1k_v1", "vgg11-8a719046.pth"),),
    "vgg13": (_torchvision("imagenet1k_v1", "vgg13-19584684.pth"),),
    "vgg16": (_torchvision("imagenet1k_v1", "vgg16-397923af.pth"),),
    "vgg19": (_torchvision("imagenet1k_v1", "vgg19-dcbb9e9d.pth"),),
    "vgg11_bn": (_torchvision("imagenet1k_v1", "vgg11_bn-6002323d.pth"),),
    "vgg13_bn": (_torchvision("imagenet1k_v1", "vgg13_bn-abd245e5.pth"),),
    "vgg16_bn": (_torchvision("imagenet1k_v1", "vgg16_bn-6c64b313.pth"),),
    "vgg19_bn": (_torchvision("imagenet1k_v1", "vgg19_bn-c79401a0.pth"),),
    "resnet18": (_torchvision("imagenet1k_v1", "resnet18-f37072fd.pth"),),
    "resnet34": (_torchvision("imagenet1k_v1", "resnet34-b627a593.pth"),),
    "resnet50": (
        _torchvision("imagenet1k_v2", "resnet50-11ad3fa6.pth", resize_px=232),
        _torchvision("imagenet1k_v1", "resnet50-0676ba61.pth"),
    ),
    "resnet101": (
        _torchvision("imagenet1k_v2", "resnet101-cd907fc2.pth", resize_px=232),
        _torchvision("imagenet1k_v1", "resnet101-63fe2227.pth"),
    ),
    "resnet152": (
        _torchvision("imagenet1k_v2", "resnet152-f82ba261.pth", resize_px=232),
        _torchvision("imagenet1k_v1", "resnet152-394f9c45.pth"),
    ),
}


def official_weights(name: str) -> tuple[OfficialWeights, ...]:
    """The published weights of one of the networks written out here, the usual ones first."""
    return _WEIGHTS.get(name, ())


def choose_weights(
    name: str, tag: str, published: tuple[OfficialWeights, ...]
) -> OfficialWeights | None:
    """Those of `published` that `tag` means ("imagenet": the first); None where it is no tag.

    Raises:
        ModelError: the tag is "imagenet" or begins like torchvision's, and there are none such.
    """
    word = tag.lower()  # torchvision writes IMAGENET1K_V1
    for weights in published:
        if word in (IMAGENET, weights.tag.lower()):
            return weights
    if not word.startswith(IMAGENET):
        return None
    tags = [IMAGENET, *(weights.tag for weights in published)]
    near = closest(tag, tags)
    raise ModelError(
        f"no weights of that name are published for {name}",
        given=f"--weights {tag}",
        valid=tags if published else None,
        fix=(f"did you mean {near!r}?" if near else "take one of these, or name a file")
        if published
        else "`fieldmark models` says which networks have weights; or name a file of your own",
    )


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the order of every network's outputs, each one once."""
    from torchvision.models import ResNet50_Weights  # here: importing it takes two seconds

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
