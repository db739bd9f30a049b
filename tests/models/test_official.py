"""The table of official weights against torchvision's own, and which of them a word means."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torchvision
from torchvision.models import get_model_weights

from fieldmark.errors import ModelError
from fieldmark.models.official import (
    BASE_URL,
    OfficialWeights,
    choose_weights,
    imagenet_class_names,
    official_weights,
)
from fieldmark.models.registry import MODEL_NAMES
from fieldmark.types import Preprocess

NAMES = [name for name in MODEL_NAMES if name in torchvision.models.list_models()]


def test_every_network_that_torchvision_has_is_in_the_table() -> None:
    assert [name for name in MODEL_NAMES if official_weights(name)] == NAMES
    assert len(NAMES) == 14
    assert official_weights("alexnet_half") == ()
    assert official_weights("no_such_network") == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_torchvisions(name: str) -> None:
    theirs = {
        member.name.lower(): member.value
        for member in get_model_weights(name)
        # VGG-16 has a second file: features alone, without a classifier.
        if member.meta["categories"] is not None and len(member.meta["categories"]) == 1000
    }
    ours = official_weights(name)
    assert {weights.tag for weights in ours} == theirs.keys()
    assert ours[0].tag == get_model_weights(name).DEFAULT.name.lower()
    for weights in ours:
        their = theirs[weights.tag]
        url, _, digits = weights.source.partition("#sha256=")
        assert url == their.url
        assert re.fullmatch(r"[0-9a-f]{8}", digits)
        assert their.url.endswith(f"-{digits}.pth")

        transform = their.transforms()
        preprocess = Preprocess(channels=3, **weights.preprocess)
        assert [preprocess.size] == transform.crop_size
        # The short side becomes `round(size / crop_fraction)`.
        assert [round(preprocess.size / preprocess.crop_fraction)] == transform.resize_size
        assert preprocess.resize == "crop"
        assert preprocess.interpolation == transform.interpolation.value
        assert (list(preprocess.mean), list(preprocess.std)) == (transform.mean, transform.std)
        assert preprocess.channel_order == "rgb"
        assert weights.num_classes == len(their.meta["categories"])
        assert weights.num_leading_classes == 0


def test_vgg16_without_a_classifier_is_left_out() -> None:
    """The one file of torchvision's that the table does not name."""
    left_out = get_model_weights("vgg16").IMAGENET1K_FEATURES
    assert left_out.name.lower() not in {weights.tag for weights in official_weights("vgg16")}
    assert len(get_model_weights("vgg16")) == 2


def test_class_names_are_torchvisions_each_one_once() -> None:
    names = imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    for name in NAMES:
        for weights in get_model_weights(name):
            if weights.name != "IMAGENET1K_FEATURES":
                assert tuple(weights.meta["categories"]) == names
    assert names[0] == "tench"


def test_looking_into_the_table_does_not_wait_for_torchvision() -> None:
    """Importing it takes two seconds."""
    script = (
        "import sys\n"
        "from fieldmark.models.official import official_weights\n"
        "assert len(official_weights('resnet50')) == 2\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_table_cannot_be_written_to() -> None:
    weights = official_weights("resnet18")[0]
    with pytest.raises(TypeError):
        weights.preprocess["size"] = 1  # type: ignore[index]


# Which weights a word means -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("imagenet", "resnet50-11ad3fa6.pth"),
        ("imagenet1k_v2", "resnet50-11ad3fa6.pth"),
        ("imagenet1k_v1", "resnet50-0676ba61.pth"),
    ],
)
def test_a_word_means_the_weights_of_that_tag_and_imagenet_the_first(tag: str, file: str) -> None:
    chosen = choose_weights("resnet50", tag, official_weights("resnet50"))
    assert chosen is not None
    assert chosen.source.startswith(f"{BASE_URL}{file}#")


def test_a_tag_of_another_kind_means_what_is_published_under_it() -> None:
    published = (OfficialWeights("a1_in1k", "hf:timm/x"), OfficialWeights("v2", "hf:timm/y"))
    assert choose_weights("x", "v2", published) is published[1]
    assert choose_weights("x", "imagenet", published) is published[0]


@pytest.mark.parametrize(
    "word", ["runs/ants", "weights.pth", "hf:timm/resnet50.a1_in1k", "none", "", "a1_in1k"]
)
def test_what_is_no_tag_is_somebody_elses(word: str) -> None:
    assert choose_weights("resnet50", word, official_weights("resnet50")) is None
    assert choose_weights("alexnet_half", word, ()) is None


def test_a_generation_that_is_not_published_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelError) as caught:
        choose_weights("vgg16", "imagenet1k_v2", official_weights("vgg16"))
    assert str(caught.value).splitlines() == [
        "no weights of that name are published for vgg16",
        "  given:  --weights imagenet1k_v2",
        "  valid:  imagenet, imagenet1k_v1",
        "  do:     did you mean 'imagenet1k_v1'?",
    ]


@pytest.mark.parametrize("name", ["alexnet_half", "resnet10", "c3resnet50", "resnet50_keras2017"])
def test_a_network_without_published_weights_says_so(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        choose_weights(name, "imagenet", official_weights(name))
    assert str(caught.value).splitlines() == [
        f"no weights of that name are published for {name}",
        "  given:  --weights imagenet",
        "  do:     `fieldmark models` says which networks have weights; or name a file of your own",
    ]
