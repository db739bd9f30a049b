"""What ends a training before its last epoch, and what is kept then."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fieldmark.errors import RecipeError, TrainingError
from fieldmark.training.history import EpochRow


def test_early_stopping_waits_for_patience_epochs_and_says_so(
    run_fit: Any, make_network: Any
) -> None:
    model = make_network()

    def freeze_the_answer(row: EpochRow) -> None:
        if row.epoch == 2:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()

    result, _, _ = run_fit(
        network=model,
        then=freeze_the_answer,
        training__epochs=50,
        training__patience=3,
        optimizer__lr=1e-9,
    )
    assert len(result.history) == result.best.epoch + 3
    assert result.stopped == "no better validation in 3 epochs"


def test_patience_zero_never_stops(run_fit: Any, make_network: Any) -> None:
    still = make_network(norm=False)  # a norm's averages move without any learning rate
    result, _, _ = run_fit(network=still, training__epochs=6, optimizer__lr=0.0)
    assert len(result.history) == 6
    assert result.best.epoch == 1  # nothing was ever better


def test_norms_that_train_refuse_a_batch_of_one(run_fit: Any, make_network: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        run_fit(training__batch_size=1)
    assert "batch norm cannot learn from one picture at a time" in str(caught.value)
    assert "batch_size 1" in str(caught.value)
    assert "raise --batch-size" in str(caught.value)
    without_norms = make_network(norm=False)
    assert run_fit(network=without_norms, training__batch_size=1)[0].best is not None


def test_a_wrong_stage_names_the_right_ones(run_fit: Any) -> None:
    with pytest.raises(RecipeError, match=r"(?s)given:  'layer3'.*valid:  stem, body"):
        run_fit(mode="partial", training__freeze_through="layer3")


def test_a_learning_rate_far_too_high_stops_with_step_rate_and_advice(
    run_fit: Any, make_network: Any, kept: Any
) -> None:
    with pytest.raises(TrainingError) as caught:
        run_fit(
            network=make_network(norm=False), kept=kept, optimizer__lr=1000, training__epochs=50
        )
    message = str(caught.value)
    assert "became nan" in message or "became inf" in message
    assert "learning rate 1e+03 at that step" in message
    assert "lower --lr to a tenth" in message
    for weights in kept.weights:  # whatever was handed over to be saved was sound
        assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_step_that_broke_is_the_step_that_is_named(
    run_fit: Any, make_network: Any, kept: Any, value: float
) -> None:
    """The 8th step is the second of the third epoch: two epochs are kept by then."""
    model, calls = make_network(), []

    def break_the_8th(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor | None:
        calls.append(1) if module.training else None
        return out * value if module.training and len(calls) == 8 else None

    model.register_forward_hook(break_the_8th)
    with pytest.raises(
        TrainingError, match=r"at step 8; the model of epoch [12] is kept"
    ) as caught:
        run_fit(network=model, kept=kept, schedule__name="step", schedule__step_epochs=1)
    assert f"learning rate {0.05 * 0.92**2:.3g} at that step" in str(caught.value)
    assert len(calls) == 8  # not a step more
    assert len(kept.rows) == 2


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(
    run_fit: Any, make_network: Any, kept: Any
) -> None:
    """Every training loss is finite, but the validation is not: that epoch is never 'best'."""
    model, epochs = make_network(), []

    def break_second_validation(module: nn.Module, args: Any, out: torch.Tensor) -> Any:
        return None if module.training or len(epochs) != 1 else out * math.nan

    model.register_forward_hook(break_second_validation)
    with pytest.raises(TrainingError, match=r"validation loss became nan at step 6; the model of"):
        run_fit(network=model, kept=kept, then=lambda row: epochs.append(row.epoch))
    assert [row.epoch for row in kept.rows] == [1]
