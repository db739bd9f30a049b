"""What a training trains on: pictures, or what the frozen part of its network makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fieldmark.data.contents import Content, contents_of
from fieldmark.data.features.form import FeatureForm, weights_digest
from fieldmark.data.features.store import Features, find_features
from fieldmark.data.loader import EvalLoader, TrainLoader
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.prepare import PreparedData
from fieldmark.data.sources.candidates import counted
from fieldmark.data.views import EXACT
from fieldmark.errors import ModelError, OutputError, RecipeError
from fieldmark.models.contract import as_network
from fieldmark.models.cut import Cut, Upper, cut_network
from fieldmark.models.fold import InferenceForm, inference_form
from fieldmark.models.heads import without_head_options
from fieldmark.progress import Progress, size
from fieldmark.recipe import AugmentRecipe, Recipe
from fieldmark.runtime import Runtime
from fieldmark.training.batches import EvalBatches, TrainBatches
from fieldmark.training.feature_loader import FeatureEvalLoader, FeatureTrainLoader
from fieldmark.training.features import compute_features
from fieldmark.training.freeze import check_unchanged, fingerprints, frozen_stages, stage_tensors

NUM_EXAMPLES = 8  # pictures on which the fastest form of a frozen part is tried


@dataclass(frozen=True)
class Trainee:
    """What `fit` is given.

    Attributes:
        module: the network, or its part above what is frozen; on the device.
        train, val: batches of what the module takes.
        frozen: the part below and its features; None where it runs in every epoch, or there is
            none.
    """

    module: nn.Module
    train: TrainBatches
    val: EvalBatches
    frozen: FrozenPart | None = None

    @property
    def parts(self) -> tuple[nn.Module, TrainBatches, EvalBatches]:
        """Module and batches, as `fit` takes them."""
        return self.module, self.train, self.val


@dataclass(frozen=True)
class FrozenPart:
    """The frozen part of a network, and what it made of the pictures.

    Attributes:
        train, val: features of these parts, in the order of their pixel stores.
    """

    maker: FeatureMaker
    train: Features
    val: Features

    def judge(
        self, kept: nn.Module, store: PixelStore, runtime: Runtime
    ) -> tuple[nn.Module, EvalBatches | None]:
        """For `evaluate_store`, of a network with the same frozen part (`check_kept`): its upper
        part and the features of a store's pictures. A second run computes none.

        Args:
            kept: the network, on the runtime's device.
            runtime: of float32.

        Returns:
            The network itself and None where the features are rounded, or cannot be kept.
        """
        maker = self.maker
        if maker.runtime.half is not None:
            return kept, None
        try:
            is_val = store is maker.data.val
            features = self.val if is_val else maker.exact(store, "features of test")
        except (OutputError, RecipeError):  # too large: it goes without
            return kept, None
        labels, batch_size = maker.data.labels(store), maker.recipe.training.batch_size
        batches = FeatureEvalLoader(features, labels, runtime, batch_size=batch_size)
        upper = Upper(kept, maker.cut.upper.way)
        upper.spares_features = maker.cut.upper.spares_features
        return upper, batches


def check_kept(kept: nn.Module, model: nn.Module, recipe: Recipe) -> None:
    """Raise TrainingError unless what was frozen in `model` is the same, to the bit, in the
    network that was kept in a file."""
    stages = frozen_stages(as_network(model), recipe)
    check_unchanged(
        fingerprints(model, as_network(model), stages), fingerprints(kept, as_network(kept), stages)
    )


def whole(module: nn.Module) -> nn.Module:
    """The network that a trainee's module belongs to: itself, or what it is the upper part of."""
    return module.network if isinstance(module, Upper) else module


def prepare_trainee(
    model: nn.Module,
    data: PreparedData,
    recipe: Recipe,
    runtime: Runtime,
    loaders: tuple[TrainLoader, EvalLoader],
    progress: Progress,
    *,
    before_work: Callable[[bool], None] | None = None,
) -> Trainee:
    """Run what is frozen once, and train on what it gave; where that cannot be, say so.

    Args:
        model: on the device.
        loaders: of the pictures.
        before_work: called first, with whether features are stored, unless an earlier run has left
            nothing to compute.

    Raises:
        FieldmarkError: as `compute_features`.
    """
    if not frozen_stages(as_network(model), recipe):
        return Trainee(model, *loaders)
    train_loader, val_loader = loaders
    try:
        maker = feature_maker(model, data, recipe, runtime, val_loader, progress)
        if before_work and not maker.has_train(data.train):
            before_work(True)
        train = maker.of_train(data.train)
        val = maker.exact(data.val, "features of val")
    except (ModelError, OutputError, RecipeError) as error:
        progress.say(f"{error.problem}: the frozen part runs in every epoch")
        if before_work:
            before_work(False)
        return Trainee(model, *loaders)
    maker.say(train, val)
    words = {"batch_size": recipe.training.batch_size}
    return Trainee(
        maker.cut.upper,
        FeatureTrainLoader(
            train,
            train_loader.labels_n.tolist(),
            runtime,
            seed=recipe.seed,
            sampling=recipe.training.sampling,
            **words,
        ),
        FeatureEvalLoader(val, val_loader.labels_n.tolist(), runtime, **words),
        FrozenPart(maker, train, val),
    )


