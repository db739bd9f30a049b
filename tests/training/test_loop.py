"""What `fit` promises, on a network small enough to follow by hand.

That its steps are plain PyTorch's is shown in tests/parity/test_bare_loop.py.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fieldmark.data.loader import Batch
from fieldmark.errors import RecipeError, TrainingError
from fieldmark.inference import run_inference
from fieldmark.progress import Silent
from fieldmark.runtime import Runtime
from fieldmark.training.history import EPOCH_HEADER, EpochRow, epoch_line, rank
from fieldmark.training.loop import fit

CPU = Runtime(torch.device("cpu"))


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def losses_watched() -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The (logits_bk, labels_b) of every cross-entropy that is computed meanwhile."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        if isinstance(module, nn.CrossEntropyLoss):
            seen.append((args[0].detach().clone(), args[1].clone()))

    handle = nn.modules.module.register_module_forward_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def without_seconds(history: list[EpochRow]) -> list[tuple[float, ...]]:
    return [
        (r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy, r.lr) for r in history
    ]


# The best epoch -----------------------------------------------------------------------------------


def test_it_learns(run_fit: Any) -> None:
    result, _, _ = run_fit(training__epochs=25, optimizer__lr=0.1)
    assert result.history[0].val_loss > 2 * result.history[-1].val_loss
    assert result.best.val_accuracy == 1.0
    assert result.stopped == ""


def test_the_best_epoch_is_kept_not_the_last(
    run_fit: Any, make_network: Any, make_recipe: Any, make_tiny_loaders: Any
) -> None:
    model = make_network()

    def ruin(row: EpochRow) -> None:
        if row.epoch == 10:
            with torch.no_grad():
                model.head[-1].weight.neg_()

    settings = {"training__epochs": 14, "optimizer__lr": 0.02}
    result, kept, _ = run_fit(network=model, then=ruin, **settings)
    assert 1 < result.best.epoch <= 10 < result.history[-1].epoch
    assert result.history[-1].val_accuracy < result.best.val_accuracy
    assert result.best == max(result.history, key=lambda r: (r.val_accuracy, -r.val_loss))
    last_best = max(i for i, is_best in enumerate(kept.is_best) if is_best)
    assert kept.rows[last_best] == result.best

    # The weights handed over then, evaluated anew, give that row's very figures.
    fresh = make_network(seed=1)
    fresh.load_state_dict(kept.weights[last_best])
    _, val = make_tiny_loaders(make_recipe(**settings))
    outputs = run_inference(fresh, val, CPU)
    right = outputs.logits_nk.argmax(1) == outputs.labels_n
    assert int(right.sum()) / len(right) == result.best.val_accuracy
    loss = F.cross_entropy(outputs.logits_nk.double(), outputs.labels_n).item()
    assert loss == pytest.approx(result.best.val_loss, abs=1e-12)


def test_of_equally_accurate_epochs_the_one_with_the_lower_loss_ranks_higher() -> None:
    def row(accuracy: float, loss: float) -> EpochRow:
        return EpochRow(1, 0.1, 0.9, loss, accuracy, 0.1, 1.0)

    assert rank(row(0.9, 0.5)) > rank(row(0.8, 0.1))
    assert rank(row(0.9, 0.4)) > rank(row(0.9, 0.5))
    assert not rank(row(0.9, 0.5)) > rank(row(0.9, 0.5))  # the earlier one stays


# A step by hand -----------------------------------------------------------------------------------


def test_history_holds_means_over_the_pictures_seen(run_fit: Any) -> None:
    """20 pictures in batches of 8: the last one is smaller and must count for less."""
    with losses_watched() as seen:
        result, _, _ = run_fit(data={"num_train": 20}, training__epochs=1)
    assert [len(labels) for _, labels in seen] == [8, 8, 4]
    losses = torch.cat([F.cross_entropy(x, y, reduction="none") for x, y in seen])
    right = torch.cat([x.argmax(1) == y for x, y in seen])
    assert result.history[0].train_loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert result.history[0].train_accuracy == right.sum().item() / 20


def test_mixed_batches_are_trained_on_and_counted_by_their_heavier_label(run_fit: Any) -> None:
    with losses_watched() as seen:
        result, _, _ = run_fit(
            data={"num_train": 24}, training__epochs=1, augment__mixup=0.4, optimizer__lr=0.2
        )
    assert [tuple(targets.shape) for _, targets in seen] == [(8, 3)] * 3
    soft = torch.cat([targets for _, targets in seen])
    assert ((soft > 0.01) & (soft < 0.99)).any(), "something must have been mixed"
    torch.testing.assert_close(soft.sum(1), torch.ones(24))
    losses = torch.cat([-(y * x.log_softmax(1)).sum(1) for x, y in seen])
    heavier = torch.cat([x.argmax(1) == y.argmax(1) for x, y in seen])
    assert result.history[0].train_loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert result.history[0].train_accuracy == heavier.sum().item() / 24


@pytest.mark.parametrize("word", ["mixup", "cutmix"])
def test_it_learns_from_mixed_pictures(run_fit: Any, word: str) -> None:
    words = {f"augment__{word}": 0.2, "training__class_weights": "balanced"}
    result, _, _ = run_fit(training__epochs=25, optimizer__lr=0.1, **words)
    assert result.best.val_accuracy >= 0.9


def test_the_learning_rate_moves_at_every_step(run_fit: Any) -> None:
    result, _, _ = run_fit(training__epochs=4, schedule__name="cosine", optimizer__lr=0.1)
    last_steps = [3 * epoch - 1 for epoch in range(1, 5)]
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in last_steps]
    assert [row.lr for row in result.history] == pytest.approx(expected)


@pytest.mark.parametrize(("clip", "clips"), [(0.01, True), (1e6, False)])
def test_gradient_clipping_bounds_the_whole_step(
    run_fit: Any, make_network: Any, clip: float, clips: bool
) -> None:
    def step_of(clip_norm: float) -> torch.Tensor:
        model = make_network()
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        run_fit(
            network=model,
            training__epochs=1,
            training__batch_size=24,
            optimizer__lr=1.0,
            optimizer__momentum=0.0,
            optimizer__weight_decay=0.0,
            optimizer__clip_norm=clip_norm,
        )
        return before - nn.utils.parameters_to_vector(model.parameters()).detach()

    clipped, free = step_of(clip), step_of(0.0)
    if clips:
        assert clipped.norm().item() == pytest.approx(clip, rel=1e-3)
        torch.testing.assert_close(clipped / clip, free / free.norm(), atol=1e-3, rtol=1e-3)
    else:
        torch.testing.assert_close(clipped, free)


def test_smoothing_and_class_weights_reach_the_loss(run_fit: Any) -> None:
    """One step over all pictures: its loss is the formula's."""
    with losses_watched() as seen:
        result, _, _ = run_fit(
            data={"rare": 3},
            training__epochs=1,
            training__batch_size=24,
            training__label_smoothing=0.2,
            training__class_weights="balanced",
        )
    [(logits_bk, y)] = seen
    log_p = logits_bk.log_softmax(1)
    weight = 24 / (3 * torch.bincount(y).float())
    assert weight[2] > 2 * weight[0]  # the rare class
    # torch weighs the smoothed part by each class, and divides by the weights of the true ones.
    right = -(0.8 * weight[y] * log_p[torch.arange(24), y]).sum()
    spread = -(0.2 / 3 * weight * log_p).sum()
    expected = (right + spread) / weight[y].sum()
    assert result.history[0].train_loss == pytest.approx(expected.item(), rel=1e-5)
    # Validation is judged without either, or runs could not be compared.
    plain, _, _ = run_fit(data={"rare": 3}, training__epochs=1, optimizer__lr=0.0)
    biased, _, _ = run_fit(
        data={"rare": 3},
        training__epochs=1,
        optimizer__lr=0.0,
        training__label_smoothing=0.5,
        training__class_weights="balanced",
    )
    assert plain.history[0].val_loss == biased.history[0].val_loss


