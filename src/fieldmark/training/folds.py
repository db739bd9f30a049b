"""Every training picture predicted by a head that did not see it, from stored features.

Who is held out when is `data.parts.folds`' to say, as for any cross-validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.folds import make_folds
from fieldmark.data.parts.placing import groups_and_singles
from fieldmark.errors import SourceError
from fieldmark.training.logistic import STRENGTHS, fit_logistic
from fieldmark.types import Sample

INNER_FOLDS: Final = 5  # by which a strength is chosen where there is no val
ALWAYS_TRAINED_ON: Final = -1

# A head made from (n, v, d) features, the same pictures' exact (n, d) ones, (n,) labels and (n,)
# inner folds to choose by; it gives logits (m, k) for features (m, d).
Head = Callable[[Tensor], Tensor]
Fit = Callable[[Tensor, Tensor, Tensor, Tensor], Head]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What heads said of pictures that they had not seen.

    Attributes:
        samples: n of them, in the order they were given.
        class_names: k of them, in the order of the columns.
        probabilities_nk: float64, on the CPU; rows sum to 1.
        fold_n: the fold that held each picture out, from 0.
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    probabilities_nk: Tensor
    fold_n: Tensor

    @property
    def header(self) -> list[str]:
        """The columns of `rows`; probabilities are called as in a run's predictions."""
        return ["path", "label", "fold", *(f"p:{name}" for name in self.class_names)]

    def rows(self) -> Iterator[list[str]]:
        """`path, label, fold` and the probability of each class, a row a picture; folds from 1."""
        shares = self.probabilities_nk.tolist()
        for sample, fold, of_each in zip(self.samples, self.fold_n.tolist(), shares, strict=True):
            yield [sample.path, sample.label, str(fold + 1), *(f"{p:.6g}" for p in of_each)]


def out_of_fold(
    features_nvd: Tensor,
    exact_nd: Tensor,
    samples: Sequence[Sample],
    class_names: Sequence[str],
    num_folds: int,
    seed: int,
    fit: Fit | None = None,
    *,
    strength: float | None = None,
    class_weights: Tensor | None = None,
) -> OutOfFold:
    """Each picture's probabilities by a head that saw neither it nor any of its group.

    Folds are those of `data.parts.folds.make_folds`: stratified, groups whole, drawn by the names
    of the files, so that the order of `samples` does not matter. A head is fitted on all views of
    the other folds, and asked for the exact features of its own. Where it has something to choose,
    it does so by `inner_folds` of what it may see: the pictures held out have no part in that.

    Args:
        features_nvd: (n, v, d) or (n, d): every view of the training pictures.
        exact_nd: (n, d): the same pictures without augmentation.
        samples: n of them, each path once; their parts are not heeded.
        fit: None: `fit_logistic`.
        strength: with which that is fitted, such as one that a validation part has chosen; None:
            each fold chooses its own, which takes six times as long and more.
        class_weights: (k,), as of `fit_logistic`: those that the run's own head is fitted with.

    Raises:
        RecipeError: such a number of folds makes no sense.
        SourceError: there are too few pictures or groups, of a class or altogether.
    """
    assert len(features_nvd) == len(exact_nd) == len(samples), (len(features_nvd), len(samples))
    views_nvd = features_nvd if features_nvd.dim() == 3 else features_nvd[:, None]
    labels_n = _labels(samples, class_names).to(exact_nd.device)
    fold_n = deal(samples, class_names, num_folds, seed).to(exact_nd.device)
    make_head = fit or _logistic(len(class_names), strength, class_weights)
    chooses = fit is not None or strength is None
    nobody_n = torch.full((len(samples),), ALWAYS_TRAINED_ON)
    probabilities_nk = torch.zeros(len(samples), len(class_names), dtype=torch.float64)
    for fold in range(num_folds):
        held_n, rest_n = fold_n == fold, fold_n != fold
        rest = [
            sample for sample, is_held in zip(samples, held_n.tolist(), strict=True) if not is_held
        ]
        inner_n = inner_folds(rest, class_names, seed) if chooses else nobody_n[rest_n.cpu()]
        head = make_head(views_nvd[rest_n], exact_nd[rest_n], labels_n[rest_n], inner_n)
        logits_mk = head(exact_nd[held_n]).detach().double()
        probabilities_nk[held_n.cpu()] = torch.softmax(logits_mk, dim=1).cpu()
    return OutOfFold(tuple(samples), tuple(class_names), probabilities_nk, fold_n.cpu())


def deal(
    samples: Sequence[Sample], class_names: Sequence[str], num_folds: int, seed: int
) -> Tensor:
    """The fold of each sample, (n,) int64, from 0; see `data.parts.folds.make_folds`.

    Raises:
        RecipeError, SourceError: as there.
    """
    manifest = Manifest(
        samples=tuple(samples),
        class_names=tuple(class_names),
        left_out=(),
        notes=(),
        all_grey=False,  # these two tell of pixels, and say nothing here
        typical_side_px=1,
    )
    folds = make_folds(manifest, num_folds, val_fraction=0, seed=seed)
    fold_of = {s.path: fold for fold, parts in enumerate(folds) for s in parts.of_part("test")}
    return torch.tensor([fold_of[sample.path] for sample in samples])


def inner_folds(samples: Sequence[Sample], class_names: Sequence[str], seed: int) -> Tensor:
    """Folds to choose by where there is no validation part, (n,) int64, from 0.

    At most `INNER_FOLDS`. Pictures that cannot be held out are -1 (`ALWAYS_TRAINED_ON`): those of a
    class that has one picture, or one group, and whoever is in a group with them; all of them
    where nothing could be told apart in what is left.
    """
    groups, singles = groups_and_singles(samples)
    units = [*groups, *([single] for single in singles)]
    while True:  # a group that goes may leave another class with one
        times = Counter(label for unit in units for label in {sample.label for sample in unit})
        kept = [unit for unit in units if all(times[sample.label] > 1 for sample in unit)]
        if len(kept) == len(units):
            break
        units = kept
    dealt = [sample for unit in units for sample in unit]
    nobody = torch.full((len(samples),), ALWAYS_TRAINED_ON)
    there = [name for name in class_names if any(sample.label == name for sample in dealt)]
    num_folds = min(INNER_FOLDS, len(units))
    if len(there) < 2:
        return nobody
    try:
        fold_n = deal(dealt, there, num_folds, seed)
    except SourceError:  # groups so large that no fold can do without one of them
        return nobody
    fold_of = dict(zip((sample.path for sample in dealt), fold_n.tolist(), strict=True))
    return torch.tensor([fold_of.get(sample.path, ALWAYS_TRAINED_ON) for sample in samples])


def _labels(samples: Sequence[Sample], class_names: Sequence[str]) -> Tensor:
    number = {name: i for i, name in enumerate(class_names)}
    return torch.tensor([number[sample.label] for sample in samples])


def _logistic(num_classes: int, strength: float | None, class_weights: Tensor | None) -> Fit:
    strengths = STRENGTHS if strength is None else (strength,)

    def fit(features_nvd: Tensor, exact_nd: Tensor, labels_n: Tensor, fold_n: Tensor) -> Head:
        fitted = fit_logistic(
            features_nvd,
            labels_n,
            num_classes,
            fold_n=fold_n,
            exact_nd=exact_nd,
            strengths=strengths,
            class_weights=class_weights,
        )
        return fitted.logits

    return fit
