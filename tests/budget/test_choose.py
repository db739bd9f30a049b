"""What is chosen within a time: it fits, it is the best that does, and nothing given is changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.budget.choose import SHARE, BudgetFacts, Choice, choose_within
from fieldmark.budget.costs import Candidate, ModeEstimate, estimate_line
from fieldmark.recipe import Recipe

PHOTOS = BudgetFacts(trained=True, mode=None, views=4, size=224, epochs=20, min_size_px=32)
SCRATCH = replace(PHOTOS, trained=False, views=0)


@dataclass
class Machine:
    """Costs by a law: a forward pass of the training pictures takes `forward` seconds at 224 px.

    `overhead` is what a pass takes however small the pictures are.
    """

    forward: float = 10.0
    overhead: float = 0.0
    asked: list[Candidate] = field(default_factory=list)

    def __call__(self, candidate: Candidate) -> ModeEstimate:
        self.asked.append(candidate)
        return self.cost(candidate)

    def cost(self, candidate: Candidate) -> ModeEstimate:
        a_pass = self.overhead + self.forward * (candidate.size / 224) ** 2
        val = 0.1 * a_pass
        match candidate.mode:
            case "frozen" | "partial":
                setup, view = max(candidate.views, 1) * a_pass + val, a_pass
                epoch = 0.01 * a_pass if candidate.mode == "frozen" else a_pass
            case "finetune":
                setup, view, epoch = a_pass + val, 0.0, 3 * a_pass + val
            case _:
                setup, view, epoch = 0.0, 0.0, 3 * a_pass + val
        total = setup + candidate.epochs * epoch
        return ModeEstimate(setup, epoch, total, 10**9, 20, view_seconds=view)


def chosen_as(choice: Choice) -> Candidate:
    return Candidate(choice.mode, choice.views, choice.size, choice.epochs)


def quality(choice: Choice) -> tuple[bool, bool, int, int, int]:
    """Larger is better, as the issue orders candidates."""
    is_finetune = choice.mode == "finetune"
    return choice.fits, is_finetune, choice.size, choice.views, choice.epochs


machines = st.builds(
    Machine,
    forward=st.floats(0.01, 1000),
    overhead=st.floats(0, 100),
)
all_facts = st.builds(
    BudgetFacts,
    trained=st.just(True),
    mode=st.sampled_from([None, "finetune", "frozen", "partial"]),
    views=st.integers(0, 8),
    size=st.sampled_from([32, 96, 160, 224, 299]),
    epochs=st.integers(1, 60),
    views_given=st.booleans(),
    size_given=st.booleans(),
    epochs_given=st.booleans(),
    min_size_px=st.sampled_from([1, 32, 128]),
) | st.builds(
    BudgetFacts,
    trained=st.just(False),
    mode=st.sampled_from([None, "scratch"]),
    views=st.just(0),
    size=st.sampled_from([32, 224]),
    epochs=st.integers(1, 60),
    size_given=st.booleans(),
    epochs_given=st.booleans(),
)


@given(machines, all_facts, st.floats(1, 100_000))
def test_it_fits_if_anything_does_and_the_estimate_is_that_of_the_choice(
    machine: Machine, facts: BudgetFacts, budget: float
) -> None:
    choice = choose_within(budget, machine, facts)
    real = machine.cost(chosen_as(choice))
    assert choice.estimate.seconds_total == pytest.approx(real.seconds_total)
    assert choice.estimate.setup_seconds == pytest.approx(real.setup_seconds)
    assert choice.fits == (choice.estimate.seconds_total <= SHARE * budget)
    # The cheapest that there is: what it tells of fitting has to be what came out.
    mode = facts.mode or ("frozen" if facts.trained else "scratch")
    if facts.mode is None and facts.trained and facts.views_given:
        mode = "frozen"
    sizes = [px for px in (96, 128, 160, 224) if facts.min_size_px <= px < facts.size]
    px = facts.size if facts.size_given or not sizes else sizes[0]
    views = facts.views if facts.views_given else min(facts.views, 1)
    epochs = facts.epochs if facts.epochs_given else min(facts.epochs, 3)
    least = machine.cost(Candidate(mode, views, px, epochs)).seconds_total
    if least <= SHARE * budget * (1 - 1e-9):
        assert choice.fits


@given(machines, all_facts, st.floats(1, 100_000), st.floats(1, 100))
def test_more_time_never_gives_less(
    machine: Machine, facts: BudgetFacts, budget: float, factor: float
) -> None:
    less = choose_within(budget, machine, facts)
    more = choose_within(budget * factor, machine, facts)
    if facts.trained:
        assert quality(more) >= quality(less)
    else:  # half of the epochs go before the size, so a size may come back with fewer of them
        assert (more.fits, more.size) >= (less.fits, less.size)


@given(machines, all_facts, st.floats(1, 100_000))
def test_words_that_were_given_are_kept_and_none_is_raised(
    machine: Machine, facts: BudgetFacts, budget: float
) -> None:
    choice = choose_within(budget, machine, facts)
    assert facts.mode in (None, choice.mode)
    for word in ("views", "size", "epochs"):
        chosen, asked = getattr(choice, word), getattr(facts, word)
        assert chosen == asked if getattr(facts, f"{word}_given") else chosen <= asked
    assert choice.epochs >= min(3, facts.epochs)
    assert choice.size >= min(facts.min_size_px, facts.size)


@given(machines, all_facts, st.floats(1, 100_000))
def test_few_measurements_each_of_another_mode_or_size_and_the_same_answer_again(
    machine: Machine, facts: BudgetFacts, budget: float
) -> None:
    choice = choose_within(budget, machine, facts)
    pairs = [(candidate.mode, candidate.size) for candidate in machine.asked]
    assert len(set(pairs)) == len(pairs) <= 5
    assert choose_within(budget, machine, facts) == choice


def test_enough_time_changes_nothing_and_takes_one_measurement() -> None:
    machine = Machine()
    choice = choose_within(3600, machine, PHOTOS)
    assert chosen_as(choice) == Candidate("finetune", 4, 224, 20)
    assert len(machine.asked) == 1
    assert choice.said == [
        "finetune at 224 px takes about 11 min: 31 s an epoch, 20 epochs after 11 s for "
        "features; about 1 GB"
    ]


def test_a_shorter_finetuning_comes_before_another_mode() -> None:
    choice = choose_within(300, Machine(), PHOTOS)  # 255 s: 11 of features, 7 epochs of 31
    assert chosen_as(choice) == Candidate("finetune", 4, 224, 7)
    assert choice.said[0] == "7 epochs instead of 20, which take 11 min"


def test_what_is_given_up_is_said_step_by_step() -> None:
    choice = choose_within(62, Machine(), PHOTOS)  # 52.7 s
    assert chosen_as(choice) == Candidate("frozen", 4, 224, 20)
    assert choice.said[0] == (
        "finetune would take 11 min (5 epochs: 3 min): frozen with 4 views instead"
    )
    choice = choose_within(20, Machine(), PHOTOS)  # 17 s
    assert chosen_as(choice) == Candidate("frozen", 1, 224, 20)
    assert choice.said[1] == "1 view instead of 4"
    choice = choose_within(10, Machine(), PHOTOS)  # 8.5 s; a pass at 160 px takes 5.1
    assert chosen_as(choice) == Candidate("frozen", 1, 160, 20)
    assert choice.said[1] == "size 160 px instead of 224: at 224 px it would take 12 s or more"
    assert choice.said[-1].startswith("frozen with 1 view at 160 px takes about 6.6 s: ")


def test_sizes_that_cannot_fit_are_not_measured() -> None:
    machine = Machine()
    choice = choose_within(3, machine, PHOTOS)
    assert choice.size == 96
    assert [c.size for c in machine.asked] == [224, 224, 96]


def test_scratch_gives_up_half_of_the_epochs_before_the_size_and_more_at_the_end() -> None:
    seconds = {budget: choose_within(budget, Machine(), SCRATCH) for budget in (400, 300, 60, 30)}
    assert chosen_as(seconds[400]) == Candidate("scratch", 0, 224, 10)
    assert chosen_as(seconds[300]) == Candidate("scratch", 0, 160, 16)
    assert chosen_as(seconds[60]) == Candidate("scratch", 0, 96, 8)
    assert chosen_as(seconds[30]) == Candidate("scratch", 0, 96, 4)
    assert seconds[60].said[1] == "8 epochs instead of 20, which take 2 min"


def test_views_that_were_given_mean_that_features_are_stored() -> None:
    facts = replace(PHOTOS, views=2, views_given=True)
    assert chosen_as(choose_within(36_000, Machine(), facts)) == Candidate("frozen", 2, 224, 20)


def test_a_choice_becomes_a_recipe() -> None:
    trained = Recipe().with_settings({"model.weights": "imagenet"})
    frozen = trained.with_settings(choose_within(20, Machine(), PHOTOS).settings)
    assert (frozen.mode, frozen.transfer.views, frozen.data.size) == ("frozen", 1, 224)
    finetune = trained.with_settings(choose_within(300, Machine(), PHOTOS).settings)
    assert (finetune.mode, finetune.training.epochs) == ("finetune", 7)
    assert finetune.transfer.views == "auto"  # of no meaning there, so not to be given


def test_nothing_fits_is_a_warning_with_the_time_it_takes_and_the_way_out() -> None:
    facts = replace(PHOTOS, mode="finetune", size_given=True)
    choice = choose_within(30, Machine(), facts)
    assert not choice.fits
    assert chosen_as(choice) == Candidate("finetune", 4, 224, 3)
    (warning,) = choice.said
    assert warning.startswith(
        "WARNING: nothing fits well into 30 s. The least there is, finetune at 224 px, takes about "
        "1 min 30 s: 31 s an epoch, 3 epochs after 11 s for features"
    )
    assert warning.endswith("; leave mode and size open, or give more time")
    open_choice = choose_within(0.1, Machine(), PHOTOS)
    assert open_choice.said[0].endswith("; give more time")
    assert chosen_as(open_choice) == Candidate("frozen", 1, 96, 3)


@pytest.mark.parametrize(
    ("estimate", "epochs", "text"),
    [
        (
            ModeEstimate(58, 9.14, 240.8, 903_000_000, 20),
            20,
            "about 4 min: 9.1 s an epoch, 20 epochs after 58 s for features; about 900 MB",
        ),
        (
            ModeEstimate(0, 0.01, 0.01, 1_480, 20),
            1,
            "about less than 0.1 s: less than 0.1 s an epoch, 1 epoch; about 1.5 kB",
        ),
        (
            ModeEstimate(0, 400, 8000, 26 * 10**8, 20),
            20,
            "about 2 h 10 min: 6 min 40 s an epoch, 20 epochs; about 2.6 GB",
        ),
    ],
)
def test_the_sentence_is_no_more_precise_than_an_estimate(
    estimate: ModeEstimate, epochs: int, text: str
) -> None:
    assert estimate_line(estimate, epochs) == text
