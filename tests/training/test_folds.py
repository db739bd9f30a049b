"""Out of fold: each picture by a head that saw neither it, nor a view of it, nor its group."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fieldmark.errors import SourceError
from fieldmark.training.folds import Head, OutOfFold, deal, inner_folds, out_of_fold
from fieldmark.training.logistic import fit_logistic
from fieldmark.types import Sample

CLASSES = ("ant", "bee", "cat")
few = settings(max_examples=20, deadline=None)
groups = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.sampled_from(["", "", "g1", "g2", "g3", "g4"])),
    max_size=30,
).map(lambda rows: [*rows, *((name, "") for name in CLASSES for _ in range(6))])


def samples_of(rows: list[tuple[str, str]]) -> list[Sample]:
    return [Sample(f"/d/{i:03d}.jpg", name, "train", group) for i, (name, group) in enumerate(rows)]


class Spy:
    """A fit that remembers which pictures it was shown: feature 0 is the picture's number."""

    def __init__(self) -> None:
        self.seen: list[set[int]] = []
        self.asked: list[set[int]] = []

    def __call__(
        self, features_nvd: Tensor, exact_nd: Tensor, labels_n: Tensor, fold_n: Tensor
    ) -> Head:
        number = len(self.seen)
        self.seen.append({int(x) for x in features_nvd[..., 0].flatten()})
        self.asked.append(set())
        assert {int(x) for x in exact_nd[:, 0]} == self.seen[number]
        assert len(exact_nd) == len(labels_n) == len(fold_n) == len(features_nvd)

        def head(features_md: Tensor) -> Tensor:
            assert (features_md[:, 1] == 1).all(), "asked for what is not the exact picture"
            self.asked[number] |= {int(x) for x in features_md[:, 0]}
            return torch.full((len(features_md), 3), float(number))

        return head


def spied(samples: list[Sample], num_folds: int, seed: int) -> tuple[Spy, OutOfFold]:
    n, spy = len(samples), Spy()
    exact_nd = torch.stack([torch.arange(n).float(), torch.ones(n)], dim=1)
    views_nvd = torch.stack([exact_nd, exact_nd], dim=1)
    views_nvd[..., 1] = 0
    return spy, out_of_fold(views_nvd, exact_nd, samples, CLASSES, num_folds, seed, spy)


@few
@given(groups, st.integers(2, 5), st.integers(0, 99))
def test_every_picture_is_predicted_once_by_a_head_that_did_not_see_it(
    rows: list[tuple[str, str]], num_folds: int, seed: int
) -> None:
    samples = samples_of(rows)
    spy, found = spied(samples, num_folds, seed)
    assert len(spy.seen) == num_folds
    assert sorted(i for asked in spy.asked for i in asked) == list(range(len(samples)))
    for fold, (seen, asked) in enumerate(zip(spy.seen, spy.asked, strict=True)):
        assert not seen & asked
        assert seen | asked == set(range(len(samples))), "a picture is neither in nor out"
        assert asked == {i for i, its in enumerate(found.fold_n.tolist()) if its == fold}
        both = {samples[i].group for i in seen} & {samples[i].group for i in asked}
        assert both <= {""}, "a group is on both sides"


@few
@given(groups, st.integers(0, 99))
def test_one_seed_deals_one_way_whatever_the_order(rows: list[tuple[str, str]], seed: int) -> None:
    samples = samples_of(rows)
    fold_of = dict(zip(samples, deal(samples, CLASSES, 4, seed).tolist(), strict=True))
    shuffled = samples[::-1]
    again = dict(zip(shuffled, deal(shuffled, CLASSES, 4, seed).tolist(), strict=True))
    assert again == fold_of


def test_another_seed_deals_otherwise_and_classes_are_spread() -> None:
    samples = samples_of([(name, "") for name in CLASSES for _ in range(20)])
    fold_n = deal(samples, CLASSES, 5, 0)
    assert fold_n.tolist() != deal(samples, CLASSES, 5, 1).tolist()
    times = Counter(zip((s.label for s in samples), fold_n.tolist(), strict=True))
    assert set(times.values()) == {4}


def test_logistic_heads_out_of_fold_are_those_of_each_fold() -> None:
    generator = torch.Generator().manual_seed(1)
    samples = samples_of([(name, "") for name in CLASSES for _ in range(12)])
    labels_n = torch.arange(3).repeat_interleave(12)
    exact_nd = torch.randn(36, 8, generator=generator) + 3 * torch.eye(8)[labels_n]
    views_nvd = exact_nd[:, None] + 0.3 * torch.randn(36, 2, 8, generator=generator)
    found = out_of_fold(views_nvd, exact_nd, samples, CLASSES, 2, 7)
    for fold in range(2):
        held_n = found.fold_n == fold
        rest = [sample for sample, held in zip(samples, held_n.tolist(), strict=True) if not held]
        fitted = fit_logistic(
            views_nvd[~held_n],
            labels_n[~held_n],
            3,
            fold_n=inner_folds(rest, CLASSES, 7),
            exact_nd=exact_nd[~held_n],
        )
        expected = torch.softmax(fitted.logits(exact_nd[held_n]).double(), dim=1)
        torch.testing.assert_close(found.probabilities_nk[held_n], expected)
    accuracy = (found.probabilities_nk.argmax(dim=1) == labels_n).double().mean()
    assert accuracy > 0.7, "out of fold it must still tell them apart"