# The average of the weights -----------------------------------------------------------------------


def test_the_averaged_weights_are_validated_and_kept(run_fit: Any, make_network: Any) -> None:
    """One step an epoch, so that `keep` sees the average after every single step."""
    model = make_network()
    raw: list[dict[str, torch.Tensor]] = []
    result, kept, _ = run_fit(
        network=model,
        then=lambda row: raw.append(copy.deepcopy(model.state_dict())),
        training__epochs=12,
        training__batch_size=24,
        training__ema_decay=0.4,
    )
    by_hand = {name: value.double() for name, value in raw[0].items()}
    for t, (weights, average) in enumerate(zip(raw[1:], kept.weights[1:], strict=True), start=1):
        decay = min(0.4, (1 + t) / (10 + t))
        for name, _ in model.named_parameters():
            by_hand[name] = decay * by_hand[name] + (1 - decay) * weights[name].double()
            torch.testing.assert_close(average[name].double(), by_hand[name], rtol=1e-4, atol=1e-6)
        for name, value in model.named_buffers():
            assert torch.equal(average[name], value if t == 11 else weights[name]), name
    assert decay == 0.4, "the run must reach the decay that was asked for"
    assert not torch.equal(kept.weights[-1]["head.2.weight"], raw[-1]["head.2.weight"])
    plain, _, _ = run_fit(training__epochs=12, training__batch_size=24)
    assert [r.train_loss for r in plain.history] == [r.train_loss for r in result.history]
    assert [r.val_loss for r in plain.history] != [r.val_loss for r in result.history]


