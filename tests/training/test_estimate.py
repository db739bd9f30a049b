"""The estimate by a clock that the network itself moves; and that a probe leaves no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fieldmark.auto import PRESETS
from fieldmark.budget.costs import ModeEstimate
from fieldmark.errors import ModelError, TrainingError
from fieldmark.models.registry import create_model
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime
from fieldmark.training import estimate
from fieldmark.training.estimate import probe_mode

CPU = Runtime(torch.device("cpu"))
FORWARD, BACKWARD = 0.01, 0.02  # seconds a picture, by the clock below
MODES = [
    ("scratch", False),
    ("finetune", False),
    ("finetune", True),
    ("frozen", False),
    ("frozen", True),
    ("partial", False),
    ("partial", True),
]


class Clock:
    """Stands still but for what the network does."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class _Ticks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clock: Clock, forward: float, backward: float) -> Tensor:
        ctx.clock, ctx.backward_seconds = clock, backward * len(x)
        clock.now += forward * len(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        ctx.clock.now += ctx.backward_seconds
        return grad, None, None, None


class Ticking(nn.Module):
    """Takes time of a clock that is not copied with the network."""

    def __init__(self, clock: Clock, forward: float, backward: float) -> None:
        super().__init__()
        self.words = clock, forward, backward

    def __deepcopy__(self, memo: dict[int, Any]) -> Ticking:
        return Ticking(*self.words)

    def forward(self, x: Tensor) -> Tensor:
        ticked: Tensor = _Ticks.apply(x, *self.words)
        return ticked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    stub = SimpleNamespace(perf_counter=clock.perf_counter)
    monkeypatch.setattr(estimate, "time", stub)
    return clock


@pytest.fixture
def recipe_of(make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(mode: str, **settings: Any) -> Recipe:
        words = {"mode": mode, "data__size": 8, "transfer__views": 0, "transfer__norms": "train"}
        if mode == "partial":
            words["training__freeze_through"] = "stem"
        if mode != "scratch":
            words["model__weights"] = "imagenet"
        return make_recipe(**{**words, **settings})

    return make


@pytest.fixture
def probe_ticking(
    clock: Clock, make_network: Callable[..., Any], recipe_of: Callable[..., Recipe]
) -> Callable[..., ModeEstimate]:
    """A probe of a network whose stem takes FORWARD, and whose body takes BACKWARD, a picture."""

    def probe(mode: str, *, features: bool, num_val: int = 10, **settings: Any) -> ModeEstimate:
        network = make_network()
        network.stem.append(Ticking(clock, FORWARD, 0.0))
        network.body.insert(0, Ticking(clock, 0.0, BACKWARD))
        recipe = recipe_of(mode, **settings)
        return probe_mode(network, recipe, CPU, 100, num_val, 3, features=features)

    return probe


@pytest.mark.parametrize(
    ("mode", "features", "views", "setup", "view", "epoch"),
    [
        ("scratch", False, 0, 0, 0, 100 * (FORWARD + BACKWARD) + 10 * FORWARD),
        ("finetune", False, 0, 0, 0, 100 * (FORWARD + BACKWARD) + 10 * FORWARD),
        ("finetune", True, 0, 110 * FORWARD, 1, 100 * (FORWARD + BACKWARD) + 10 * FORWARD),
        ("partial", False, 4, 0, 0, 110 * FORWARD),
        ("partial", True, 4, 410 * FORWARD, 1, 0),
        ("frozen", False, 4, 0, 0, 110 * FORWARD),
        ("frozen", True, 4, 410 * FORWARD, 1, 0),
        ("frozen", True, 0, 110 * FORWARD, 1, 0),
    ],
)
def test_seconds_are_those_of_pictures_views_and_epochs(
    probe_ticking: Callable[..., ModeEstimate],
    mode: str,
    features: bool,
    views: int,
    setup: float,
    view: float,
    epoch: float,
) -> None:
    settings = {"transfer__views": views} if views else {}
    measured = probe_ticking(mode, features=features, training__epochs=7, **settings)
    assert measured.setup_seconds == pytest.approx(setup)
    assert measured.view_seconds == pytest.approx(view * 100 * FORWARD)
    assert measured.seconds_per_epoch == pytest.approx(epoch)
    assert measured.seconds_total == pytest.approx(setup + 7 * epoch)


@pytest.mark.parametrize(
    ("mode", "features", "views", "setup", "epoch"),
    [
        ("scratch", False, 0, 0, 100 * (FORWARD + BACKWARD + 0.05) + 10 * FORWARD),
        ("frozen", False, 4, 0, 100 * (FORWARD + 0.05) + 10 * FORWARD),
        ("frozen", True, 4, 400 * (FORWARD + 0.05) + 10 * FORWARD, 0),
        ("frozen", True, 0, 110 * FORWARD, 0),  # as evaluation sees them: nothing to make
    ],
)
def test_on_a_cpu_pictures_have_to_be_made_before_they_are_learnt(
    probe_ticking: Callable[..., ModeEstimate],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    features: bool,
    views: int,
    setup: float,
    epoch: float,
) -> None:
    monkeypatch.setattr(estimate, "_seconds_to_make", lambda *args: 0.05)
    settings = {"transfer__views": views} if views else {}
    measured = probe_ticking(mode, features=features, **settings)
    assert measured.setup_seconds == pytest.approx(setup)
    assert measured.seconds_per_epoch == pytest.approx(epoch)


@pytest.mark.parametrize("preset", ["none", "standard", "strong"])
def test_making_is_timed_by_the_batches_that_come_after_those_that_were_ahead(
    clock: Clock, recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    class SlowLoader(estimate.TrainLoader):
        def epoch(self, epoch: int, start: int = 0) -> Any:
            clock.now += 100.0  # threads that start
            for batch in super().epoch(epoch, start):
                assert batch.images_bchw.shape == (8, 3, 24, 24)
                yield batch
                clock.now += 8 * 0.003

    monkeypatch.setattr(estimate, "TrainLoader", SlowLoader)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    recipe = recipe_of("scratch", data__size=24, augment__preset=preset)
    words = PRESETS[preset]
    recipe = recipe.with_settings({f"augment.{word}": value for word, value in words.items()})
    assert estimate._seconds_to_make(recipe, CPU, 3) == pytest.approx(0.003)


def test_a_network_that_cannot_be_cut_is_timed_whole(
    probe_ticking: Callable[..., ModeEstimate], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise ModelError("cannot be run in two parts")

    monkeypatch.setattr(estimate, "cut_network", refuse)
    measured = probe_ticking("frozen", features=True, transfer__views=4)
    streamed = probe_ticking("frozen", features=False, transfer__views=4)
    assert replace(measured, memory_bytes=streamed.memory_bytes) == streamed
    assert measured.setup_seconds == 0


def test_no_validation_pictures_take_no_time(probe_ticking: Callable[..., ModeEstimate]) -> None:
    measured = probe_ticking("scratch", features=False, num_val=0)
    assert measured.seconds_per_epoch == pytest.approx(100 * (FORWARD + BACKWARD))


def test_steps_of_fewer_pictures_tell_what_whole_batches_take(
    probe_ticking: Callable[..., ModeEstimate], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of all 64 pictures would take 2.4 s by this clock; of 25, as are taken, 1.25 s."""

    def build(*args: Any) -> torch.optim.Optimizer:
        class Slow(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                clock.now += 0.5
                super().step(closure)

        return Slow(args[0], lr=0.0)

    monkeypatch.setattr(estimate, "build_optimizer", build)
    measured = probe_ticking("scratch", features=False, training__batch_size=64)
    of_pictures = 100 * (FORWARD + BACKWARD) + 10 * FORWARD
    assert measured.seconds_per_epoch == pytest.approx(of_pictures + 100 / 64 * 0.5)
    assert measured.steps_measured >= 3


@pytest.mark.parametrize(
    ("seconds", "most", "median", "num"),
    [
        ([2.9, 0.3, 0.1, 0.2, 0.4, 0.1, 0.1], 5, 0.2, 3),  # late by the second: three are enough
        ([0.9, 0.3, 0.1, 0.2, 0.4, 0.1, 0.1], 5, 0.1, 5),  # two to warm up, all others counted
        ([0.5] * 50, 20, 0.5, 5),  # three seconds are over after the seventh
        ([1.4] * 50, 20, 1.4, 3),
        ([7.0] * 50, 20, 7.0, 1),  # twice the limit
    ],
)
def test_the_median_leaves_out_the_warm_up_and_stops_in_time(
    clock: Clock, seconds: list[float], most: int, median: float, num: int
) -> None:
    ahead = iter(seconds)

    def run() -> None:
        clock.now += next(ahead)

    measured = estimate._median(run, most, 3.0, torch.device("cpu"))
    assert measured == (pytest.approx(median), num)


def state_of_everything(model: nn.Module) -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "grads": [copy.deepcopy(p.grad) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
        "python": random.getstate(),
        "cudnn": (cudnn.benchmark, cudnn.deterministic, cudnn.enabled, cudnn.allow_tf32),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, was in before.items():
        if name == "weights":
            assert list(was) == list(after[name])
            assert all(torch.equal(was[key], after[name][key]) for key in was)
        elif name == "grads":
            pairs = zip(was, after[name], strict=True)
            assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
        else:
            assert np.array_equal(was, after[name]) if name != "python" else was == after[name]


class DrawsEverywhere(nn.Module):
    """Dropout of torch, and draws of the two other generators."""

    def forward(self, x: Tensor) -> Tensor:
        noise = random.random() + float(np.random.rand())
        return nn.functional.dropout(x, 0.5, self.training) + 0.0 * noise


@pytest.mark.parametrize(("mode", "features"), MODES)
def test_a_probe_leaves_no_trace(
    make_network: Callable[..., Any],
    recipe_of: Callable[..., Recipe],
    mode: str,
    features: bool,
) -> None:
    network = make_network()
    network.head.insert(0, DrawsEverywhere())
    network(torch.randn(4, 3, 8, 8)).sum().backward()  # gradients of somebody's
    network.stem.eval()
    before = state_of_everything(network)
    recipe = recipe_of(mode, training__ema_decay=0.9, optimizer__clip_norm=1.0)
    probe_mode(network, recipe, CPU, 24, 8, 3, steps=3, features=features)
    assert_same(before, state_of_everything(network))


def test_a_failed_probe_leaves_no_trace_either_and_says_that_memory_is_full(
    make_network: Callable[..., Any], recipe_of: Callable[..., Recipe]
) -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            if self.training:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return x

    network = make_network()
    network.body.append(Full())
    before = state_of_everything(network)
    with pytest.raises(TrainingError, match="not enough memory"):
        probe_mode(network, recipe_of("scratch"), CPU, 24, 8, 3, features=False)
    assert_same(before, state_of_everything(network))


def test_a_training_after_a_probe_is_the_training_without_one(
    run_fit: Callable[..., Any], make_network: Callable[..., Any], recipe_of: Callable[..., Recipe]
) -> None:
    plain, _, _ = run_fit(network=make_network())
    network = make_network()
    probe_mode(network, recipe_of("scratch"), CPU, 24, 8, 3, steps=3, features=False)
    probed, _, _ = run_fit(network=network)
    assert [row.train_loss for row in probed.history] == [row.train_loss for row in plain.history]
    assert [row.val_loss for row in probed.history] == [row.val_loss for row in plain.history]


class Wide(nn.Module):
    """Sixteen MB of weights for the least work."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2000, 2000))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * self.weight.sum()


def test_memory_counts_weights_gradients_and_what_the_optimizer_keeps(
    make_network: Callable[..., Any], recipe_of: Callable[..., Recipe]
) -> None:
    def bytes_of(mode: str, *, features: bool = False, **settings: Any) -> int:
        network = make_network()
        network.body.append(Wide())
        recipe = recipe_of(mode, **settings)
        measured = probe_mode(network, recipe, CPU, 24, 8, 3, steps=1, features=features)
        return measured.memory_bytes

    weights = 4 * 2000 * 2000
    assert bytes_of("scratch", optimizer__name="adam") >= 4 * weights
    assert bytes_of("scratch", optimizer__name="adam", training__ema_decay=0.9) >= 5 * weights
    assert weights <= bytes_of("frozen", optimizer__name="adam") < 3 * weights
    assert weights <= bytes_of("frozen", optimizer__name="adam", features=True) < 3 * weights


def test_memory_counts_stored_features(
    make_network: Callable[..., Any], recipe_of: Callable[..., Recipe]
) -> None:
    recipe = recipe_of("partial", transfer__views=8)

    def bytes_of(num_train: int) -> int:
        network = make_network()
        measured = probe_mode(network, recipe, CPU, num_train, 0, 3, steps=1, features=True)
        return measured.memory_bytes

    bytes_of(8)  # what libraries take when they are first used counts as growth
    of_one = 6 * 4 * 4 * 4  # channels, height and width after the stem, float32
    grown = bytes_of(1_000_000) - bytes_of(8)
    assert grown == pytest.approx(8 * 1_000_000 * of_one, rel=0.02)


def test_grey_pictures_and_timms_networks(recipe_of: Callable[..., Recipe]) -> None:
    for name in ("resnet10", "timm/mobilenetv3_small_050"):
        model = create_model(name, num_classes=2, in_channels=1)
        recipe = recipe_of("frozen", data__size=32, transfer__views=2)
        measured = probe_mode(model, recipe, CPU, 16, 4, 2, steps=2, features=True)
        assert measured.setup_seconds > measured.view_seconds > 0
        assert measured.steps_measured == 2
        assert measured.memory_bytes > sum(p.nbytes for p in model.parameters())
