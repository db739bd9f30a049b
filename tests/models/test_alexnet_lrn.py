"""Local response normalisation against the paper's formula, written out with loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fieldmark
from fieldmark.checkpoint import load_model
from fieldmark.models.alexnet import relu_and_norm
from fieldmark.models.registry import create_model
from fieldmark.progress import Silent


def paper_lrn(a_bchw: np.ndarray) -> np.ndarray:
    """Krizhevsky et al. 2012, 3.3: b_i = a_i / (k + alpha sum_j a_j^2)^beta.

    The sum runs over the n channels around i that exist: from max(0, i - n/2) to
    min(N - 1, i + n/2), with k = 2, n = 5, alpha = 1e-4, beta = 0.75.
    """
    k, n, alpha, beta = 2.0, 5, 1e-4, 0.75
    num_channels = a_bchw.shape[1]
    b_bchw = np.empty_like(a_bchw)
    for i in range(num_channels):
        first, last = max(0, i - n // 2), min(num_channels - 1, i + n // 2)
        squares = sum(a_bchw[:, j] ** 2 for j in range(first, last + 1))
        b_bchw[:, i] = a_bchw[:, i] / (k + alpha * squares) ** beta
    return b_bchw


@pytest.mark.parametrize("num_channels", [1, 3, 48])
@pytest.mark.parametrize("scale", [1.0, 300.0])  # 300: where the sum outweighs k
def test_it_is_the_papers_formula(num_channels: int, scale: float) -> None:
    rng = np.random.default_rng(0)
    x_bchw = scale * rng.standard_normal((2, num_channels, 4, 3))
    expected = paper_lrn(np.maximum(x_bchw, 0))
    # In double precision, so that a slip in a constant cannot hide; the ReLU writes in place.
    ours = relu_and_norm(True)(torch.from_numpy(x_bchw.copy()))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_half"])
def test_it_follows_the_first_two_convolutions_before_their_pooling(name: str) -> None:
    """Paper, 3.5: after the first and second convolutional layers, max-pooling after that."""
    with torch.device("meta"):
        model = create_model(name, lrn=True)
    order = [
        type(module).__name__ for module in model.features.modules() if not list(module.children())
    ]
    block = ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert order == [*block, *block, *["Conv2d", "ReLU"] * 3, "MaxPool2d"]


@pytest.mark.parametrize("name", ["alexnet", "alexnet_half"])
def test_it_has_no_weights_and_is_left_out_unless_asked_for(name: str) -> None:
    with torch.device("meta"):
        bare, normed = create_model(name), create_model(name, lrn=True)
    assert not any(isinstance(module, nn.LocalResponseNorm) for module in bare.modules())
    assert bare.architecture["options"]["lrn"] is False
    shapes = {key: value.shape for key, value in bare.state_dict().items()}
    assert {key: value.shape for key, value in normed.state_dict().items()} == shapes
    assert list(normed.state_dict()) == list(bare.state_dict())


def test_it_reaches_the_logits() -> None:
    torch.manual_seed(0)
    bare = create_model("alexnet_half", num_classes=2).eval()
    with torch.device("meta"):
        normed = create_model("alexnet_half", num_classes=2, lrn=True).eval()
    normed.load_state_dict(bare.state_dict(), assign=True)
    images = torch.randn(2, 3, 63, 63)
    x = images
    with torch.no_grad():
        # The same network with the formula put in after the first two ReLUs.
        for index, layer in enumerate(bare.features):
            x = layer(x)
            if index in (1, 4):
                x = torch.from_numpy(paper_lrn(x.double().numpy())).float()
        logits = normed(images)
        torch.testing.assert_close(logits, bare.forward_head(x))
        assert (logits - bare(images)).abs().max() > 1e-3


def test_the_command_line_takes_it(verb: Callable[..., Any]) -> None:
    done = verb("summary", "alexnet", "--set", "model.options.lrn=true")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if "LocalResponseNorm" in line]
    assert [fields[1:3] for fields in rows] == [
        ["LocalResponseNorm", "64x55x55"],
        ["LocalResponseNorm", "192x27x27"],
    ]
    assert "61,100,840" in done.out
    assert "LocalResponseNorm" not in verb("summary", "alexnet").out


def test_a_training_keeps_it_in_its_model_file(
    tmp_path: Path, make_pictures: Callable[..., Path], no_drawing: None
) -> None:
    pictures = make_pictures(tmp_path / "photos", {"cat": 4, "dog": 4}, size=64)
    words: dict[str, Any] = {"model": "alexnet_half", "size": 64, "epochs": 1, "device": "cpu"}
    settings = {"model.options.lrn": True}
    out = tmp_path / "run"
    run = fieldmark.train(pictures, out=out, progress=Silent(), settings=settings, **words)
    model, info = load_model(run.path / "model.safetensors")
    assert info.architecture["options"]["lrn"] is True
    assert sum(isinstance(module, nn.LocalResponseNorm) for module in model.modules()) == 2
    (run.path / "model.safetensors").unlink()  # 58 MB; pytest keeps the folders of three runs
