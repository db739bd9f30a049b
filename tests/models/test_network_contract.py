"""The contract holds for every network there is, and the messages say what people need.

Most of it runs on the meta device, where shapes are real and numbers are not, so that the whole
registry is quick; what needs numbers takes the small networks here, and all of them in
`test_registry_walk`.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fieldmark.errors import ModelError
from fieldmark.models.contract import Network, as_network, smallest_input_px
from fieldmark.models.registry import create_model, list_models

NAMES = [card.name for card in list_models()]
NETWORKS = [
    *((name, {}) for name in NAMES),
    ("resnet50", {"conv_bias": True, "stride_on_first_1x1": True, "pool_padding": 0}),
    ("resnet18", {"conv_bias": True, "norm_shortcut": False}),
    ("alexnet", {"lrn": True}),
]


def meta_model(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **arguments)


def run_stages(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The network without its own checks: what torch itself makes of `x`."""
    for modules in model.stage_modules().values():
        for module in modules:
            x = module(x)
    return x


@pytest.mark.parametrize("name", NAMES)
def test_every_network_keeps_the_contract(name: str) -> None:
    model = meta_model(name, num_classes=7, in_channels=2)
    network = as_network(model)
    assert isinstance(network, Network)
    assert (network.name, network.num_classes, network.in_channels) == (name, 7, 2)
    assert network.stages[-1] == "head"
    size_px = network.min_size_px
    features = network.forward_features(torch.zeros(3, 2, size_px, size_px, device="meta"))
    assert features.ndim == 4
    assert network.forward_head(features).shape == (3, 7)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_and_buffer_lies_in_exactly_one_stage(name: str) -> None:
    model = meta_model(name)
    staged = model.stage_modules()
    assert tuple(staged) == model.stages
    found = Counter(
        id(tensor)
        for modules in staged.values()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
    expected = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    assert found == Counter(expected)
    for stage, modules in staged.items():
        has_weights = any(True for module in modules for _ in module.parameters())
        assert has_weights, f"stage {stage} holds no weights"


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_first_convolutions_and_classifiers_are_layers_of_the_shapes_promised(
    name: str, options: dict[str, object]
) -> None:
    model = meta_model(name, num_classes=7, in_channels=2, **options)
    state = model.state_dict()
    for layer in model.first_convs:
        assert isinstance(model.get_submodule(layer), nn.Conv2d)
        assert state[f"{layer}.weight"].shape[1] == 2
    for layer in model.classifiers:
        assert isinstance(model.get_submodule(layer), nn.Linear)
        assert state[f"{layer}.weight"].shape[0] == state[f"{layer}.bias"].shape[0] == 7
    # Other channels and classes change these and nothing else.
    other = meta_model(name, num_classes=8, in_channels=5, **options).state_dict()
    changed = {key for key in state if state[key].shape != other[key].shape}
    assert changed == {
        *(f"{layer}.weight" for layer in model.first_convs),
        *(f"{layer}.{word}" for layer in model.classifiers for word in ("weight", "bias")),
    }


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_min_size_is_the_smallest_that_works(name: str, options: dict[str, object]) -> None:
    model = meta_model(name, num_classes=4, **options)
    smallest_px = model.min_size_px
    for training in (True, False):
        model.train(training)
        images = torch.zeros(2, 3, smallest_px, smallest_px, device="meta")
        assert model(images).shape == (2, 4)
        for height, width in ((smallest_px - 1, smallest_px), (smallest_px, smallest_px - 1)):
            with pytest.raises(ModelError, match=rf"{name} needs .* at least {smallest_px} px"):
                model(torch.zeros(2, 3, height, width, device="meta"))
    if smallest_px > 1:  # the limit is torch's, not ours
        with pytest.raises(RuntimeError, match=r"too small|greater than actual input size"):
            run_stages(model, torch.zeros(2, 3, smallest_px - 1, smallest_px - 1, device="meta"))


@pytest.mark.parametrize("name", ["alexnet_half", "resnet10", "resnet50", "c3resnet18"])
def test_the_smallest_picture_trains_for_real(name: str) -> None:
    model = create_model(name, num_classes=2).train()
    images = torch.randn(2, 3, model.min_size_px, model.min_size_px)
    loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    extra_height=st.integers(0, 90),
    extra_width=st.integers(0, 90),
    num_pictures=st.integers(1, 3),
    in_channels=st.integers(1, 5),
    num_classes=st.integers(1, 6),
)
def test_any_size_channels_and_classes_work(
    name: str,
    extra_height: int,
    extra_width: int,
    num_pictures: int,
    in_channels: int,
    num_classes: int,
) -> None:
    model = meta_model(name, num_classes=num_classes, in_channels=in_channels).eval()
    height, width = model.min_size_px + extra_height, model.min_size_px + extra_width
    images = torch.zeros(num_pictures, in_channels, height, width, device="meta")
    assert model(images).shape == (num_pictures, num_classes)


