"""The summary against hand computation, the write-ups' tables, and a model that must not change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fieldmark.errors import ModelError
from fieldmark.models.registry import create_model, list_models
from fieldmark.models.summary import Summary, summarize


def meta_summary(name: str, size_px: int = 224, channels: int = 3, **arguments: object) -> Summary:
    with torch.device("meta"):
        model = create_model(name, in_channels=channels, **arguments)
    return summarize(model, channels=channels, size_px=size_px)


def test_flops_shapes_and_bytes_of_two_layers_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=5, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)
    )
    model[0].bias.requires_grad_(False)
    summary = summarize(model, channels=3, size_px=10)
    conv, flat, linear = summary.rows
    assert [row.name for row in summary.rows] == ["0", "1", "2"]
    assert (conv.kind, flat.kind, linear.kind) == ("Conv2d", "Flatten", "Linear")
    assert conv.output_shape == (8, 4, 4)  # floor((10 + 2 - 5) / 2) + 1
    assert (flat.output_shape, linear.output_shape) == ((128,), (10,))
    # Each of 8*4*4 outputs is a sum of 3*5*5 products; each of 10, of 128.
    assert (conv.flops, flat.flops, linear.flops) == (2 * 8 * 4 * 4 * 75, 0, 2 * 128 * 10)
    assert (conv.num_parameters, linear.num_parameters) == (8 * 75 + 8, 1290)
    assert summary.num_parameters == 608 + 1290
    assert summary.num_trainable_parameters == 600 + 1290
    assert summary.flops == conv.flops + linear.flops
    assert summary.input_mb == pytest.approx(3 * 10 * 10 * 4 / 1e6)
    assert summary.activations_mb == pytest.approx((128 + 128 + 10) * 4 / 1e6)
    assert summary.parameters_mb == pytest.approx(1898 * 4 / 1e6)
    assert {row.stage for row in summary.rows} == {""}


def test_shapes_of_the_fashion_mnist_write_up_module_by_module() -> None:
    summary = meta_summary(
        "resnet18", channels=1, num_classes=10, conv_bias=True, norm_shortcut=False
    )
    assert summary.num_parameters == 11_178_378
    assert summary.input_shape == (1, 224, 224)
    shapes = {row.name: row.output_shape for row in summary.rows}
    assert shapes["conv1"] == (64, 112, 112)
    assert shapes["maxpool"] == (64, 56, 56)
    last_of_stage = {row.stage: row.output_shape for row in summary.rows}
    assert last_of_stage == {
        "stem": (64, 56, 56),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
        "head": (10,),
    }
    assert shapes["flatten"] == (512,)


def test_resnet50_costs_what_the_paper_says() -> None:
    summary = meta_summary("resnet50", num_classes=4)
    assert summary.num_parameters == 23_516_228
    assert summary.flops / 2 == pytest.approx(4.1e9, rel=0.01)  # multiply-adds, table 1 rounds
    # The paper's own stride makes it cheaper: 3.8e9 in its table 1.
    original = meta_summary("resnet50", stride_on_first_1x1=True)
    assert original.flops / 2 == pytest.approx(3.8e9, rel=0.02)
    assert summary.parameters_mb == pytest.approx(23_516_228 * 4 / 1e6)


@pytest.mark.parametrize("name", [card.name for card in list_models()])
def test_rows_add_up_for_every_network(name: str) -> None:
    summary = meta_summary(name, size_px=64)
    card = next(card for card in list_models() if card.name == name)
    assert sum(row.num_parameters for row in summary.rows) == summary.num_parameters
    assert summary.num_parameters == card.num_parameters
    assert sum(row.flops for row in summary.rows) == summary.flops
    stages = list(dict.fromkeys(row.stage for row in summary.rows))
    with torch.device("meta"):
        assert tuple(stages) == create_model(name).stages  # each whole before the next begins
    assert summary.rows[-1].output_shape == (1000,)


def test_the_model_is_left_as_it_was() -> None:
    model = create_model("resnet10", num_classes=3)
    model.train()
    model.layer1.eval()
    model.fc.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    weights = [(id(p), p.data_ptr()) for p in model.parameters()]
    random_state = torch.get_rng_state()

    summary = summarize(model, channels=3, size_px=40)

    assert summary.num_parameters - summary.num_trainable_parameters == 3 * 512
    assert [module.training for module in model.modules()] == modes
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == weights
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_layer_that_runs_twice_has_two_rows_and_its_weights_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    summary = summarize(Twice(), channels=2, size_px=3)
    assert [row.num_parameters for row in summary.rows] == [6, 0]
    assert [row.flops for row in summary.rows] == [2 * 2 * 2 * 9] * 2
    assert summary.num_parameters == 6


def test_half_precision_halves_the_bytes() -> None:
    whole = meta_summary("resnet10", size_px=32)
    with torch.device("meta"):
        half = summarize(create_model("resnet10").bfloat16(), channels=3, size_px=32)
    assert half.parameters_mb == pytest.approx(whole.parameters_mb / 2)
    assert half.activations_mb == pytest.approx(whole.activations_mb / 2)
    assert half.input_mb == pytest.approx(whole.input_mb / 2)


def test_a_picture_the_network_does_not_admit_is_told() -> None:
    with pytest.raises(ModelError, match="alexnet needs pictures of at least 63 px"):
        meta_summary("alexnet", size_px=62)
    with torch.device("meta"):
        model = create_model("resnet18", in_channels=1)
    with pytest.raises(ModelError, match="built for pictures with 1 channels"):
        summarize(model, channels=3, size_px=64)
