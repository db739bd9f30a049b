"""Weights of a network much like this one: every adaptation is exact, or it is said, or refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from fieldmark.errors import CheckpointError
from fieldmark.models.contract import as_network
from fieldmark.models.fit import Classes, check_fits, count_ends, fit_tensors
from fieldmark.models.layouts import from_timm, to_timm
from fieldmark.models.registry import create_model

SIZE_PX = 32
ABC = ("ant", "bee", "cat")
UNKNOWN = Classes()


def network(num_classes: int = 3, in_channels: int = 3, seed: int = 0) -> nn.Module:
    """A network whose answers differ from picture to picture, as a trained one's do."""
    torch.manual_seed(seed)
    model = create_model("resnet10", num_classes, in_channels).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], classes: Classes = UNKNOWN
) -> tuple[nn.Module, list[str]]:
    """`model` with what `fit_tensors` makes of `tensors`, and what it said."""
    own = model.state_dict()
    fitted, said = fit_tensors(as_network(model), own, tensors, "w.pth", classes)
    model.load_state_dict(fitted, strict=True)
    return model.eval(), said


def refused(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    own = model.state_dict()
    with pytest.raises(CheckpointError) as caught:
        fit_tensors(as_network(model), own, tensors, "w.pth")
    return str(caught.value)


def pictures(channels: int, count: int = 2, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, SIZE_PX, SIZE_PX, generator=generator)


@torch.no_grad()
def logits(model: nn.Module, images_bchw: Tensor) -> Tensor:
    answer: Tensor = model(images_bchw)
    return answer


# The first convolution ----------------------------------------------------------------------------


def test_grey_gets_the_answer_of_its_copy_in_three_channels() -> None:
    colour = network()
    grey, said = fit(network(in_channels=1, seed=1), colour.state_dict())
    picture = pictures(1)
    torch.testing.assert_close(
        logits(grey, picture), logits(colour, picture.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )
    assert said[0] == "the first convolution's 3 channels summed into one"


def test_a_colour_picture_that_is_grey_gets_the_answer_of_the_grey_network() -> None:
    grey = network(in_channels=1)
    colour, said = fit(network(seed=1), grey.state_dict())
    picture = pictures(1)
    torch.testing.assert_close(
        logits(colour, picture.expand(-1, 3, -1, -1)), logits(grey, picture), rtol=1e-4, atol=1e-5
    )
    assert said[0] == "the first convolution's channel repeated for 3"


def test_more_channels_than_three_keep_the_answer_where_all_are_equal_and_so_the_kernels() -> None:
    """Repeated in turn, five channels hold R, G, B, R, G: exact where these kernels are equal."""
    colour = network()
    with torch.no_grad():
        colour.conv1.weight.copy_(colour.conv1.weight.mean(dim=1, keepdim=True).expand(-1, 3, 7, 7))
    five, _ = fit(network(in_channels=5, seed=1), colour.state_dict())
    picture = pictures(1)
    torch.testing.assert_close(
        logits(five, picture.expand(-1, 5, -1, -1)),
        logits(colour, picture.expand(-1, 3, -1, -1)),
        rtol=1e-4,
        atol=1e-5,
    )


@given(theirs=st.integers(1, 6), multiple=st.integers(1, 4), level=st.floats(-3, 3))
@settings(max_examples=20)
def test_as_much_comes_in_as_before_where_every_channel_is_repeated_as_often(
    theirs: int, multiple: int, level: float
) -> None:
    """A picture of one colour keeps its answer, whatever the kernels."""
    before = nn.Conv2d(theirs, 4, 3, bias=False)
    with torch.device("meta"):
        model = as_network(create_model("resnet10", 3, theirs * multiple))
    model.first_convs = ("conv",)
    own = {"conv.weight": torch.zeros(4, theirs * multiple, 3, 3)} | classifier(3)
    tensors = {"conv.weight": before.weight.detach()} | classifier(3)
    fitted, _ = fit_tensors(model, own, tensors, "w")
    flat = torch.full((1, theirs * multiple, 3, 3), level)
    after = nn.functional.conv2d(flat, fitted["conv.weight"])
    torch.testing.assert_close(after, before(flat[:, :theirs]).detach(), rtol=1e-4, atol=1e-5)


def classifier(num_classes: int) -> dict[str, Tensor]:
    return {"fc.weight": torch.zeros(num_classes, 512), "fc.bias": torch.zeros(num_classes)}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_channels_are_adapted_as_timm_does_it(channels: int) -> None:
    colour = network().state_dict()
    wanted = adapt_input_conv(channels, colour["conv1.weight"].clone())
    own = network(in_channels=channels, seed=1).state_dict()
    with torch.device("meta"):
        model = as_network(create_model("resnet10", 3, channels))
    fitted, _ = fit_tensors(model, own, colour, "w")
    assert torch.equal(fitted["conv1.weight"], wanted)


def test_the_file_is_not_changed_and_half_precision_is_added_up_in_full() -> None:
    tensors = {key: value.half() for key, value in network().state_dict().items()}
    before = {key: value.clone() for key, value in tensors.items()}
    grey, _ = fit(network(5, 1, seed=1), tensors)
    assert all(torch.equal(before[key], value) for key, value in tensors.items())
    wanted = before["conv1.weight"].float().sum(1, keepdim=True)
    assert torch.equal(grey.conv1.weight.detach(), wanted)  # type: ignore[union-attr]


# The classifier -----------------------------------------------------------------------------------


def test_other_classes_get_a_new_classifier_and_everything_else_is_taken() -> None:
    source, target = network(7), network(3, seed=1)
    drawn = {key: value.clone() for key, value in target.state_dict().items() if "fc." in key}
    fitted, said = fit(target, source.state_dict())
    assert said == ["a new classifier, for 3 classes instead of 7"]
    state = fitted.state_dict()
    assert all(torch.equal(state[key], value) for key, value in drawn.items())
    rest = {key: value for key, value in source.state_dict().items() if "fc." not in key}
    assert len(rest) == len(state) - 2
    assert all(torch.equal(state[key], value) for key, value in rest.items())


def test_the_same_number_of_classes_keeps_the_classifier() -> None:
    source = network()
    picture = pictures(3)
    for classes, told in (
        (Classes(), "classifier included"),
        (Classes(None, ABC), "classifier included"),
        (Classes(ABC, None), "classifier included"),
        (Classes(ABC, ABC), "classifier included, for the same classes"),
    ):
        fitted, said = fit(network(seed=1), source.state_dict(), classes)
        assert said == [told]
        assert torch.equal(logits(fitted, picture), logits(source, picture))


@given(order=st.permutations(range(6)))
@settings(max_examples=10)
def test_the_same_names_in_another_order_put_the_rows_in_order(order: list[int]) -> None:
    names = [f"class {letter}" for letter in "abcdef"]
    wanted = [names[i] for i in order]
    source = network(6)
    fitted, said = fit(network(6, seed=1), source.state_dict(), Classes(names, wanted))
    picture = pictures(3)
    torch.testing.assert_close(logits(fitted, picture), logits(source, picture)[:, order])
    in_order = list(order) == sorted(order)
    assert said == [
        "classifier included, for the same classes"
        if in_order
        else "classifier included, its classes put in the order of yours"
    ]


def test_other_names_keep_the_classifier_and_that_is_said() -> None:
    source = network()
    fitted, said = fit(network(seed=1), source.state_dict(), Classes(ABC, ("dog", "elk", "fox")))
    assert said == [
        "classifier included, though its classes are called ant, bee, cat and yours dog, elk, fox"
    ]
    assert torch.equal(logits(fitted, pictures(3)), logits(source, pictures(3)))


def test_weights_without_a_classifier_leave_the_new_one() -> None:
    target = network(seed=1)
    drawn = target.fc.weight.detach().clone()  # type: ignore[union-attr]
    headless = {k: v for k, v in network().state_dict().items() if not k.startswith("fc.")}
    fitted, said = fit(target, headless)
    assert said == ["it has no classifier: a new one, for 3 classes"]
    assert torch.equal(fitted.fc.weight.detach(), drawn)  # type: ignore[union-attr]


@pytest.mark.parametrize("leading", [1, 2])
def test_outputs_before_the_first_class_are_dropped(leading: int) -> None:
    source = network(3 + leading)
    fitted, said = fit(network(seed=1), source.state_dict(), Classes(ABC, ABC, leading))
    assert said == ["classifier included, for the same classes"]
    torch.testing.assert_close(
        logits(fitted, pictures(3)), logits(source, pictures(3))[:, leading:]
    )


def test_a_background_class_never_stands_for_one_of_yours() -> None:
    """Three outputs, the first of which means nothing, are no classifier for three classes."""
    _, said = fit(network(seed=1), network().state_dict(), Classes(None, ABC, 1))
    assert said == ["a new classifier, for 3 classes instead of 2"]


# What is refused ----------------------------------------------------------------------------------


def test_missing_unknown_and_misshapen_weights_are_named_together() -> None:
    tensors = dict(network().state_dict())
    del tensors["layer1.0.conv1.weight"]
    tensors["layer9.weight"] = torch.zeros(1)
    tensors["bn1.bias"] = torch.zeros(65)
    said = refused(network(), tensors)
    assert said.startswith("these weights were made for another network")
    assert "w.pth; missing: layer1.0.conv1.weight; unknown: layer9.weight; " in said
    assert "wrong shape: bn1.bias (65,) instead of (64,)" in said
    assert "  do:     name the --model (and its options) that the weights were made for" in said


def test_many_names_are_counted_not_listed() -> None:
    with torch.device("meta"):
        here, other = create_model("resnet10", 3), create_model("resnet50", 3)
    said = refused(here, other.state_dict())
    assert re.search(r"; unknown: (\S+, ){2}\S+ and \d+ more; wrong shape: ", said)
    assert len(said) < 700


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    tensors = dict(network().state_dict())
    tensors["layer2.0.conv1.weight"] = tensors["layer2.0.conv1.weight"].clone()
    tensors["layer2.0.conv1.weight"][0, 0, 0, 0] = bad
    said = refused(network(), tensors)
    assert said.startswith("these weights hold values that are not finite")
    assert "in layer2.0.conv1.weight" in said


@pytest.mark.parametrize(
    ("odd", "called"),
    [
        (torch.ones(64, 3, 7, 7).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(64, 3, 7, 7, dtype=torch.complex64), "complex64"),
        (torch.ones(64, 3, 7, 7, dtype=torch.int8), "int8"),
        (torch.ones(64, 3, 7, 7, dtype=torch.bool), "bool"),
        (torch.ones(64, 3, 7, 7).to_sparse(), "float32 sparse_coo"),
        (torch.ones(64, 3, 7, 7, device="meta"), "float32 without values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["resnet10", "timm/resnet18"])
def test_numbers_of_another_kind_are_refused_by_name(
    odd: Tensor, called: str, channels: int, name: str
) -> None:
    model = create_model(name, 3, channels)
    tensors = dict(create_model(name, 3).state_dict()) | {"conv1.weight": odd}
    said = refused(model, tensors)
    assert said.startswith("these weights hold numbers of another kind")
    assert f"given:  w.pth; conv1.weight ({called})" in said
    if channels == 3:  # as in a model file, where nothing is adapted
        with pytest.raises(CheckpointError, match="of another kind"):
            check_fits(model.state_dict(), tensors, "w.pth")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_numbers_are_refused_by_name() -> None:
    odd = torch.quantize_per_tensor(torch.ones(64, 3, 7, 7), 0.1, 0, torch.qint8)
    said = refused(network(), dict(network().state_dict()) | {"conv1.weight": odd})
    assert "of another kind" in said
    assert "conv1.weight (qint8)" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_16_bits_or_more_is_taken(dtype: torch.dtype) -> None:
    tensors = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in network().state_dict().items()
    }
    check_fits(network().state_dict(), tensors, "w.pth")
    tensors["bn1.weight"] = tensors["bn1.weight"] * float("nan")
    assert "not finite" in refused(network(), tensors)


def test_why_timms_own_filter_failed_is_kept_for_those_who_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model("convnext_atto", 3)
    failure = ZeroDivisionError("in the filter")

    def fail(*args: object) -> None:
        raise failure

    monkeypatch.setattr(sys.modules[type(model.net).__module__], "checkpoint_filter_fn", fail)
    with pytest.raises(CheckpointError, match="made for another network") as caught:
        fit_tensors(as_network(model), model.state_dict(), {"w": torch.zeros(1)}, "w.pth")
    assert caught.value.__cause__ is failure
    _, said = fit(model, model.state_dict())  # and where all fits without it, no harm is done
    assert said == ["classifier included"]


@pytest.mark.parametrize(("theirs", "wanted"), [(3, 1), (1, 3)])
def test_a_first_layer_that_cannot_be_adapted_is_said_in_one_sentence(
    theirs: int, wanted: int
) -> None:
    """TResNet turns blocks of 4x4 px into channels before its first convolution."""
    with torch.device("meta"):
        there = create_model("tresnet_m", 3, theirs).state_dict()
        here = create_model("tresnet_m", 5, wanted)
    assert as_network(here).first_convs == ()
    said = refused(here, there)
    assert said.startswith("the first layer of tresnet_m cannot be adapted to another number of")
    assert f"given:  w.pth, made for {theirs}; data.channels is {wanted}" in said
    assert f"do:     add --set data.channels={theirs}" in said
    tensors = dict(there) | {"body.conv1.conv.weight": torch.zeros(64, 50, 3, 3, device="meta")}
    assert "wrong shape: body.conv1.conv.weight" in refused(here, tensors)


def test_a_network_whose_features_are_the_classes_gets_no_new_classifier() -> None:
    model = network()
    model.classifiers = ()
    state = network(seed=1).state_dict()
    fitted, said = fit(model, state)
    assert said == []
    assert torch.equal(fitted.state_dict()["fc.weight"], state["fc.weight"])
    assert "wrong shape: fc.weight (7, 512)" in refused(model, network(7).state_dict())


def test_an_offset_that_leaves_no_class_is_said_by_its_name() -> None:
    said = "label_offset of these weights leaves none"
    for leading in (3, 4):
        with pytest.raises(CheckpointError, match=said) as caught:
            fit(network(seed=1), network().state_dict(), Classes(None, ABC, leading))
        assert f"given:  w.pth; label_offset {leading}, 3 outputs" in str(caught.value)
        with pytest.raises(CheckpointError, match=said):
            count_ends(as_network(network()), network().state_dict(), "w", leading)
    assert count_ends(as_network(network()), network().state_dict(), "w", 2) == (1, 3)


def test_a_broken_classifier_that_is_not_needed_does_no_harm() -> None:
    tensors = dict(network(7).state_dict())
    tensors["fc.weight"] = torch.full((7, 512), float("nan"))
    fitted, _ = fit(network(), tensors)
    assert logits(fitted, pictures(3)).isfinite().all()


def test_half_a_classifier_is_missing_weights_and_no_reason_for_random_ones() -> None:
    for num_classes in (3, 7):
        tensors = dict(network(num_classes).state_dict())
        del tensors["fc.bias"]
        assert "missing: fc.bias" in refused(network(), tensors)


def test_a_classifier_that_contradicts_itself_or_looks_at_something_else() -> None:
    tensors = dict(network(7).state_dict())
    tensors["fc.bias"] = torch.zeros(6)
    assert "wrong shape: fc.weight (7, 512) instead of (3, 512)" in refused(network(), tensors)
    tensors["fc.bias"], tensors["fc.weight"] = torch.zeros(7), torch.zeros(7, 2048)
    assert "wrong shape: fc.weight (7, 2048) instead of (3, 512)" in refused(network(), tensors)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("conv1.weight", torch.zeros(64, 0, 7, 7)),
        ("conv1.weight", torch.zeros(64, 1, 3, 3)),
        ("conv1.weight", torch.zeros(64)),
        ("conv1.weight", torch.tensor(1.0)),
        ("fc.weight", torch.tensor(1.0)),
        ("fc.weight", torch.zeros(0, 512)),
        ("fc.bias", torch.zeros(0)),
    ],
    ids=["no channels", "kernel", "vector", "number", "number fc", "no classes", "no biases"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_first_and_last_layers_of_no_sense_are_refused_not_adapted(
    key: str, tensor: Tensor, channels: int
) -> None:
    tensors = dict(network().state_dict()) | {key: tensor}
    assert f"wrong shape: {key} {tuple(tensor.shape)}" in refused(
        network(in_channels=channels), tensors
    )


# How large the network of some weights is ---------------------------------------------------------


def test_outputs_and_channels_are_counted() -> None:
    with torch.device("meta"):
        model = as_network(create_model("resnet10"))
    assert count_ends(model, network(7, 1).state_dict(), "w") == (7, 1)


def test_outputs_are_counted_where_no_first_convolution_tells_the_channels() -> None:
    with torch.device("meta"):
        model = as_network(create_model("tresnet_m"))
        weights = create_model("tresnet_m", 7).state_dict()
    assert count_ends(model, weights, "w") == (7, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("fc.weight"),
        lambda tensors: tensors.pop("conv1.weight"),
        lambda tensors: tensors.update({"fc.weight": torch.tensor(1.0)}),
        lambda tensors: tensors.update({"conv1.weight": torch.zeros(64)}),
        lambda tensors: tensors.update({"conv1.weight": torch.zeros(64, 0, 7, 7)}),
        lambda tensors: tensors.update({"fc.weight": torch.zeros(0, 512)}),
    ],
    ids=["no fc", "no conv1", "number", "vector", "no channels", "no classes"],
)
def test_what_cannot_be_counted_is_refused(change: Any) -> None:
    with torch.device("meta"):
        model = as_network(create_model("resnet10"))
    tensors = dict(network().state_dict())
    change(tensors)
    with pytest.raises(
        CheckpointError, match=r"another network, or they are not all of it|makes no sense"
    ):
        count_ends(model, tensors, "w")


# timm's names -------------------------------------------------------------------------------------


def test_timms_vgg_weights_load_into_ours() -> None:
    """Shapes without memory first, then the values of the layers that change their form."""
    with torch.device("meta"):
        ours = create_model("vgg11", 3)
        foreign = to_timm(as_network(ours).architecture, ours.state_dict(), 224)
    assert "head.fc.weight" in foreign.tensors
    with torch.device("meta"):
        fitted, said = fit_tensors_meta(ours, foreign.tensors)
    assert fitted.keys() == ours.state_dict().keys()
    assert said == ["classifier included"]
    # Here with values, of the one layer whose rows are easily confused: (h, w) inside channels.
    weight = torch.arange(2 * 512 * 7 * 7.0).reshape(2, 512 * 7 * 7)
    there = to_timm(as_network(ours).architecture, {"classifier.0.weight": weight}, 224).tensors
    assert there["pre_logits.fc1.weight"].shape == (2, 512, 7, 7)
    assert torch.equal(from_timm("vgg11", there)["classifier.0.weight"], weight)


def fit_tensors_meta(model: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """Without looking at values, of which there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "isfinite", lambda tensor: torch.tensor(True, device="cpu"))
        return fit_tensors(as_network(model), model.state_dict(), tensors, "w")


def test_our_resnet_and_timms_take_each_others_weights() -> None:
    torch.manual_seed(3)
    theirs = create_model("timm/resnet18", 3, 1).eval()
    ours, said = fit(create_model("resnet18", 3, 1), theirs.state_dict())
    assert said == ["classifier included"]
    picture = pictures(1, count=1)
    torch.testing.assert_close(logits(ours, picture), logits(theirs, picture), rtol=1e-4, atol=1e-5)
    back, _ = fit(create_model("timm/resnet18", 3, 1), ours.state_dict())
    assert torch.equal(logits(back, picture), logits(theirs, picture))


def test_a_network_of_timms_with_two_classifiers_and_another_size_is_fitted_whole() -> None:
    """A distilled DeiT has two classifiers, and positions for one size of pictures."""
    name = "deit_tiny_distilled_patch16_224"
    torch.manual_seed(4)
    source = create_model(name, 5, 3, img_size=64)
    same, said = fit(create_model(name, 5, 3, img_size=64), source.state_dict())
    assert said == ["classifier included"]
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits(same, images), logits(source.eval(), images))
    target = create_model(name, 3, 1, img_size=96)
    drawn = {key: value.clone() for key, value in target.state_dict().items() if "head" in key}
    grey, said = fit(target, source.state_dict())
    assert said == [
        "the first convolution's 3 channels summed into one",
        "a new classifier, for 3 classes instead of 5",
    ]
    assert drawn.keys() == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert all(torch.equal(grey.state_dict()[key], value) for key, value in drawn.items())
    assert logits(grey, torch.randn(1, 1, 96, 96)).isfinite().all()