def test_a_strength_that_is_given_is_that_of_each_fold() -> None:
    generator = torch.Generator().manual_seed(1)
    samples = samples_of([(name, "") for name in CLASSES for _ in range(8)])
    labels_n = torch.arange(3).repeat_interleave(8)
    features_nd = torch.randn(24, 5, generator=generator)
    found = out_of_fold(features_nd, features_nd, samples, CLASSES, 3, 7, strength=0.3)
    for fold in range(3):
        held_n = found.fold_n == fold
        fitted = fit_logistic(features_nd[~held_n], labels_n[~held_n], 3, strengths=(0.3,))
        expected = torch.softmax(fitted.logits(features_nd[held_n]).double(), dim=1)
        torch.testing.assert_close(found.probabilities_nk[held_n], expected)


def test_class_weights_are_those_of_each_fold() -> None:
    samples = samples_of([("ant", "")] * 30 + [("bee", "")] * 12 + [("cat", "")] * 8)
    exact_nd = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    labels_n = torch.tensor([CLASSES.index(sample.label) for sample in samples])
    weights_k = torch.tensor([1.0, 3.0, 9.0])
    words = {"strength": 0.1, "class_weights": weights_k}
    found = out_of_fold(exact_nd, exact_nd, samples, CLASSES, 3, 7, **words)
    rest_n = found.fold_n != 1
    expected = fit_logistic(
        exact_nd[rest_n], labels_n[rest_n], 3, strengths=(0.1,), class_weights=weights_k
    )
    shares_mk = expected.logits(exact_nd[~rest_n]).double().softmax(1)
    assert torch.equal(found.probabilities_nk[~rest_n], shares_mk)


def test_labels_without_meaning_are_not_guessed_out_of_fold() -> None:
    """A leak would show: in-sample, d > n fits any labels."""
    generator = torch.Generator().manual_seed(2)
    samples = samples_of([(CLASSES[i % 3], "") for i in range(60)])
    features_nd = torch.randn(60, 80, generator=generator)
    found = out_of_fold(features_nd, features_nd, samples, CLASSES, 2, 0)
    labels_n = torch.arange(60) % 3
    assert (found.probabilities_nk.argmax(dim=1) == labels_n).double().mean() < 0.55


def test_rows_are_a_table_with_folds_from_one() -> None:
    samples = samples_of([(name, "") for name in CLASSES for _ in range(6)])
    _, found = spied(samples, 2, 0)
    rows = list(found.rows())
    assert found.header == ["path", "label", "fold", "p:ant", "p:bee", "p:cat"]
    assert [row[0] for row in rows] == [sample.path for sample in samples]
    assert {row[2] for row in rows} == {"1", "2"}
    assert rows[0][1:2] + rows[0][3:] == ["ant", "0.333333", "0.333333", "0.333333"]


def test_too_few_pictures_of_a_class_are_said() -> None:
    samples = samples_of([("ant", ""), *[("bee", "")] * 6])
    with pytest.raises(SourceError, match="one fold alone"):
        spied(samples, 3, 0)


@few
@given(groups, st.integers(0, 9))
def test_inner_folds_keep_groups_whole_and_leave_each_class_something(
    rows: list[tuple[str, str]], seed: int
) -> None:
    samples = samples_of(rows)
    fold_n = inner_folds(samples, CLASSES, seed)
    assert 2 <= len({*fold_n.tolist()} - {-1}) <= 5
    folds_of: dict[str, set[int]] = {}
    for sample, fold in zip(samples, fold_n.tolist(), strict=True):
        folds_of.setdefault(sample.group or sample.path, set()).add(fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    for fold in {*fold_n.tolist()} - {-1}:
        kept = {s.label for s, its in zip(samples, fold_n.tolist(), strict=True) if its != fold}
        assert kept == set(CLASSES), "a fit would not know a class it is judged by"


def test_what_cannot_be_held_out_never_is() -> None:
    rows = [("ant", ""), ("bee", "g"), ("bee", "g"), *[("cat", "")] * 4, *[("ant", "g")] * 2]
    # `bee` lies in one group, which has ants too: without it there is one ant, so no class is left
    # to be told from `cat`.
    assert inner_folds(samples_of(rows), CLASSES, 0).tolist() == [-1] * len(rows)
    rows = [("ant", ""), *[("bee", "")] * 6, *[("cat", "")] * 6]
    assert inner_folds(samples_of(rows), CLASSES, 0).tolist().index(-1) == 0
    assert inner_folds(samples_of(rows), CLASSES, 0).tolist().count(-1) == 1