def feature_maker(
    model: nn.Module,
    data: PreparedData,
    recipe: Recipe,
    runtime: Runtime,
    val_loader: EvalLoader,
    progress: Progress,
) -> FeatureMaker:
    """What makes features with the stages of `model` that the recipe freezes.

    Raises:
        ModelError: the network cannot be run in two parts there.
    """
    network = as_network(model)
    stages = frozen_stages(network, recipe)
    cut = cut_network(model, stages, data.preprocess.size)
    example_bchw = next(iter(val_loader)).images_bchw[:NUM_EXAMPLES]
    return FeatureMaker(
        cut=cut,
        lower=inference_form(cut.lower, example_bchw),
        # Of the weights below alone: those above are another run's own affair.
        weights=weights_digest(stage_tensors(model, network, stages)),
        architecture=without_head_options(network.architecture),
        data=data,
        recipe=recipe,
        # In 16 bits features differ by several hundredths (benchmarks/frozen_forms.py), and they
        # are made once: only who asks for it gets that.
        runtime=runtime if recipe.precision != "auto" else Runtime(runtime.device),
        progress=progress,
    )


@dataclass(frozen=True)
class FeatureMaker:
    """Makes features of pictures, each view once, for this run and every later one.

    Attributes:
        lower: the frozen part in the form that runs fastest.
        weights: a digest of its weights, statistics and buffers.
        architecture: of the network, without its head.
    """

    cut: Cut
    lower: InferenceForm
    weights: str
    architecture: Mapping[str, Any]
    data: PreparedData
    recipe: Recipe
    runtime: Runtime
    progress: Progress

    def of_train(self, store: PixelStore) -> Features:
        """The recipe's views of the training pictures; without any, as evaluation sees them."""
        views, augment = self._of_train
        return self._compute(store, views, augment, "features of train")

    def has_train(self, store: PixelStore) -> bool:
        """Whether an earlier run has computed all that `of_train` gives."""
        views, augment = self._of_train
        wanted = {
            (content.key, view) for content in self._contents(store) if content for view in views
        }
        cache = self._cache
        return (
            cache is not None
            and find_features(cache, self._form(store, augment), wanted).keys() >= wanted
        )

    def exact(self, store: PixelStore, title: str) -> Features:
        """Of pictures as evaluation sees them; the store's form is "exact"."""
        return self._compute(store, (EXACT,), None, title)

    def say(self, train: Features, val: Features) -> None:
        """What was computed, found and kept."""
        num_views = len(train.views)
        found, all_of_them = train.num_found + val.num_found, len(train) * num_views + len(val)
        shape = " x ".join(map(str, train.shape))
        num_bytes = all_of_them * 4 * torch.Size(train.shape).numel()
        views = "as they are" if train.views == (EXACT,) else counted(num_views, "view")
        earlier = f"; {found:,} of {all_of_them:,} an earlier run had computed" if found else ""
        self.progress.say(
            f"features: {shape} numbers of each picture ({views}), {size(num_bytes)} in all, "
            f"computed once{earlier}"
        )

    @property
    def _of_train(self) -> tuple[Sequence[int], AugmentRecipe | None]:
        num_views = self.recipe.transfer.views
        assert isinstance(num_views, int), "the recipe was not settled"
        return (range(num_views), self.recipe.augment) if num_views else ((EXACT,), None)

    def _contents(self, store: PixelStore) -> list[Content | None]:
        """What was in the files before they were decoded: hashed later, one that was replaced in
        between would be taken for what it is now."""
        paths = [sample.path for sample in store.samples]
        if all(path in self.data.contents for path in paths):
            return [self.data.contents[path] for path in paths]
        return contents_of(paths, self.progress)  # pixels are not kept either, or lie in one file

    @property
    def _cache(self) -> PixelCache | None:
        return None if self.recipe.data.cache == "none" else PixelCache()

    def _form(self, store: PixelStore, augment: AugmentRecipe | None) -> FeatureForm:
        half = self.runtime.half
        return FeatureForm(
            weights=self.weights,
            architecture=self.architecture,
            boundary=self.cut.boundary,
            pixels=store.form,
            preprocess=self.data.preprocess,
            augment=augment,
            inference=f"{self.lower.num_folded} norms folded, "
            f"{'channels last' if self.lower.channels_last else 'as it is'}, {half or 'float32'}, "
            f"{self.runtime.device.type}",
        )

    def _compute(
        self,
        store: PixelStore,
        views: Sequence[int],
        augment: AugmentRecipe | None,
        title: str,
    ) -> Features:
        return compute_features(
            store,
            self._contents(store),
            tuple(views),
            self.lower,
            self._form(store, augment),
            self._cache,
            self.runtime,
            batch_size=self.recipe.training.batch_size,
            progress=self.progress,
            title=title,
        )
