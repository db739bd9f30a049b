"""How long a training would take and how much memory, from a few steps on random pictures.

A probe works on a copy of the network: weights, statistics and random number generators are
afterwards what they were. Not counted: finding and decoding pictures, writing files, and the last
look at the finished model.
"""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from fieldmark.budget.costs import ModeEstimate
from fieldmark.data.augment.apply import crops_randomly
from fieldmark.data.loader import MOST_THREADS, TrainLoader
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.holders import InMemory
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import STORE_MARGIN
from fieldmark.errors import ModelError
from fieldmark.memory_peak import memory_peak
from fieldmark.models.contract import as_network
from fieldmark.models.cut import Cut, cut_network
from fieldmark.models.fold import inference_form
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime, translate_out_of_memory
from fieldmark.training.average import moving_average
from fieldmark.training.freeze import freeze, frozen_stages, train_mode
from fieldmark.training.optim import build_loss, build_optimizer
from fieldmark.types import Preprocess, Sample

WARM_UP_STEPS: Final = 2  # kernels are chosen, memory is asked for
LIMIT_SECONDS: Final = 3.0  # of training steps; passes without gradients get a third of it each
LEAST_MEASURED: Final = 3  # runs for a median, unless they take another such limit

# On a CPU a step of a whole batch may take seconds, and a picture takes about as long in a smaller
# one, but for its share of the update of the weights, which is timed apart. So pictures are taken
# out of the batch until some steps fit into the limit.
FEWEST_PICTURES: Final = 8
STEPS_WANTED: Final = 3
PASSES_A_STEP: Final = 4  # forward passes that a training step costs at most, about

BATCHES_MADE: Final = 6  # to time how long it takes to crop and colour pictures


def probe_mode(
    model: nn.Module,
    recipe: Recipe,
    runtime: Runtime,
    num_train: int,
    num_val: int,
    num_classes: int,
    *,
    steps: int = 20,
    features: bool,
    views: int | None = None,
) -> ModeEstimate:
    """What training `model` by `recipe` would cost on the runtime's device.

    Measured is the median of `steps` training steps, or of as many as three seconds hold, after a
    warm-up; and of passes without gradients, for validation and features. Batches for them are
    made by the recipe's augmentation: a CPU does one after the other, beside a GPU only the slower
    one counts. Where stages begin to train one after another (`transfer.unfreeze_every`) the first
    epochs take less than is said.

    Memory is that of the network, its training step and the features; not of pictures and
    libraries. On CUDA it is measured. On a CPU it is what the process grew by, or else what
    weights, gradients, optimizer and the values kept for the backward pass come to, whichever is
    more: a rough figure.

    Args:
        model: as built, nothing frozen yet, on any device; it stays as it is.
        recipe: settled; mode, size, batch size, optimizer, views and epochs decide.
        num_train, num_val: pictures.
        num_classes: what the network puts out.
        features: what is frozen runs once for each picture and view, before the first epoch: for
            all of the training in modes frozen and partial, for the head that comes first in mode
            finetune. Where the network cannot be cut, it runs whole in every epoch all the same.
        views: augmented ones of each training picture, then; 0: the picture as it is; None: the
            recipe's own.

    Raises:
        TrainingError: there is not enough memory for a step.
        RecipeError: the mode and the network do not go together.
    """
    size_px, device = recipe.data.size, runtime.device
    assert isinstance(size_px, int), "the recipe was not settled"
    before = _memory_in_use(device)
    with (
        translate_out_of_memory(recipe.training.batch_size, size_px),
        _generators_as_they_were(device),
        memory_peak(device) as peak,
    ):
        probe = _Probe(model, recipe, runtime, num_train, num_classes)
        if device.type == "cpu":
            probe.take_fewer_pictures()
        if features:
            own = recipe.transfer.views if views is None else views
            assert isinstance(own, int), "the recipe was not settled"
            probe.store_features(num_train, num_val, own, steps)
        reckoned = probe.first_step()
        step = _median(probe.step, steps, LIMIT_SECONDS, device)
        probe.model.eval()
        validation = _median(probe.forward, steps, LIMIT_SECONDS / 3, device)
        trained = probe.with_making(probe.seconds_a_picture(step.seconds))
    grown = peak.num_bytes - before
    memory = grown if device.type == "cuda" else max(grown, reckoned) + probe.feature_bytes
    setup, view = probe.setup_seconds, probe.view_seconds
    epoch = trained * num_train + validation.seconds / probe.num * num_val
    del probe
    if device.type == "cuda":
        torch.cuda.empty_cache()  # where pictures are kept is planned by what is free
    return ModeEstimate(
        setup_seconds=setup,
        seconds_per_epoch=epoch,
        seconds_total=setup + recipe.training.epochs * epoch,
        memory_bytes=memory,
        steps_measured=step.num,
        view_seconds=view,
    )