@settings(max_examples=200, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.booleans(), st.integers(1, 7), st.integers(1, 4), st.integers(0, 3)).filter(
            lambda layer: 2 * layer[3] <= layer[1]  # pooling admits half its kernel as padding
        ),
        min_size=1,
        max_size=4,
    ),
    output_px=st.integers(1, 3),
)
def test_smallest_input_px_agrees_with_trying(
    layers: list[tuple[bool, int, int, int]], output_px: int
) -> None:
    row = [
        nn.Conv2d(1, 1, kernel, stride, padding, device="meta")
        if is_conv
        else nn.MaxPool2d(kernel, stride, padding)
        for is_conv, kernel, stride, padding in layers
    ]

    def works(size_px: int) -> bool:
        try:
            x = torch.zeros(1, 1, size_px, size_px, device="meta")
            for layer in row:
                x = layer(x)
        except RuntimeError:
            return False
        return x.shape[-1] >= output_px

    smallest_px = smallest_input_px(row, output_px)
    assert works(smallest_px)
    assert smallest_px == 1 or not works(smallest_px - 1)


@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier_changes_the_last_layer_and_nothing_else(name: str) -> None:
    model = meta_model(name, num_classes=5).to(torch.float64)
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    model.reset_classifier(3)
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(after) == list(before)
    # The others are the very same tensors.
    fresh = [key for key in after if after[key] is not before[key]]
    assert fresh == [f"{model.classifiers[0]}.{word}" for word in ("weight", "bias")]
    assert [after[key].shape[0] for key in fresh] == [3, 3]
    assert all(after[key].dtype == torch.float64 and after[key].is_meta for key in fresh)
    assert all(after[key].requires_grad for key in fresh)
    assert model.num_classes == model.architecture["num_classes"] == 3
    images = torch.zeros(1, 3, 64, 64, dtype=torch.float64, device="meta")
    assert model.eval()(images).shape == (1, 3)
    with pytest.raises(ModelError, match="num_classes must be a whole number"):
        model.reset_classifier(0)


@pytest.mark.parametrize("name", ["alexnet_half", "vgg11", "resnet10"])
def test_wrong_images_are_told_in_words(name: str) -> None:
    model = meta_model(name, in_channels=3)

    def complaint(images: torch.Tensor) -> str:
        with pytest.raises(ModelError) as caught:
            model(images)
        return str(caught.value)

    grey = complaint(torch.zeros(2, 1, 64, 64, device="meta"))
    assert f"{name} was built for pictures with 3 channels" in grey
    assert "1 channels" in grey
    assert "in_channels=1" in grey
    assert "image[None]" in complaint(torch.zeros(3, 64, 64, device="meta"))
    assert "torch.uint8" in complaint(torch.zeros(2, 3, 64, 64, device="meta", dtype=torch.uint8))
    oblong = complaint(torch.zeros(2, 3, model.min_size_px - 1, 99, device="meta"))
    assert f"{model.min_size_px - 1} px high, 99 px wide" in oblong


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet10", {}), ("resnet10", {"pool_padding": 0}), ("c3resnet18", {})],
    ids=["padded", "unpadded", "c3"],
)
def test_one_small_picture_alone_cannot_train(name: str, options: dict[str, int]) -> None:
    model = create_model(name, num_classes=2, **options).train()
    enough_px = model.min_size_alone_px
    with pytest.raises(ModelError, match="cannot train on a batch of one picture this small"):
        model(torch.randn(1, 3, enough_px - 1, enough_px - 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # torch's own limit
        run_stages(model, torch.randn(1, 3, enough_px - 1, enough_px - 1))
    assert model(torch.randn(1, 3, enough_px, model.min_size_px)).shape == (1, 2)
    assert model(torch.randn(2, 3, model.min_size_px, model.min_size_px)).shape == (2, 2)
    assert model.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 2)


def test_a_foreign_module_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="not one of Fieldmark's networks") as caught:
        as_network(nn.Linear(2, 2))
    assert "Linear" in str(caught.value)
