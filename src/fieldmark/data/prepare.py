"""From a split manifest to pixel stores: the whole data side of a training in one call."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch

from fieldmark.data.augment import crops_randomly
from fieldmark.data.contents import Content, contents_of
from fieldmark.data.manifest import Manifest
from fieldmark.data.pictures import read_bundled
from fieldmark.data.pixels.ahead import Ahead, storing_ahead
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.plan import Plan, plan_pixels
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import measure_mean_std
from fieldmark.data.sources.candidates import summary_of
from fieldmark.errors import RecipeError, SourceError
from fieldmark.progress import Progress
from fieldmark.recipe import AugmentRecipe, Recipe
from fieldmark.runtime import Runtime
from fieldmark.types import Part, Preprocess, Sample

# Pictures that mean and std are measured on; more would not move the fourth digit by much.
NUM_MEASURED: Final = 1000


@dataclass(frozen=True)
class PreparedData:
    """Decoded pictures of a source and how they are made.

    Attributes:
        manifest: the samples that can be read; the others are in its `left_out`.
        preprocess: complete, with measured mean and std where the recipe left them open.
        contents: of the files by path, hashed before they were decoded; none where pixels are not
            kept.
        train: stored for random crops, or exactly when there are none.
        val, test: stored exactly as `preprocess` makes them. `test` is empty with val_is_val.
    """

    manifest: Manifest
    preprocess: Preprocess
    contents: Mapping[str, Content | None]
    train: PixelStore
    val: PixelStore
    test: PixelStore

    def labels(self, store: PixelStore) -> list[int]:
        """Class numbers of a store's pictures, in its order."""
        return labels_of(store, self.manifest.class_names)


def prepare_data(
    manifest: Manifest,
    recipe: Recipe,
    runtime: Runtime,
    progress: Progress,
    *,
    stored_ahead: Container[str] = frozenset(),
) -> PreparedData:
    """Decode every picture once and measure what the recipe leaves to measuring.

    Args:
        manifest: split into parts.
        recipe: settled, but for mean and std.
        stored_ahead: what `ready_ahead` stored: it is found as if an earlier run had.

    Raises:
        SourceError: a class or a part has no readable picture left, or one cannot be read and
            the recipe is strict.
        RecipeError: mean or std do not match the channels, or there is no room where the pictures
            are to be kept.
    """
    draft = draft_preprocess(recipe)
    forms = forms_of(recipe, draft, runtime)
    plan = _plan(manifest, forms, recipe, runtime)
    progress.say(plan.reason)
    contents = _contents(manifest.samples, plan, progress)

    def store(part: Part) -> PixelStore:
        samples = manifest.of_part(part)
        return build_store(
            samples,
            forms[part],
            keep=plan.keep,
            cache=plan.cache,
            contents=[contents.get(sample.path) for sample in samples],
            device=runtime.device,
            strict=recipe.data.strict,
            title=f"decoding {part}",
            progress=progress,
            stored_ahead=stored_ahead,
        )

    train, val, test = store("train"), store("val"), store("test")
    if num_found := sum(store.num_found for store in (train, val, test)):
        of_all = f"{num_found:,} of {len(manifest.samples):,} pictures"
        progress.say(f"{of_all} were decoded by an earlier run")
    readable = manifest.without([*train.left_out, *val.left_out, *test.left_out])
    check_train_has_all_classes(manifest, train)
    preprocess = measured(draft, recipe, train)
    return PreparedData(readable, preprocess, contents, train, val, test)


@contextmanager
def ready_ahead(
    manifest: Manifest, recipe: Recipe, runtime: Runtime, progress: Progress
) -> Iterator[Ahead | None]:
    """Around looking at the pictures, before `prepare_data`: stores what is open anyway.

    Args:
        manifest: split into parts as it will most likely be.
        recipe: settled, but for mean and std.

    Yields:
        None where nobody looks, nothing is to be kept, or a look opens pictures in another way.

    Raises:
        RecipeError: as `prepare_data`.
    """
    draft = draft_preprocess(recipe)
    if not recipe.data.quick_check or draft.channels != 3:
        yield None
        return
    forms = forms_of(recipe, draft, runtime)
    plan = _plan(manifest, forms, recipe, runtime)
    if plan.cache is None:
        yield None
        return
    paths: dict[Form, list[str]] = {}
    for sample in manifest.samples:
        if sample.part:
            paths.setdefault(forms[sample.part], []).append(sample.path)
    contents = _contents(manifest.samples, plan, progress)
    with storing_ahead(paths, contents, plan.cache, progress) as ahead:
        yield ahead


def forms_of(recipe: Recipe, preprocess: Preprocess, runtime: Runtime) -> dict[Part, Form]:
    """How the pictures of each part are stored."""
    exact = Form("exact", preprocess)
    train = training_form(recipe.augment, preprocess, runtime.device)
    return {"train": train, "val": exact, "test": exact}