class _Probe:
    """A training in small: a copy of the network, one batch, and what a step needs.

    Attributes:
        batch_size: pictures in a batch of the training; two at least, as batch norm needs.
        num: pictures in a batch of the probe.
        setup_seconds, view_seconds: as in `ModeEstimate`.
        feature_bytes: of all features, as they come out of the network.
    """

    setup_seconds = view_seconds = 0.0
    feature_bytes = 0

    def __init__(
        self, model: nn.Module, recipe: Recipe, runtime: Runtime, num_train: int, num_classes: int
    ) -> None:
        self.recipe, self.runtime = recipe, runtime
        self.model = runtime.place_network(copy.deepcopy(model))
        self.model.zero_grad(set_to_none=True)
        self.network = as_network(self.model)
        self.frozen = frozen_stages(self.network, recipe)
        freeze(self.network, self.frozen)
        self.num = self.batch_size = max(2, min(recipe.training.batch_size, num_train))
        generator = torch.Generator().manual_seed(0)
        size_px = recipe.data.size
        assert isinstance(size_px, int), "the recipe was not settled"
        self.size_px = size_px
        shape = (self.num, self.network.in_channels, size_px, size_px)
        images_bchw = torch.randn(shape, generator=generator)
        labels_b = torch.randint(num_classes, (self.num,), generator=generator)
        # What the part that trains is given: pictures, or features.
        self.trained: nn.Module = self.model
        self.inputs = images_bchw.to(runtime.device, memory_format=runtime.memory_format)
        self.labels_b = labels_b.to(runtime.device)
        self.counts_k = torch.ones(num_classes, dtype=torch.int64)
        self.updates: list[float] = []  # seconds of each

    def take_fewer_pictures(self) -> None:
        """So that some steps fit into the limit."""
        self.model.eval()
        few = self.inputs[:FEWEST_PICTURES]
        measured = _median(lambda: self._pass(self.model, few), 3, LIMIT_SECONDS / 3, few.device)
        step_seconds = PASSES_A_STEP * measured.seconds / len(few)  # of a picture
        affordable = int(LIMIT_SECONDS / STEPS_WANTED / step_seconds)
        self.num = min(self.num, max(FEWEST_PICTURES, affordable))
        self.inputs, self.labels_b = self.inputs[: self.num], self.labels_b[: self.num]

    def store_features(self, num_train: int, num_val: int, views: int, steps: int) -> None:
        """Measure the part that need run but once; above it the steps go on with its features."""
        cut = self._cut()
        if cut is None:
            return
        lower = inference_form(cut.lower, self.inputs[:2])

        def forward() -> Tensor:
            return self._pass(lower, self.inputs)

        measured = _median(forward, steps, LIMIT_SECONDS / 3, self.runtime.device)
        each = measured.seconds / self.num
        num_views = max(1, views)
        self.view_seconds = num_train * (self.with_making(each) if views else each)
        self.setup_seconds = num_views * self.view_seconds + num_val * each
        features = forward()
        self.feature_bytes = (num_views * num_train + num_val) * features.nbytes // self.num
        if self.frozen:
            self.trained, self.inputs = cut.upper, features

    def _cut(self) -> Cut | None:
        below = self.frozen
        if self.recipe.mode == "finetune":
            below = tuple(self.network.stages[:-1])
        if not below:
            return None
        try:
            return cut_network(self.model, below, self.size_px)
        except ModelError:  # then what is frozen runs in every epoch
            return None

    def first_step(self) -> int:
        """Everything a step needs, and one step; bytes that a training comes to, reckoned."""
        recipe, runtime = self.recipe, self.runtime
        # A learning rate of 0 costs the same, and the weights stay in the range of real ones.
        self.optimizer = build_optimizer(self.model.parameters(), recipe.optimizer, 0.0)
        self.criterion = build_loss(recipe.training, self.counts_k).to(runtime.device)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scales_gradients)
        self.average = moving_average(self.model, recipe.training.ema_decay)
        train_mode(self.model, self.network, self.frozen, recipe.transfer.norms)
        with _kept_for_backward() as kept:
            self.step()
        weights = [*self.model.parameters(), *self.model.buffers()]
        for weight in weights:
            kept.pop(weight.untyped_storage().data_ptr(), None)
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [
            *weights,
            *(weight.grad for weight in weights if weight.grad is not None),
            *(value for value in states if isinstance(value, Tensor)),
            *(self.average.parameters() if self.average is not None else ()),
        ]
        a_batch = sum(kept.values()) * self.batch_size // self.num
        return sum(int(tensor.nbytes) for tensor in tensors) + a_batch

    def step(self) -> None:
        """Forward, backward and step, as in `loop.fit`."""
        with self.runtime.autocast():
            loss = self.criterion(self.trained(self.inputs), self.labels_b)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        begun = time.perf_counter()
        if self.recipe.optimizer.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.updates.append(time.perf_counter() - begun)

    def seconds_a_picture(self, step_seconds: float) -> float:
        """What a picture takes in whole batches, by a step of those of the probe."""
        if self.num == self.batch_size:
            return step_seconds / self.num
        update = statistics.median(self.updates)  # on a CPU, where nothing is still under way
        return (step_seconds - update) / self.num + update / self.batch_size

    def with_making(self, seconds: float) -> float:
        """What a picture takes that computes for so long, if it has to be made first."""
        if self.trained is not self.model:
            return seconds  # features are ready
        making = _seconds_to_make(self.recipe, self.runtime, self.network.in_channels)
        return seconds + making if self.runtime.device.type == "cpu" else max(seconds, making)

    def forward(self) -> Tensor:
        """The pass of a validation."""
        return self._pass(self.trained, self.inputs)

    def _pass(self, part: nn.Module, inputs: Tensor) -> Tensor:
        with torch.no_grad(), self.runtime.autocast():
            outputs: Tensor = part(inputs)
        return outputs


