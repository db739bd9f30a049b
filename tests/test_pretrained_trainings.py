"""Trainings from others' weights: what is inherited, and that they really start there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import fieldmark as fm
from fieldmark.assembly.network import build_network, inherit, inherit_per_channel
from fieldmark.checkpoint import ModelInfo, load_model, save_model
from fieldmark.errors import CheckpointError, FieldmarkError
from fieldmark.models import official
from fieldmark.models.contract import as_network
from fieldmark.models.registry import create_model
from fieldmark.pretrained import Pretrained
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe, assemble
from fieldmark.types import Preprocess
from support.web import serving

pytestmark = pytest.mark.usefixtures("no_drawing")

HOW: dict[str, Any] = {
    "size": 48,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "resize": "squash",
    "crop_fraction": 0.9,
    "interpolation": "bicubic",
    "channel_order": "bgr",
}


class Said(Silent):
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def inherited(channels: int | None = 3, **settings: Any) -> tuple[Recipe, list[str]]:
    """What a training would settle on, were these all the weights say."""
    recipe = assemble(None, {}, settings)
    weights = Pretrained("w", {}, preprocess=HOW)
    recipe, said = inherit(recipe, weights)
    recipe = recipe.with_settings({"data.channels": channels})
    recipe, more = inherit_per_channel(recipe, weights)
    return recipe, [*said, *more]


# What is inherited --------------------------------------------------------------------------------


def test_pictures_are_made_as_the_weights_were_trained() -> None:
    recipe, said = inherited()
    assert {word: getattr(recipe.data, word) for word in HOW} == HOW
    assert said == [
        "size, resize, crop_fraction, interpolation, channel_order: as the weights were trained",
        "mean, std: as the weights were trained",
    ]


@given(words=st.sets(st.sampled_from(sorted(HOW))))
def test_every_word_of_the_users_own_wins_and_no_other(words: set[str]) -> None:
    mine: dict[str, Any] = {
        "size": 64,
        "mean": (0.1, 0.1, 0.1),
        "std": (1.0, 1.0, 1.0),
        "resize": "crop",
        "crop_fraction": 0.5,
        "interpolation": "bilinear",
        "channel_order": "rgb",
    }
    recipe, _ = inherited(**{f"data.{word}": mine[word] for word in words})
    for word in HOW:
        assert getattr(recipe.data, word) == (mine if word in words else HOW)[word]


def test_grey_pictures_get_the_average_of_the_channels_and_no_order() -> None:
    recipe, _ = inherited(channels=1)
    assert (recipe.data.mean, recipe.data.std) == ((0.4,), (0.3,))
    assert recipe.data.channel_order == "rgb"


def test_without_weights_nothing_is_touched() -> None:
    recipe = assemble(None, {}, {"data.channels": 3})
    assert inherit(recipe, None) == (recipe, [])
    assert inherit_per_channel(recipe, None) == (recipe, [])


def test_options_come_with_the_weights_and_yours_win() -> None:
    weights = Pretrained("w", {}, options={"pad_type": "same", "drop_rate": 0.1})
    recipe, said = inherit(assemble(None, {}, {"model.options.drop_rate": 0.5}), weights)
    assert recipe.model.options == {"pad_type": "same", "drop_rate": 0.5}
    assert said[0] == "options pad_type: of the network the weights were trained in"
    assert said[1].startswith("WARNING: nobody says how pictures were made for these weights")
    assert len(said) == 2


def test_a_tag_in_the_networks_name_loads_nothing_and_that_is_said() -> None:
    recipe = assemble(None, {"model": "mobilenetv3_small_050.lamb_in1k"}, {})
    said = inherit(recipe, None)[1]
    assert said == ["lamb_in1k, in the network's name, loads no weights: add --weights lamb_in1k"]


@pytest.mark.parametrize(
    ("name", "weights", "mine", "told"),
    [
        ("resnet18", Pretrained("w", {}, "resnet18"), {"norm_eps": 1e-3}, "norm_eps=0.001"),
        ("resnet18", Pretrained("w", {}, "resnet18"), {"norm_eps": 1e-5}, None),
        ("alexnet", Pretrained("w", {}, "alexnet"), {"lrn": True}, "lrn=True"),
        ("alexnet", Pretrained("w", {}, "alexnet"), {"dropout": 0.1}, None),
        ("resnet18", Pretrained("w", {}), {"norm_eps": 1e-3}, None),  # nobody knows
        (
            "mobilenetv2_035",
            Pretrained("w", {}, "mobilenetv2_035", {"pad_type": "same"}),
            {"pad_type": "", "drop_rate": 0.5},
            "pad_type=",
        ),
        (
            "mobilenetv2_035",
            Pretrained("w", {}, "mobilenetv2_035"),
            {"pad_type": "same"},
            "pad_type=same",
        ),
        ("test_vit", Pretrained("w", {}, "test_vit"), {"img_size": 96}, None),
    ],
)
def test_an_option_that_makes_another_function_of_the_weights_is_said(
    name: str, weights: Pretrained, mine: dict[str, Any], told: str | None
) -> None:
    settings = {f"model.options.{word}": value for word, value in mine.items()}
    recipe, said = inherit(assemble(None, {"model": name}, settings), weights)
    assert recipe.model.options == mine
    lines = [line for line in said if "they compute something else there" in line]
    assert len(lines) == (told is not None)
    if told is not None:
        assert f"option {told} differs from the network the weights were trained in" in lines[0]


@pytest.mark.parametrize("size", [256, 224])
def test_weights_that_fit_one_size_only_say_which(size: int) -> None:
    torch.manual_seed(0)
    state = create_model("mixer_s32_224", 3).state_dict()
    options = {} if size == 224 else {"img_size": size}
    settings = {"data.channels": 3} | {f"model.options.{o}": v for o, v in options.items()}
    recipe = assemble(None, {"model": "mixer_s32_224"}, settings)
    names = ("a", "b", "c")
    if size == 224:
        build_network(recipe, Pretrained("w", state), names, Silent())
        return
    with pytest.raises(CheckpointError) as caught:
        build_network(recipe, Pretrained("w", state), names, Silent())
    assert "these weights are for 224 px only" in str(caught.value)
    assert "do:     --size 224" in str(caught.value)
    del state["stem.proj.bias"]  # and what is wrong at any size is said as it is
    with pytest.raises(CheckpointError, match=r"missing: stem\.proj\.bias"):
        build_network(recipe, Pretrained("w", state), names, Silent())


@pytest.mark.parametrize(
    ("name", "options"),
    [("mobilenetv2_035", {"pad_type": "same"}), ("resnet10", {"norm_eps": 1e-3})],
)
def test_the_network_computes_the_function_that_the_weights_were_trained_in(
    name: str, options: dict[str, Any]
) -> None:
    """The weights fit without these options as well, and give other answers."""
    torch.manual_seed(0)
    source = create_model(name, 3, **options).eval()
    names = ("a", "b", "c")
    weights = Pretrained("w", source.state_dict(), name, options, HOW, names)
    recipe = assemble(None, {"model": name}, {"data.channels": 3})
    recipe, _ = inherit(recipe, weights)
    images = torch.randn(2, 3, 32, 32)
    said = Said()
    with torch.no_grad():
        wanted = source(images)
        built = build_network(recipe, weights, names, said).eval()
        assert torch.equal(built(images), wanted)
        plain = create_model(name, 3).eval()
        plain.load_state_dict(source.state_dict(), strict=True)
        assert not torch.allclose(plain(images), wanted, rtol=1e-4, atol=1e-6)
    assert said.lines == ["weights from w; classifier included, for the same classes"]


# Whole trainings ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return create_model("resnet10", 7).state_dict()


@pytest.fixture
def photos(tmp_path: Path, make_pictures: Any) -> Path:
    folder: Path = make_pictures(tmp_path / "photos", {"ant": 8, "bee": 8, "cat": 8}, size=32)
    return folder


def train(source: object, out: Path, weights: object, **words: Any) -> fm.Run:
    """One epoch in which no weight can move: whatever is in the model file was there before."""
    quick = {"model": "resnet10", "size": 32, "epochs": 1, "batch_size": 8, "device": "cpu"}
    still = {"lr": 0.0, "optimizer": "sgd", "schedule": "constant"}
    given = {"progress": Silent(), **quick, **still, **words}
    return fm.train(str(source), out=out, weights=str(weights), **given)


def kept(run: fm.Run) -> dict[str, Tensor]:
    return load_model(run.path / "model.safetensors")[0].state_dict()


def is_learnt(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def pth(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"state_dict": state}, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize("mode", ["finetune", "frozen"])
def test_a_training_starts_from_the_weights_and_never_from_random_ones(
    mode: str, photos: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    words: dict[str, Any] = {"mode": mode}
    if mode == "finetune":  # epoch 0 would be kept, and small batches leave statistics alone
        words |= {"head_first": False, "norms": "train"}
    model = kept(train(photos, tmp_path / "run", pth(state, tmp_path), **words))
    backbone = [key for key in state if not key.startswith("fc.")]
    if mode == "finetune":  # the norms' statistics follow the pictures
        assert not torch.equal(model["bn1.running_mean"], state["bn1.running_mean"])
        backbone = [key for key in backbone if is_learnt(key)]
    assert len(backbone) > 20
    for key in backbone:
        assert torch.equal(model[key], state[key]), key
    assert model["fc.weight"].shape == (3, 512)


def test_official_weights_by_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(6)
    weights = create_model("resnet10").state_dict()
    torch.save(weights, tmp_path / "official.pth")
    with serving(tmp_path / "cache") as web:
        monkeypatch.setattr(official, "BASE_URL", f"{web.address}/")
        file = web.add(tmp_path / "official.pth", "resnet10-{hash}.pth")
        monkeypatch.setitem(
            official._WEIGHTS, "resnet10", (official._torchvision("imagenet1k_v1", file),)
        )
        run = train(photos, tmp_path / "run", "imagenet")
        web.close()
        again = train(photos, tmp_path / "again", "imagenet")
        assert web.asked == [file]
    for one in (run, again):
        model, info = load_model(one.path / "model.safetensors")
        for key, value in model.state_dict().items():
            assert not is_learnt(key) or key[:3] == "fc." or torch.equal(value, weights[key]), key
        assert info.preprocess == Preprocess(
            32, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_fraction=224 / 256
        )  # the size was given
        assert one.recipe.mode == "finetune"


def test_a_token_in_an_address_is_in_the_recipe_alone_and_that_is_said(
    photos: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    content = pth(state, tmp_path).read_bytes()
    said = Said()
    with serving(tmp_path / "cache") as web:
        web.files["w.pth?key=SECRET"] = content
        hashed = f"#sha256={hashlib.sha256(content).hexdigest()}"
        url = f"{web.address}/w.pth?key=SECRET{hashed}"
        run = train(photos, tmp_path / "run", url, progress=said)
        public = f"{web.address}/w.pth"
    assert url in (run.path / "recipe.toml").read_text()
    assert load_model(run.path / "model.safetensors")[1].history["recipe"]["model"]["weights"] == (
        public + hashed
    )
    holding = {
        path.name
        for path in run.path.rglob("*")
        if path.is_file() and b"SECRET" in path.read_bytes()
    }
    assert holding == {"recipe.toml"}
    assert not any("SECRET" in line for line in said.lines)
    assert sum("recipe.toml keeps it as it is" in line for line in said.lines) == 1


def test_the_classifier_is_kept_in_the_order_of_your_names(
    photos: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(7)
    source = create_model("resnet10", 3)
    info = ModelInfo(
        as_network(source).architecture,
        ("cat", "ant", "bee"),
        Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3),
    )
    save_model(tmp_path / "model.safetensors", source, info)
    said = Said()
    run = train(photos, tmp_path / "run", tmp_path / "model.safetensors", progress=said)
    wanted = source.state_dict()["fc.weight"][[1, 2, 0]]
    assert torch.equal(kept(run)["fc.weight"], wanted)
    assert any("its classes put in the order of yours" in line for line in said.lines)
    assert any(line.startswith("head first: left out") for line in said.lines)


def test_grey_pictures_and_weights_for_colour(tmp_path: Path, state: dict[str, Tensor]) -> None:
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "grey" / label).mkdir(parents=True)
        for number in range(8):
            picture = Image.new("L", (32, 32), level + number)
            picture.save(tmp_path / "grey" / label / f"{number}.png")
    said = Said()
    run = train(tmp_path / "grey", tmp_path / "run", pth(state, tmp_path), progress=said)
    model = kept(run)
    assert torch.equal(model["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))
    (line,) = (line for line in said.lines if line.startswith("weights from"))
    assert line.endswith(
        "w.pth; the first convolution's 3 channels summed into one; "
        "a new classifier, for 2 classes instead of 7"
    )


Spoil = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda s: create_model("resnet18", 3).state_dict(), "unknown: layer1.1"),
        (lambda s: {k: v for k, v in s.items() if k != "conv1.weight"}, "missing: conv1.weight"),
        (lambda s: s | {"bn1.bias": torch.full((64,), torch.nan)}, "not finite"),
        (lambda s: {k: v[:1] if v.dim() == 4 else v for k, v in s.items()}, "wrong shape: "),
        (lambda s: {"w": torch.zeros(2)}, "unknown: w"),
    ],
    ids=["another network", "half", "nan", "shapes", "something else"],
)
def test_weights_that_do_not_fit_leave_no_run_behind(
    spoil: Spoil, told: str, photos: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(photos, tmp_path / "run", pth(spoil(state), tmp_path))
    assert told in str(caught.value)
    assert str(tmp_path / "w.pth") in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["imagenet", "gone.pth", "hf:one", "https://host/w.pth"])
def test_weights_that_cannot_be_had_are_refused_before_pictures_are_looked_at(
    word: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_scan(*args: Any, **words: Any) -> None:
        raise AssertionError("the pictures were looked at")

    monkeypatch.setattr("fieldmark.assembly.pictures.scan", no_scan)
    with pytest.raises(FieldmarkError):
        train(photos, tmp_path / "run", word)
    assert not (tmp_path / "run").exists()
