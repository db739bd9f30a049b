"""ResNet: layers learn what to add to their input, so that a hundred of them still train.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv:1512.03385, 2015:
figure 5 shows the two blocks, table 1 the variants. A block computes relu(F(x) + x); where the
shape changes, x goes through a 1x1 convolution first (option B of the paper).

Bottlenecks halve the map in their 3x3 convolution, as torchvision's do ("v1.5"), not in the first
1x1 as in the paper; `stride_on_first_1x1` gives the paper's. State-dict keys are torchvision's.
`resnet10` is not in the paper: the same network with one block a stage, for tiny pictures.

The two `_keras` variants compute what Keras' networks of that name compute, so that their weights
can be taken over (`keras_weights`): `resnet50_keras2017` is the first ResNet-50 that came with
Keras, and `resnet50_keras` today's `keras.applications.ResNet50`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from fieldmark.errors import ModelError, check_choice
from fieldmark.models.contract import (
    check_counts,
    check_images,
    check_norm_eps,
    check_norm_has_values,
    fresh_linear,
    init_conv,
    smallest_input_px,
)
from fieldmark.models.heads import reset_hidden_head


@dataclass(frozen=True)
class Variant:
    bottleneck: bool  # which of the two blocks
    num_blocks: tuple[int, int, int, int]  # in layer1 to layer4
    default_size_px: int = 224
    year: int = 2015
    paper: str = "arXiv:1512.03385"
    options: Mapping[str, Any] = field(default_factory=dict)  # what `create_model` starts from


KERAS_OPTIONS = {"conv_bias": True, "stride_on_first_1x1": True}

VARIANTS = {
    "resnet10": Variant(False, (1, 1, 1, 1), default_size_px=64),
    "resnet18": Variant(False, (2, 2, 2, 2)),
    "resnet34": Variant(False, (3, 4, 6, 3)),
    "resnet50": Variant(True, (3, 4, 6, 3)),
    "resnet101": Variant(True, (3, 4, 23, 3)),
    "resnet152": Variant(True, (3, 8, 36, 3)),
    "resnet50_keras2017": Variant(
        True, (3, 4, 6, 3), options={**KERAS_OPTIONS, "pool_padding": 0, "norm_eps": 1e-3}
    ),
    "resnet50_keras": Variant(True, (3, 4, 6, 3), options={**KERAS_OPTIONS, "norm_eps": 1.001e-5}),
}
STAGE_WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolutions in layer1 to layer4


@dataclass(frozen=True)
class BlockOptions:
    """What a block needs to know of `ResNet`'s options."""

    conv_bias: bool
    norm_shortcut: bool
    stride_on_first_1x1: bool
    norm_eps: float

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_eps)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left)."""

    expansion = 1  # channels out = width * expansion

    def __init__(self, channels: int, width: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        bias = options.conv_bias
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = options.norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = options.norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, width, stride, options)

    def forward(self, x: Tensor) -> Tensor:  # (b, channels, h, w)
        out = self.relu(self.bn1(self.conv1(x)))  # (b, width, h / stride, w / stride)
        out = self.bn2(self.conv2(out))  # the same
        added: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return added


class Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3, 1x1 to four times as many (figure 5, right)."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        bias = options.conv_bias
        stride_1x1, stride_3x3 = (stride, 1) if options.stride_on_first_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, stride=stride_1x1, bias=bias)
        self.bn1 = options.norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride_3x3, padding=1, bias=bias)
        self.bn2 = options.norm(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=bias)
        self.bn3 = options.norm(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, width * 4, stride, options)

    def forward(self, x: Tensor) -> Tensor:  # (b, channels, h, w)
        out = self.relu(self.bn1(self.conv1(x)))  # (b, width, h, w)
        out = self.relu(self.bn2(self.conv2(out)))  # (b, width, h / stride, w / stride)
        out = self.bn3(self.conv3(out))  # (b, 4 width, h / stride, w / stride)
        added: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return added


def shortcut(
    channels: int, num_out: int, stride: int, options: BlockOptions
) -> nn.Sequential | None:
    """The way round a block; None where the input can be added as it is."""
    if stride == 1 and channels == num_out:
        return None
    layers: list[nn.Module] = [nn.Conv2d(channels, num_out, 1, stride, bias=options.conv_bias)]
    if options.norm_shortcut:
        layers.append(options.norm(num_out))
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """ResNet for any number of channels and classes; keeps `contract.Network`.

    Weights start as in torchvision: convolutions normal by He et al. (arXiv:1502.01852, fan-out),
    norms the identity, the last layer as torch makes it; convolution biases, if any, zero.

    Args:
        name: a key of `VARIANTS`.
        conv_bias: convolutions have biases. The batch norm after them makes them idle; the
            original Keras network and some textbooks have them.
        norm_shortcut: a batch norm after the 1x1 convolution of a shortcut. False, with
            `conv_bias`, is the textbook ResNet-18 often trained on Fashion-MNIST.
        stride_on_first_1x1: a bottleneck halves the map in its first 1x1 convolution, as in the
            paper and the original Keras network, not in its 3x3. Bottleneck variants only.
        pool_padding: px around the map before the stem's pooling, 1 or 0. The original Keras
            network has 0: from 224 px the pooling makes 55x55 instead of 56x56.
        norm_eps: what batch norms add to the variance, above 0. Keras' is larger than torch's.

    A variant's own options (`VARIANTS[name].options`) are `create_model`'s to fill in.

    Raises:
        ModelError: a count below one, or an option the variant does not have or out of range.
    """

    variants: ClassVar = VARIANTS
    stages: tuple[str, ...] = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
    first_convs: tuple[str, ...] = ("conv1",)
    classifiers: tuple[str, ...] = ("fc",)

    def __init__(
        self,
        name: str = "resnet18",
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        conv_bias: bool = False,
        norm_shortcut: bool = True,
        stride_on_first_1x1: bool = False,
        pool_padding: int = 1,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        variant = VARIANTS[name]
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_choice("pool_padding", pool_padding, (0, 1), error=ModelError)
        check_norm_eps(norm_eps)
        if stride_on_first_1x1 and not variant.bottleneck:
            raise ModelError(
                f"{name} has no 1x1 convolutions for stride_on_first_1x1 to move the stride to",
                valid=[other for other in VARIANTS if VARIANTS[other].bottleneck],
                fix="leave the option out, or take one of these networks",
            )
        self.name, self.num_classes, self.in_channels = name, num_classes, in_channels
        self.architecture: dict[str, Any] = {}  # create_model writes it

        block = Bottleneck if variant.bottleneck else BasicBlock
        options = BlockOptions(conv_bias, norm_shortcut, stride_on_first_1x1, norm_eps)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=conv_bias)
        self.bn1 = options.norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=pool_padding)

        channels = 64
        layers: list[nn.Sequential] = []
        for width, num_blocks in zip(STAGE_WIDTHS, variant.num_blocks, strict=True):
            blocks = []
            for i in range(num_blocks):
                # layer2 to 4 begin by halving the map; for layer1 the pooling has just done so.
                stride = 2 if i == 0 and layers else 1
                blocks.append(block(channels, width, stride, options))
                channels = width * block.expansion
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_conv(module)

        # Blocks bring any map down to no less than one px, so the stem alone sets the limit.
        stem = [self.conv1, self.maxpool]
        self.min_size_px = smallest_input_px(stem)
        # To leave layer4 with 2 px a map must come into layer4, 3 and 2 with 3, 5 and 9 px.
        self.min_size_alone_px = smallest_input_px(stem, output_px=9)

    def forward(self, images_bchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_bchw))

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        check_images(self, images_bchw)
        check_norm_has_values(self, images_bchw, self.min_size_alone_px)
        # Sizes for 224 px; e is the block's expansion, 1 or 4.
        x = self.relu(self.bn1(self.conv1(images_bchw)))  # (b, 64, 112, 112)
        x = self.maxpool(x)  # (b, 64, 56, 56)
        x = self.layer1(x)  # (b, 64 e, 56, 56)
        x = self.layer2(x)  # (b, 128 e, 28, 28)
        x = self.layer3(x)  # (b, 256 e, 14, 14)
        x = self.layer4(x)  # (b, 512 e, 7, 7)
        features: Tensor = x
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        flat = self.flatten(self.avgpool(features))  # (b, 512 e)
        logits_bk: Tensor = self.fc(flat)
        return logits_bk

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        return {
            "stem": [self.conv1, self.bn1, self.relu, self.maxpool],
            "layer1": [self.layer1],
            "layer2": [self.layer2],
            "layer3": [self.layer3],
            "layer4": [self.layer4],
            "head": [self.avgpool, self.flatten, self.fc],
        }

    def reset_classifier(self, num_classes: int) -> None:
        check_counts(num_classes=num_classes, in_channels=self.in_channels)
        if reset_hidden_head(self, num_classes):
            return
        self.fc = fresh_linear(self.fc, num_classes)
        self.num_classes = self.architecture["num_classes"] = num_classes