class _Measured(NamedTuple):
    seconds: float  # median of one
    num: int


def _median(
    run: Callable[[], object], most: int, limit_seconds: float, device: torch.device
) -> _Measured:
    """`most` runs after a warm-up, or as many as begin within the limit; one at least, and few
    only where even those take long."""
    seconds: list[float] = []
    started = time.perf_counter()
    for number in range(WARM_UP_STEPS + most):
        begun = time.perf_counter()
        run()
        _wait_for(device)
        ended = time.perf_counter()
        spent = ended - started
        if number >= WARM_UP_STEPS or spent > limit_seconds:
            seconds.append(ended - begun)
        is_enough = spent > limit_seconds and len(seconds) >= LEAST_MEASURED
        if is_enough or spent > 2 * limit_seconds:
            break
    return _Measured(statistics.median(seconds), len(seconds))


def _seconds_to_make(recipe: Recipe, runtime: Runtime, channels: int) -> float:
    """How long the loader takes for a picture: cropped, coloured, normalised; in its threads."""
    size_px, augment = recipe.data.size, recipe.augment
    assert isinstance(size_px, int), "the recipe was not settled"
    on_cpu = runtime.device.type == "cpu"
    preprocess = Preprocess(size_px, channels, (0.5,) * channels, (0.25,) * channels)
    form = Form("exact", preprocess)
    if crops_randomly(augment):
        form = Form("crops" if on_cpu else "canvas", preprocess)
    short_px = form.side_px if form.is_uniform else round(size_px * STORE_MARGIN)
    long_px = short_px if form.is_uniform else short_px * 4 // 3  # as most cameras have it
    generator = np.random.default_rng(0)
    num_ahead = min(torch.get_num_threads(), MOST_THREADS) if on_cpu else 1
    batch_size = FEWEST_PICTURES if on_cpu else recipe.training.batch_size
    num = batch_size * (num_ahead + BATCHES_MADE)
    pixels = generator.integers(0, 256, (short_px, long_px, channels), dtype=np.uint8)
    samples = tuple(Sample(str(i), "") for i in range(num))
    store = PixelStore(
        samples, (), form, InMemory([pixels] * num), np.full(num, long_px / short_px)
    )
    loader = TrainLoader(
        store, [0] * num, preprocess, augment, runtime, batch_size=batch_size, seed=0
    )
    ended = []
    for _ in loader.epoch(0):
        _wait_for(runtime.device)
        ended.append(time.perf_counter())
    # When the first batch came, each thread had one ready.
    return (ended[-1] - ended[0]) / (num - batch_size * num_ahead)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _memory_in_use(device: torch.device) -> int:
    """Bytes, of the same kind as `memory_peak` measures."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


@contextmanager
def _kept_for_backward() -> Iterator[dict[int, int]]:
    """Bytes of each storage that a forward pass keeps, by its address; weights are among them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


@contextmanager
def _generators_as_they_were(device: torch.device) -> Iterator[None]:
    """Around dropout and other draws: afterwards every generator goes on where it was."""
    python, numbers = random.getstate(), np.random.get_state()
    apples = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        if apples is not None:
            torch.mps.set_rng_state(apples)
