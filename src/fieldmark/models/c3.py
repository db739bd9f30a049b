"""C3ResNet: ResNet's residual blocks merged into C3, which the first write-up asks about.

C3 is YOLOv5's form (github.com/ultralytics/yolov5, models/common.py) of the cross-stage partial
network: Wang et al., "CSPNet: a new backbone that can enhance learning capability of CNN",
arXiv:1911.11929, 2019. Two 1x1 convolutions of half the width look at the same map; one of them
goes through the n residual blocks of the stage, the other past all of them; a last 1x1 convolution
mixes the two. The blocks work on half the channels, so a stage costs about half.

Here a stage is a down-sampling step and a C3 of ResNet's own blocks, as many as in the ResNet of
the same name. The down-sampling is an average pooling and a 1x1 convolution (He et al., "Bag of
tricks", arXiv:1812.01187, figure 2c): 3x3 convolutions with stride 2, as in YOLOv5, would have 25
million weights at c3resnet50's widths, more than all the rest. The comparison that was measured is
in docs/networks/c3.md.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fieldmark.models.contract import (
    check_counts,
    check_images,
    check_norm_has_values,
    fresh_linear,
    init_conv,
    smallest_input_px,
)
from fieldmark.models.heads import reset_hidden_head
from fieldmark.models.resnet import BasicBlock, BlockOptions, Bottleneck


@dataclass(frozen=True)
class Variant:
    block: type[BasicBlock] | type[Bottleneck]
    num_blocks: tuple[int, int, int, int]  # residual blocks in layer1 to layer4
    widths: tuple[int, int, int, int]  # channels out of layer1 to layer4
    default_size_px: int = 224
    year: int = 2019
    paper: str = "arXiv:1911.11929"


VARIANTS = {
    "c3resnet18": Variant(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)),
    "c3resnet50": Variant(Bottleneck, (3, 4, 6, 3), (256, 512, 1024, 2048)),
}
RESIDUAL = BlockOptions(
    conv_bias=False, norm_shortcut=True, stride_on_first_1x1=False, norm_eps=1e-5
)


class C3(nn.Module):
    """Half of the channels through the residual blocks, half past them, then mixed.

    Args:
        channels: in and out.
        block: ResNet's block; `num_blocks` of them in a row, on `channels / 2` channels.
    """

    def __init__(
        self, channels: int, block: type[BasicBlock] | type[Bottleneck], num_blocks: int
    ) -> None:
        super().__init__()
        half = channels // 2
        self.through = conv_1x1(channels, half)
        self.past = conv_1x1(channels, half)
        self.blocks = nn.Sequential(
            *(block(half, half // block.expansion, 1, RESIDUAL) for _ in range(num_blocks))
        )
        self.mix = conv_1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # (b, channels, h, w), and so is what comes out
        through = self.blocks(self.through(x))  # (b, channels / 2, h, w)
        mixed: Tensor = self.mix(torch.cat([through, self.past(x)], dim=1))
        return mixed


def conv_1x1(channels: int, num_out: int) -> nn.Sequential:
    """1x1 convolution, batch norm, ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, num_out, 1, bias=False),
            bn=nn.BatchNorm2d(num_out),
            relu=nn.ReLU(inplace=True),
        )
    )


class C3ResNet(nn.Module):
    """ResNet with C3 stages, for any number of channels and classes; keeps `contract.Network`.

    Weights start as ResNet's do: convolutions normal by He et al. (arXiv:1502.01852, fan-out),
    norms the identity, the last layer as torch makes it.

    Args:
        name: a key of `VARIANTS`.

    Raises:
        ModelError: a count below one.
    """

    variants: ClassVar = VARIANTS
    stages: tuple[str, ...] = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
    first_convs: tuple[str, ...] = ("conv1",)
    classifiers: tuple[str, ...] = ("fc",)

    def __init__(
        self, name: str = "c3resnet18", num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        variant = VARIANTS[name]
        self.name, self.num_classes, self.in_channels = name, num_classes, in_channels
        self.architecture: dict[str, Any] = {}  # create_model writes it

        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        channels = 64
        layers: list[nn.Sequential] = []
        for width, num_blocks in zip(variant.widths, variant.num_blocks, strict=True):
            stage = OrderedDict[str, nn.Module]()
            if layers:  # for layer1 the pooling has just halved the map
                # ceil_mode: an odd map keeps its border, and no map becomes smaller than 1 px.
                stage["pool"] = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
            stage["widen"] = conv_1x1(channels, width)
            stage["c3"] = C3(width, variant.block, num_blocks)
            layers.append(nn.Sequential(stage))
            channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_conv(module)

        # The same sizes as in ResNet: the stem sets the limit, and 9 px after it end as 2 px.
        stem = [self.conv1, self.maxpool]
        self.min_size_px = smallest_input_px(stem)
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
        features: Tensor = self.layer4(x)  # (b, 512 e, 7, 7)
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