# Frozen means frozen ------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize(
    ("mode", "through", "frozen"),
    [("frozen", "", ("stem.", "body.")), ("partial", "stem", ("stem.",)), ("finetune", "", ())],
)
def test_weights_and_norms_of_frozen_stages_do_not_change_by_a_bit(
    run_fit: Any,
    make_network: Any,
    mode: str,
    through: str,
    frozen: tuple[str, ...],
    average: float,
) -> None:
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    _, kept, _ = run_fit(
        network=model,
        mode=mode,
        training__freeze_through=through,
        training__ema_decay=average,
    )
    for after in (model.state_dict(), kept.weights[-1]):
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert same == {name for name in before if frozen and name.startswith(frozen)}


class Cheat(nn.Module):
    """A layer that learns although nobody trains it: it counts what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        self.seen += len(images_bchw)
        return images_bchw


@pytest.mark.parametrize("settings", [{"training__patience": 0}, {"training__patience": 1}])
def test_a_network_that_cheats_is_caught_at_the_end_of_the_run(
    run_fit: Any, make_network: Any, kept: Any, settings: dict[str, int]
) -> None:
    model = make_network()
    model.stem.append(Cheat())
    with pytest.raises(TrainingError, match=r"stem\.3\.seen changed in training, although frozen"):
        run_fit(network=model, kept=kept, mode="frozen", optimizer__lr=0.0, **settings)
    assert len(kept.rows) == (2 if settings["training__patience"] else 3)
    run_fit(network=model, mode="finetune")  # where it is not frozen, it may


# One stage after the other ------------------------------------------------------------------------


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("mode", "through", "turns"),
    [
        ("finetune", "", {"head": 0, "body": 2, "stem": 4}),
        ("partial", "stem", {"head": 0, "body": 2, "stem": 99}),
    ],
)
def test_a_stage_does_not_change_by_a_bit_before_its_turn_and_does_from_then_on(
    run_fit: Any,
    make_network: Any,
    mode: str,
    through: str,
    turns: dict[str, int],
    optimizer: str,
    average: float,
) -> None:
    """Weights, statistics, counters. Momentum and decay would move what has no gradient."""
    model = make_network()
    raw = [copy.deepcopy(model.state_dict())]
    _, kept, _ = run_fit(
        network=model,
        then=lambda row: raw.append(copy.deepcopy(model.state_dict())),
        mode=mode,
        training__freeze_through=through,
        training__epochs=6,
        training__ema_decay=average,
        transfer__unfreeze_every=2,
        optimizer__name=optimizer,
        optimizer__weight_decay=0.1,
    )
    for states in (raw, [raw[0], *kept.weights]):
        for epoch, (before, after) in enumerate(itertools.pairwise(states)):
            for name in before:
                trains = epoch >= turns[name.split(".")[0]]
                if trains and name.endswith("0.bias"):
                    continue  # the norm behind it takes it out again: it has next to no gradient
                assert torch.equal(before[name], after[name]) != trains, (name, epoch)


def test_unfreezing_in_the_end_trains_as_if_it_had_begun_there(
    run_fit: Any, make_network: Any
) -> None:
    """The moments of a stage begin with its first step: Adam's first is of length lr, for each."""
    model = make_network(norm=False)
    states: list[dict[str, torch.Tensor]] = []
    run_fit(
        network=model,
        then=lambda row: states.append(copy.deepcopy(model.state_dict())),
        mode="finetune",
        training__epochs=2,
        training__batch_size=24,
        transfer__unfreeze_every=1,
        optimizer__name="adam",
        optimizer__lr=1e-3,
        optimizer__weight_decay=0.0,
    )
    step = (states[1]["body.0.weight"] - states[0]["body.0.weight"]).abs()
    moved = step > 0  # a dead unit has no gradient
    assert moved.float().mean() > 0.2
    torch.testing.assert_close(step[moved], torch.full_like(step[moved], 1e-3), rtol=0.02, atol=0)