def _plan(manifest: Manifest, forms: Mapping[Part, Form], recipe: Recipe, runtime: Runtime) -> Plan:
    num_bytes = sum(
        form.estimate_bytes([sample.path for sample in manifest.of_part(part)])
        for part, form in forms.items()
    )
    is_decoded = read_bundled(manifest.samples[0].path) is not None
    return plan_pixels(recipe.data.cache, num_bytes, runtime.device, is_decoded=is_decoded)


def decode_exactly(
    manifest: Manifest,
    preprocess: Preprocess,
    runtime: Runtime,
    progress: Progress,
    *,
    strict: bool = False,
) -> PixelStore:
    """All samples of a manifest as a trained model sees them; the unreadable ones left out."""
    form = Form("exact", preprocess)
    paths = [sample.path for sample in manifest.samples]
    plan = plan_pixels("auto", form.estimate_bytes(paths), runtime.device)
    contents = _contents(manifest.samples, plan, progress)
    return build_store(
        manifest.samples,
        form,
        keep=plan.keep,
        cache=plan.cache,
        contents=[contents.get(path) for path in paths],
        device=runtime.device,
        strict=strict,
        title="decoding",
        progress=progress,
    )


def _contents(
    samples: Sequence[Sample], plan: Plan, progress: Progress
) -> dict[str, Content | None]:
    """What is in each picture's file by path, where decoded pictures are kept."""
    if plan.cache is None:
        return {}
    paths = [sample.path for sample in samples]
    return dict(zip(paths, contents_of(paths, progress), strict=True))


def labels_of(store: PixelStore, class_names: Sequence[str]) -> list[int]:
    """Class numbers of a store's pictures, in its order."""
    number = {name: position for position, name in enumerate(class_names)}
    return [number[sample.label] for sample in store.samples]


def training_form(augment: AugmentRecipe, preprocess: Preprocess, device: torch.device) -> Form:
    """How training pictures are stored: for random crops where the device cuts them best, or
    exactly when there are none."""
    if not crops_randomly(augment):
        return Form("exact", preprocess)
    return Form("crops" if device.type == "cpu" else "canvas", preprocess)


def check_train_has_all_classes(manifest: Manifest, train: PixelStore) -> None:
    """Raise SourceError where unreadable pictures have left a class nothing to learn from."""
    readable = {sample.label for sample in train.samples}
    for name in manifest.class_names:
        if name not in readable:
            paths = {sample.path for sample in manifest.of_part("train") if sample.label == name}
            lost = [item for item in train.left_out if item.path in paths]
            raise SourceError(
                f"class {name!r} has no readable training picture",
                given=summary_of(lost) or "it has none at all",
                fix="mend or add pictures of that class, or take the class away",
            )


def draft_preprocess(recipe: Recipe) -> Preprocess:
    """The preprocess of a settled recipe; mean 0 and std 1 stand in where they are measured."""
    data = recipe.data
    assert isinstance(data.size, int)
    assert isinstance(data.channels, int)
    assert isinstance(data.crop_fraction, float)
    assert data.resize != "auto"
    assert data.interpolation != "auto"
    assert data.channel_order != "auto"
    for word, values in (("mean", data.mean), ("std", data.std)):
        if values != "auto" and len(values) != data.channels:
            raise RecipeError(
                f"data.{word} needs one number a channel",
                given=values,
                valid=f"{data.channels} numbers",
                fix=f"give data.{word} {data.channels} numbers, or drop it to have it measured",
            )
    if data.channel_order == "bgr" and data.channels != 3:
        raise RecipeError(
            "data.channel_order = bgr is for pictures in colour",
            given=f"data.channels = {data.channels}",
            valid="3 channels",
            fix="set data.channels to 3, or data.channel_order to rgb",
        )
    return Preprocess(
        size=data.size,
        channels=data.channels,
        mean=(0.0,) * data.channels if data.mean == "auto" else data.mean,
        std=(1.0,) * data.channels if data.std == "auto" else data.std,
        resize=data.resize,
        crop_fraction=data.crop_fraction,
        interpolation=data.interpolation,
        channel_order=data.channel_order,
    )


def measured(draft: Preprocess, recipe: Recipe, train: PixelStore) -> Preprocess:
    """`draft` with mean and std of evenly chosen training pictures where the recipe says auto."""
    if "auto" not in (recipe.data.mean, recipe.data.std):
        return draft
    stride = max(1, len(train) // NUM_MEASURED)
    chosen = train.get_many(range(0, len(train), stride))
    mean, std = measure_mean_std(chosen, draft.channels)
    return replace(
        draft,
        mean=mean if recipe.data.mean == "auto" else draft.mean,
        std=std if recipe.data.std == "auto" else draft.std,
    )
