"""The summary of timm's networks: their own names, every stage, every weight, odd layers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from fieldmark.errors import ModelError
from fieldmark.models.summary import Summary, summarize
from fieldmark.models.timm_bridge import create_timm


def meta_summary(name: str, size_px: int = 224, **options: object) -> Summary:
    with torch.device("meta"):
        return summarize(create_timm(name, 10, **options), channels=3, size_px=size_px)


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet18",
        "convnext_atto",  # scales that belong to a block
        "vit_tiny_patch16_224",  # a class token and positions
        "efficientnet_b0",  # norms with an activation inside
        "cait_xxs24_224",  # a token handed to a layer by itself
        "coatnet_nano_rw_224",  # layers that are asked for a bias, and never called
        "beit_base_patch16_224",  # weights taken out of a layer
        "crossvit_tiny_240",  # layers that take and give lists
        "volo_d1_224",  # a second classifier, for patches
        "visformer_tiny",
    ],
)
def test_rows_have_timms_names_and_every_weight_once(name: str) -> None:
    with torch.device("meta"):
        model = create_timm(name, 10)
    summary = summarize(model, channels=3, size_px=model.default_size_px)
    net = model.net
    expected = {n for n, _ in net.named_modules()} | {n for n, _ in net.named_parameters()}
    assert {row.name for row in summary.rows} <= expected
    assert sum(row.num_parameters for row in summary.rows) == summary.num_parameters
    assert summary.num_parameters == sum(p.numel() for p in model.parameters())
    stages = list(dict.fromkeys(row.stage for row in summary.rows))
    assert stages == list(model.stages)
    assert summary.rows[-1].output_shape[-1] == 10


def test_costs_are_those_published() -> None:
    """Multiply-adds: ConvNeXt-T 4.5 G (arXiv:2201.03545), EfficientNet-B0 0.39 G (1905.11946)."""
    assert meta_summary("convnext_tiny").flops / 2 == pytest.approx(4.5e9, rel=0.015)
    assert meta_summary("efficientnet_b0").flops / 2 == pytest.approx(0.39e9, rel=0.02)
    own, timms = meta_summary("timm/resnet18"), 1_814_073_344 + 10 * 512 - 1000 * 512
    assert own.flops / 2 == timms


def test_weights_of_no_layer_stand_before_their_stage() -> None:
    rows = meta_summary("vit_tiny_patch16_224", depth=2).rows
    assert [(row.name, row.kind, row.output_shape) for row in rows[:2]] == [
        ("cls_token", "Parameter", (1, 1, 192)),
        ("pos_embed", "Parameter", (1, 197, 192)),
    ]
    assert rows[0].stage == rows[2].stage == "stem"
    assert (rows[2].name, rows[2].output_shape) == ("patch_embed.proj", (192, 14, 14))


class Odd(nn.Module):
    """Gives back a tensor, two, or nothing to count."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: object) -> object:
        if self.kind == "number":
            return 3
        if self.kind == "dictionary":
            return {"a": torch.zeros(1, 4, device="meta"), "b": 1}
        return x, [torch.zeros(1, 2, device="meta")]


def test_layers_may_take_and_give_anything() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.number, self.pair, self.named = Odd("number"), Odd("pair"), Odd("dictionary")
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.number("a word")
            first, _ = self.pair(x)
            return first + self.named([1, 2])["a"].sum() + self.scale.sum()

    summary = summarize(Net(), channels=3, size_px=4)
    assert [(row.name, row.output_shape) for row in summary.rows] == [
        ("scale", (2,)),
        ("number", ()),
        ("pair", (3, 4, 4)),
        ("named", (4,)),
    ]
    assert summary.activations_mb == pytest.approx((48 + 2 + 4) * 4 / 1e6)


def test_what_the_meta_device_cannot_do_is_followed_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = meta_summary("timm/resnet18", 64)
    forward = nn.Conv2d.forward

    def needs_numbers(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:
            raise NotImplementedError("no numbers here")
        return forward(self, x)

    with torch.device("meta"):
        on_meta = create_timm("timm/resnet18", 10)
    model = create_timm("timm/resnet18", 10).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.setattr(nn.Conv2d, "forward", needs_numbers)

    assert summarize(model, channels=3, size_px=64) == expected
    assert summarize(on_meta, channels=3, size_px=64) == expected
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_size_that_does_not_fit_is_told_in_our_words() -> None:
    with pytest.raises(ModelError, match="does not admit pictures of 100 px"):
        meta_summary("vit_tiny_patch16_224", 100, dynamic_img_size=True)
    with pytest.raises(ModelError, match="was built for pictures of 224 px and no others"):
        meta_summary("vit_tiny_patch16_224", 100)


def test_frozen_weights_are_not_counted_as_trainable() -> None:
    model = create_timm("vit_tiny_patch16_224", 10, depth=1)
    model.net.blocks.requires_grad_(False)
    frozen = sum(p.numel() for p in model.net.blocks.parameters())
    summary = summarize(model, channels=3, size_px=224)
    assert summary.num_parameters - summary.num_trainable_parameters == frozen > 0
    assert model.net.cls_token.requires_grad
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=1)
    assert summary.num_parameters == sum(p.numel() for p in plain.parameters())