def test_a_lower_stage_takes_its_share_of_every_step(run_fit: Any, make_network: Any) -> None:
    """Plain SGD, one step over all pictures: the steps differ by the powers of the decay alone."""

    def step_of(decay: float) -> dict[str, torch.Tensor]:
        model = make_network()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        result, _, _ = run_fit(
            network=model,
            mode="finetune",
            training__epochs=1,
            training__batch_size=24,
            transfer__stage_lr_decay=decay,
            optimizer__momentum=0.0,
            optimizer__weight_decay=0.3,
        )
        assert result.history[0].lr == 0.05  # the head's is shown
        return {name: p.detach() - before[name] for name, p in model.named_parameters()}

    whole, shared = step_of(1.0), step_of(0.4)
    for name, step in shared.items():
        below = {"head": 0, "body": 1, "stem": 2}[name.split(".")[0]]
        torch.testing.assert_close(step, whole[name] * 0.4**below, rtol=1e-3, atol=1e-7)


# Batch norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", ["train", "eval"])
def test_statistics_are_left_alone_where_that_is_asked_and_the_rest_trains(
    run_fit: Any, make_network: Any, norms: str
) -> None:
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    run_fit(network=model, mode="finetune", transfer__norms=norms)
    after = model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    buffers = {name for name, _ in model.named_buffers()}
    assert same == (buffers if norms == "eval" else set())


def test_stored_statistics_admit_one_picture_at_a_time_and_others_do_not(
    run_fit: Any,
) -> None:
    one = {"mode": "finetune", "training__batch_size": 1, "data": {"num_train": 6}}
    result, _, _ = run_fit(**one, transfer__norms="eval")
    assert len(result.history) == 3
    with pytest.raises(RecipeError, match="batch norm cannot learn from one picture") as caught:
        run_fit(**one, transfer__norms="train")
    assert "--norms eval" in str(caught.value)


def test_frozen_norms_admit_one_picture_at_a_time(run_fit: Any) -> None:
    result, _, _ = run_fit(mode="frozen", training__batch_size=1, data={"num_train": 6})
    assert len(result.history) == 3


# Pictures and seeds -------------------------------------------------------------------------------

STRONG = {
    "augment__crop_scale": (0.2, 0.5),
    "augment__hflip": 0.5,
    "augment__rotate_degrees": 45.0,
    "augment__brightness": 0.5,
}


