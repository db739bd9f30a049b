"""AlexNet: five convolutions and three dense layers; the network that began it all.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
NIPS 2012: two towers of equal width, one a GPU, that see each other in the third convolution and
the dense layers only. `alexnet_half` is one of these towers, alone.
Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997,
2014: one tower, somewhat narrower than the two together. `alexnet` is that one, with the widths
and the state-dict keys of torchvision's weights.

Both leave out the first paper's local response normalisation (section 3.3), as the second does and
VGG's paper advises: there it cost time and memory and brought nothing (arXiv:1409.1556, table 3,
A-LRN beside A). `lrn=True` puts it back where the paper has it.
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
    smallest_input_px,
)
from fieldmark.models.heads import reset_hidden_head


@dataclass(frozen=True)
class Variant:
    conv_widths: tuple[int, int, int, int, int]  # channels out of each convolution
    dense_width: int  # units in each of the two hidden dense layers
    year: int
    paper: str
    default_size_px: int = 224


VARIANTS = {
    "alexnet": Variant((64, 192, 384, 256, 256), 4096, 2014, "arXiv:1404.5997"),
    "alexnet_half": Variant((48, 128, 192, 192, 128), 2048, 2012, "Krizhevsky et al., NIPS 2012"),
}


class AlexNet(nn.Module):
    """AlexNet for any number of channels and classes; keeps `contract.Network`.

    Weights start as torch's own layers make them, which is what torchvision does here: uniform,
    from the fan-in (He et al., arXiv:1502.01852, with a = sqrt(5)).

    Args:
        name: a key of `VARIANTS`.
        dropout: share of the inputs of each hidden dense layer dropped in training (paper, 4.2).
        lrn: divide what comes out of the first two convolutions by how strongly five neighbouring
            channels answer at the same place (paper, 3.3). It has no weights.

    Raises:
        ModelError: a count below one, or dropout outside [0, 1).
    """

    variants: ClassVar = VARIANTS
    stages: tuple[str, ...] = ("block1", "block2", "block3", "block4", "block5", "head")
    first_convs: tuple[str, ...] = ("features.0",)
    classifiers: tuple[str, ...] = ("classifier.6",)

    def __init__(
        self,
        name: str = "alexnet",
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        dropout: float = 0.5,
        lrn: bool = False,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_dropout(dropout)
        w1, w2, w3, w4, w5 = VARIANTS[name].conv_widths
        dense = VARIANTS[name].dense_width
        self.name, self.num_classes, self.in_channels = name, num_classes, in_channels
        self.architecture: dict[str, Any] = {}  # create_model writes it

        self.features = nn.Sequential(  # sizes for 224 px
            nn.Conv2d(in_channels, w1, kernel_size=11, stride=4, padding=2),  # (b, w1, 55, 55)
            relu_and_norm(lrn),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (b, w1, 27, 27): windows overlap, paper 3.4
            nn.Conv2d(w1, w2, kernel_size=5, padding=2),  # (b, w2, 27, 27)
            relu_and_norm(lrn),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (b, w2, 13, 13)
            nn.Conv2d(w2, w3, kernel_size=3, padding=1),  # (b, w3, 13, 13)
            nn.ReLU(inplace=True),
            nn.Conv2d(w3, w4, kernel_size=3, padding=1),  # (b, w4, 13, 13)
            nn.ReLU(inplace=True),
            nn.Conv2d(w4, w5, kernel_size=3, padding=1),  # (b, w5, 13, 13)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (b, w5, 6, 6)
        )
        # At 224 px this changes nothing; it is what makes the dense layers fit any other size.
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # (b, w5, 6, 6)
        self.flatten = nn.Flatten()  # (b, w5 * 36)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(w5 * 6 * 6, dense),  # (b, dense)
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(dense, dense),  # (b, dense)
            nn.ReLU(inplace=True),
            nn.Linear(dense, num_classes),  # (b, k)
        )
        self.min_size_px = smallest_input_px(self.features)

    def forward(self, images_bchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_bchw))

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        check_images(self, images_bchw)
        features: Tensor = self.features(images_bchw)  # (b, w5, 6, 6) at 224 px
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        flat = self.flatten(self.avgpool(features))  # (b, w5 * 36)
        logits_bk: Tensor = self.classifier(flat)
        return logits_bk

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        """A block is a convolution and what follows it."""
        blocks: list[list[nn.Module]] = []
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                blocks.append([])
            blocks[-1].append(layer)
        head: list[nn.Module] = [self.avgpool, self.flatten, self.classifier]
        return dict(zip(self.stages, [*blocks, head], strict=True))

    def reset_classifier(self, num_classes: int) -> None:
        check_counts(num_classes=num_classes, in_channels=self.in_channels)
        if reset_hidden_head(self, num_classes):
            return
        last = self.classifier[-1]
        assert isinstance(last, nn.Linear)
        self.classifier[-1] = fresh_linear(last, num_classes)
        self.num_classes = self.architecture["num_classes"] = num_classes


def relu_and_norm(lrn: bool) -> nn.Module:
    """The step after a convolution; one module either way, so that no state-dict key changes."""
    relu = nn.ReLU(inplace=True)
    if not lrn:
        return relu
    # The paper's alpha of 1e-4 weighs the sum over the 5 channels, torch's their mean.
    return nn.Sequential(relu, nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0))
