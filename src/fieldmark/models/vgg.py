"""VGG: nothing but 3x3 convolutions, in five blocks, each ended by a pooling that halves the map.

Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition",
arXiv:1409.1556, 2014, table 1. Two 3x3 convolutions in a row see 5x5 px and three see 7x7, with
fewer weights than one large kernel and a non-linearity after each.

The `_bn` variants put a batch norm (Ioffe, Szegedy, arXiv:1502.03167) after every convolution.
That came after the paper, and is what lets the deep ones train from scratch without first
training the shallow ones. State-dict keys are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fieldmark.models.contract import (
    check_counts,
    check_dropout,
    check_images,
    fresh_linear,
    init_conv,
    smallest_input_px,
)
from fieldmark.models.heads import reset_hidden_head


@dataclass(frozen=True)
class Variant:
    num_convs: tuple[int, int, int, int, int]  # convolutions in each block
    norm: bool = False  # a batch norm after each of them
    year: int = 2014
    paper: str = "arXiv:1409.1556"
    default_size_px: int = 224


VARIANTS = {
    "vgg11": Variant((1, 1, 2, 2, 2)),  # column A of table 1
    "vgg13": Variant((2, 2, 2, 2, 2)),  # column B
    "vgg16": Variant((2, 2, 3, 3, 3)),  # column D
    "vgg19": Variant((2, 2, 4, 4, 4)),  # column E
    "vgg11_bn": Variant((1, 1, 2, 2, 2), norm=True),
    "vgg13_bn": Variant((2, 2, 2, 2, 2), norm=True),
    "vgg16_bn": Variant((2, 2, 3, 3, 3), norm=True),
    "vgg19_bn": Variant((2, 2, 4, 4, 4), norm=True),
}
BLOCK_WIDTHS = (64, 128, 256, 512, 512)  # channels out of each block
DENSE_WIDTH = 4096


class VGG(nn.Module):
    """VGG for any number of channels and classes; keeps `contract.Network`.

    Weights start as in torchvision: convolutions normal by He et al. (arXiv:1502.01852, fan-out),
    dense layers normal with standard deviation 0.01, biases zero. (The paper, 3.1, draws all of
    them with variance 0.01, and starts the deep networks from the trained vgg11.)

    Args:
        name: a key of `VARIANTS`.
        dropout: share of each hidden dense layer's outputs dropped in training (paper, 3.1).

    Raises:
        ModelError: a count below one, or dropout outside [0, 1).
    """

    variants: ClassVar = VARIANTS
    stages: tuple[str, ...] = ("block1", "block2", "block3", "block4", "block5", "head")
    first_convs: tuple[str, ...] = ("features.0",)
    classifiers: tuple[str, ...] = ("classifier.6",)

    def __init__(
        self,
        name: str = "vgg16",
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_dropout(dropout)
        variant = VARIANTS[name]
        self.name, self.num_classes, self.in_channels = name, num_classes, in_channels
        self.architecture: dict[str, Any] = {}  # create_model writes it

        layers: list[nn.Module] = []
        channels = in_channels
        for num_convs, width in zip(variant.num_convs, BLOCK_WIDTHS, strict=True):
            for _ in range(num_convs):
                layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
                if variant.norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        # At 224 px this changes nothing; it is what makes the dense layers fit any other size.
        self.avgpool = nn.AdaptiveAvgPool2d(7)  # (b, 512, 7, 7)
        self.flatten = nn.Flatten()  # (b, 25088)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, DENSE_WIDTH),  # (b, 4096): three quarters of vgg16's weights
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(DENSE_WIDTH, DENSE_WIDTH),  # (b, 4096)
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(DENSE_WIDTH, num_classes),  # (b, k)
        )
        self.min_size_px = smallest_input_px(self.features)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_conv(module)
            elif isinstance(module, nn.Linear):
                init_dense(module)

    def forward(self, images_bchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_bchw))

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        check_images(self, images_bchw)
        # 224 px become 64x112x112 after block1, then 128x56x56, 256x28x28, 512x14x14, and last
        features: Tensor = self.features(images_bchw)  # (b, 512, 7, 7)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        flat = self.flatten(self.avgpool(features))  # (b, 25088)
        logits_bk: Tensor = self.classifier(flat)
        return logits_bk

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        """A block ends with its pooling."""
        blocks: list[list[nn.Module]] = [[]]
        for layer in self.features:
            blocks[-1].append(layer)
            if isinstance(layer, nn.MaxPool2d):
                blocks.append([])
        blocks[-1] += [self.avgpool, self.flatten, self.classifier]
        return dict(zip(self.stages, blocks, strict=True))

    def reset_classifier(self, num_classes: int) -> None:
        check_counts(num_classes=num_classes, in_channels=self.in_channels)
        if reset_hidden_head(self, num_classes):
            return
        last = self.classifier[-1]
        assert isinstance(last, nn.Linear)
        self.classifier[-1] = init_dense(fresh_linear(last, num_classes))
        self.num_classes = self.architecture["num_classes"] = num_classes


def init_dense(layer: nn.Linear) -> nn.Linear:
    """Start a dense layer as torchvision does."""
    if not layer.weight.is_meta:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layer