def test_training_pictures_are_augmented_and_validation_pictures_never(
    run_fit: Any, make_network: Any, make_recipe: Any, make_tiny_loaders: Any
) -> None:
    model = make_network()
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    model.register_forward_pre_hook(
        lambda module, args: seen[module.training].append(args[0].detach().clone())
    )
    run_fit(network=model, training__epochs=2, data={"num_train": 16, "num_val": 10}, **STRONG)
    _, val = make_tiny_loaders(make_recipe(**STRONG), num_train=16, num_val=10)
    plain_val = torch.stack([torch.from_numpy(val.store.get(i)) for i in range(len(val.store))])
    expected = (plain_val.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    shown = torch.cat(seen[False])
    torch.testing.assert_close(shown[:10], expected)
    torch.testing.assert_close(shown[10:], expected)
    first, second = torch.cat(seen[True][:2]), torch.cat(seen[True][2:])
    differences = (first[:, None] - second[None]).abs().mean((2, 3, 4))
    assert differences.min() > 0.01, "no training picture looks the same in two epochs"


def test_one_seed_gives_one_history_and_one_set_of_weights(run_fit: Any) -> None:
    first, _, model = run_fit(training__ema_decay=0.9, **STRONG)
    second, _, again = run_fit(training__ema_decay=0.9, **STRONG)
    other, _, _ = run_fit(training__ema_decay=0.9, seed=1, **STRONG)
    assert without_seconds(first.history) == without_seconds(second.history)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert without_seconds(first.history) != without_seconds(other.history)


class Features:
    """Batches that come from no store of pictures: all that `fit` asks of them."""

    def __init__(self, loader: Any) -> None:
        self.labels_n = loader.labels_n
        batches = loader.epoch(0) if hasattr(loader, "epoch") else loader
        self._batches = [replace(b, images_bchw=b.images_bchw.clone()) for b in batches]
        self.num_pictures = len(self.labels_n)

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return iter(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


def test_batches_may_come_from_anywhere(
    run_fit: Any, make_network: Any, make_recipe: Any, make_tiny_loaders: Any
) -> None:
    recipe = make_recipe(training__epochs=1)
    train, val = (Features(loader) for loader in make_tiny_loaders(recipe))
    anywhere = fit(make_network(), train, val, recipe, CPU, Silent(), lambda *kept: None)
    usual, _, _ = run_fit(training__epochs=1)
    assert without_seconds(anywhere.history) == without_seconds(usual.history)


def test_it_is_said_which_stage_trains_when(
    make_network: Any, make_recipe: Any, make_tiny_loaders: Any
) -> None:
    recipe = make_recipe(mode="finetune", training__epochs=2, transfer__unfreeze_every=1)
    listener = Listener()
    fit(make_network(), *make_tiny_loaders(recipe), recipe, CPU, listener, lambda *kept: None)
    assert listener.lines[:2] == [
        "trains: head, body from epoch 2; not in 2 epochs: stem",
        EPOCH_HEADER,
    ]


def test_the_line_of_an_epoch_says_what_people_look_for(
    make_network: Any, make_recipe: Any, make_tiny_loaders: Any
) -> None:
    recipe, listener = make_recipe(training__epochs=2), Listener()
    train, val = make_tiny_loaders(recipe)
    result = fit(make_network(), train, val, recipe, CPU, listener, lambda *kept: None)
    header, first, second = listener.lines
    assert header == EPOCH_HEADER
    assert " ".join(header.split()) == "epoch train loss acc val loss acc lr seconds left (*: best)"
    row = result.history[0]
    assert first.split()[:7] == [
        "*",
        "1/2",
        f"{row.train_loss:.4f}",
        f"{row.train_accuracy:.3f}",
        f"{row.val_loss:.4f}",
        f"{row.val_accuracy:.3f}",
        f"{row.lr:.2e}",
    ]
    assert second.split()[-1] == "-"  # nothing is left to do
    assert row.seconds > 0


def test_time_left_is_the_mean_epoch_times_the_epochs_to_come() -> None:
    rows = [EpochRow(i, 1, 0.5, 1, 0.5, 0.1, seconds) for i, seconds in ((1, 20.0), (2, 40.0))]
    line = epoch_line(rows, 10, is_best=False)
    assert line.endswith("4 min 00 s")
    assert len(line) <= 80
