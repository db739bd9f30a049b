"""The hand-written networks against torchvision's: same keys, same logits, same gradients."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from fieldmark.models.registry import create_model, list_models
from support.references import random_state

# Every other one must be torchvision's too, weight by weight.
OURS_ALONE = {"alexnet_half", "resnet10"}
KERAS = {"resnet50_keras2017", "resnet50_keras"}
TWINS = [
    card.name
    for card in list_models()
    if card.name not in OURS_ALONE | KERAS and card.family != "C3ResNet"
]


@pytest.mark.parametrize("name", TWINS)
def test_state_dicts_load_both_ways_and_logits_agree(name: str) -> None:
    # Built without memory and given one set of weights: drawing 140 million twice takes seconds.
    with torch.device("meta"):
        ours = create_model(name)
        theirs = getattr(torchvision.models, name)(weights=None)
    state = random_state(theirs)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())

    images = torch.randn(2, 3, 75, 64, generator=torch.Generator().manual_seed(1))
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        logits, expected = ours(images), theirs(images)
    assert expected.std() > 0.01  # the comparison is about something
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)

    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("size_px", [64, 224])
def test_resnet18_trains_like_torchvisions(size_px: int) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None, num_classes=5)
    ours = create_model("resnet18", num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(4, 3, size_px, size_px)
    y_true = torch.tensor([0, 3, 1, 4])
    losses = []
    for model in (ours, theirs):
        model.train()
        loss = nn.functional.cross_entropy(model(images), y_true)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1])
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, msg=name)
    for key, value in ours.state_dict().items():  # the norms' running figures too
        torch.testing.assert_close(value, theirs.state_dict()[key], msg=key)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "alexnet"])
def test_weights_start_with_torchvisions_spread(name: str) -> None:
    torch.manual_seed(0)
    ours = create_model(name, num_classes=10).state_dict()
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=10).state_dict()
    for key, value in theirs.items():
        if value.numel() > 10_000:
            assert ours[key].std().item() == pytest.approx(value.std().item(), rel=0.05), key
            assert ours[key].abs().max() / ours[key].std() == pytest.approx(
                (value.abs().max() / value.std()).item(), rel=0.35
            ), key
