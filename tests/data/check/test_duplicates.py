"""Which copies are kept, and what the others are called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.check.copies import Copies
from fieldmark.data.check.duplicates import choose_kept, find_conflicting, find_duplicates
from fieldmark.types import Sample

SAMPLES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(("train", "val", "test"))),
    min_size=2,
    max_size=12,
).map(lambda rows: [Sample(f"{i:02d}", label, part) for i, (label, part) in enumerate(rows)])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Sample], Copies]:
    """Samples, some identical, some nearly the same."""
    samples = draw(SAMPLES)
    node_of = draw(st.lists(st.integers(0, 5), min_size=len(samples), max_size=len(samples)))
    nodes = tuple(
        tuple(i for i, node in enumerate(node_of) if node == name) for name in sorted(set(node_of))
    )
    ends = st.integers(0, len(nodes) - 1)
    near: dict[int, set[int]] = {}
    for a, b in draw(st.lists(st.tuples(ends, ends), max_size=6)):
        if a != b:
            near.setdefault(a, set()).add(b)
            near.setdefault(b, set()).add(a)
    return samples, Copies(nodes, {a: tuple(sorted(b)) for a, b in near.items()}, 0, 0)


def copies_of(i: int, copies: Copies) -> set[int]:
    """All that `i` is a copy of, directly."""
    node = next(n for n, positions in enumerate(copies.nodes) if i in positions)
    around = [*copies.nodes[node], *(j for n in copies.near.get(node, ()) for j in copies.nodes[n])]
    return set(around) - {i}


@given(worlds(), st.sets(st.integers(0, 3)))
def test_nothing_kept_is_a_copy_and_everything_else_has_one_that_is_kept(
    world: tuple[list[Sample], Copies], without: set[int]
) -> None:
    samples, copies = world
    kept = choose_kept(samples, copies, without)
    allowed = {i for positions in copies.nodes for i in positions} - without
    assert kept.positions | set(kept.instead) == allowed
    assert not kept.positions & set(kept.instead)
    for i in kept.positions:
        assert not copies_of(i, copies) & kept.positions
    for i, other in kept.instead.items():
        assert other in kept.positions
        assert other in copies_of(i, copies)


@given(worlds())
def test_identical_pictures_are_kept_in_test_before_val_before_train(
    world: tuple[list[Sample], Copies],
) -> None:
    samples, copies = world
    alone = Copies(copies.nodes, {}, 0, 0)
    kept = choose_kept(samples, alone).positions
    for positions in copies.nodes:
        (chosen,) = kept & set(positions)
        order = {"test": 0, "val": 1, "train": 2}
        assert order[samples[chosen].part] == min(order[samples[i].part] for i in positions)


@given(worlds())
def test_every_leak_and_conflict_is_told_from_one_side_at_least(
    world: tuple[list[Sample], Copies],
) -> None:
    samples, copies = world
    found = find_duplicates(samples, copies)
    told = {kind: {f.path for f in found if f.kind == kind} for kind in ("leak", "label conflict")}
    for i, sample in enumerate(samples):
        for j in copies_of(i, copies):
            for kind, differs in (
                ("leak", sample.part != samples[j].part),
                ("label conflict", sample.label != samples[j].label),
            ):
                if differs:
                    assert {sample.path, samples[j].path} & told[kind]
    for finding in found:
        i = int(finding.path)
        others = [samples[int(path)] for path in finding.others]
        assert {int(path) for path in finding.others} <= copies_of(i, copies)
        if finding.kind == "leak":
            assert all(other.part != finding.part for other in others)
        elif finding.kind == "label conflict":
            assert all(other.label != finding.label for other in others)
        else:
            everywhere = [samples[j] for j in copies_of(i, copies)]
            assert {(x.label, x.part) for x in everywhere} == {(finding.label, finding.part)}


@given(worlds())
def test_conflicting_are_all_that_have_a_copy_with_another_label(
    world: tuple[list[Sample], Copies],
) -> None:
    samples, copies = world
    wanted = {
        i
        for i, sample in enumerate(samples)
        if any(samples[j].label != sample.label for j in copies_of(i, copies))
    }
    assert find_conflicting(samples, copies) == wanted


def test_what_a_finding_says() -> None:
    samples = [
        Sample("a", "ants", "train"),
        Sample("b", "ants", "test"),
        Sample("c", "bees", "train"),
        Sample("d", "bees", "train"),
    ]
    copies = Copies(((0, 1), (2,), (3,)), {1: (2,), 2: (1,)}, 0, 0)
    leak, double = find_duplicates(samples, copies)
    assert (leak.kind, leak.path, leak.others) == ("leak", "a", ("b",))
    assert leak.detail == "identical; train here, test there"
    assert (double.kind, double.path, double.others) == ("duplicate", "d", ("c",))
    assert double.detail == "nearly the same"
    both = find_duplicates(
        [Sample("a", "ants", "train"), Sample("b", "bees", "test")], Copies(((0, 1),), {}, 0, 0)
    )
    assert [finding.kind for finding in both] == ["leak", "label conflict"]
    assert both[1].detail == "identical; ants here, bees there"
    assert [finding.severity for finding in (leak, double)] == ["error", "warning"]


def test_of_thousands_of_copies_each_finding_names_a_few() -> None:
    samples = [Sample(f"{i:05d}", "ants" if i % 2 else "bees", "train") for i in range(4000)]
    found = find_duplicates(samples, Copies((tuple(range(4000)),), {}, 0, 0))
    assert len(found) == 3999
    assert max(len(finding.others) for finding in found) <= 20
