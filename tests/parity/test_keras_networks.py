"""Networks filled from Keras' files against Keras: same maps, same probabilities, same inputs.

Every network gets random weights in Keras, norms' statistics too; a file carries them across.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fieldmark.data.preprocess import normalize
from fieldmark.models.contract import as_network
from fieldmark.models.keras_weights import KERAS_PREPROCESS, KerasWeights, read_keras_weights
from fieldmark.models.registry import create_model
from fieldmark.types import Preprocess

if importlib.util.find_spec("keras") is None or importlib.util.find_spec("h5py") is None:
    pytest.skip("keras and h5py are not installed", allow_module_level=True)

from support import keras_2017 as reference

# Keras' torch tensors do not speak numpy 2's newest protocol.
pytestmark = pytest.mark.filterwarnings(f"ignore:{reference.WARNING}:DeprecationWarning")

PREPROCESS = Preprocess(channels=3, **KERAS_PREPROCESS)
NUM_CLASSES = 10


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Any:
    before = torch_settings()
    module = reference.import_keras(tmp_path_factory.mktemp("keras"))
    assert torch_settings() == before, "Keras would change how the other tests compute"
    return module


def torch_settings() -> list[object]:
    return [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
    ]


def network_from(weights: KerasWeights) -> nn.Module:
    with torch.device("meta"):
        model = create_model(weights.network, num_classes=weights.num_classes)
    for name, buffer in model.named_buffers():  # counters, which Keras has none of
        if name.endswith("num_batches_tracked"):
            weights.tensors.setdefault(name, torch.zeros((), dtype=buffer.dtype))
    model.load_state_dict(weights.tensors, strict=True, assign=True)
    return model.eval()


def keras_inputs(keras: Any, count: int, size_px: int) -> Any:
    """(b, h, w, 3) float32, as Keras prepares pictures for these networks."""
    pixels = reference.pictures(count, size_px).astype("float32")
    return np.ascontiguousarray(keras.applications.resnet50.preprocess_input(pixels))


def our_inputs(count: int, size_px: int) -> Tensor:
    """The same pictures, (b, 3, h, w)."""
    pixels = torch.from_numpy(reference.pictures(count, size_px))
    return normalize(pixels.permute(0, 3, 1, 2), PREPROCESS)


@torch.no_grad()
def probabilities(model: nn.Module, images_bchw: Tensor) -> Tensor:
    return model(images_bchw).softmax(1)


def assert_same_probabilities(ours: Tensor, theirs: Tensor) -> None:
    assert 1.5 / NUM_CLASSES < theirs.max() < 0.9, "too even, or too sure, to compare"
    assert (theirs[0] - theirs[-1]).abs().max() > 1e-3, "the network looks at the pictures"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_preprocess_is_keras_own(keras: Any) -> None:
    ours, theirs = our_inputs(4, 32), torch.from_numpy(keras_inputs(keras, 4, 32))
    torch.testing.assert_close(ours, theirs.permute(0, 3, 1, 2), atol=1e-4, rtol=0)
    assert theirs.min() < -100 < 100 < theirs.max()


@pytest.mark.parametrize("whole_model", [False, True], ids=["weights alone", "whole model"])
def test_resnet50_of_2017(keras: Any, tmp_path: Path, whole_model: bool) -> None:
    # 224 px once, for the shapes of the paper; 96 px makes odd maps, on which paddings differ.
    size_px = 96 if whole_model else 224
    theirs = reference.resnet50_2017(keras, NUM_CLASSES, size_px)
    reference.randomize(theirs)
    file = reference.write_h5(
        tmp_path / "resnet50.h5", theirs, form="keras1", whole_model=whole_model
    )
    weights = read_keras_weights(file)
    assert (weights.network, weights.num_classes) == ("resnet50_keras2017", NUM_CLASSES)
    ours = network_from(weights)

    *maps, expected = reference.outputs_of(
        keras, theirs, (*reference.STAGES_2017, "fc1000"), keras_inputs(keras, 2, size_px)
    )
    x = our_inputs(2, size_px)
    sides = []
    with torch.no_grad():
        for (stage, modules), map_bhwc in zip(
            list(as_network(ours).stage_modules().items())[:-1], maps, strict=True
        ):
            x = nn.Sequential(*modules)(x)
            sides.append(x.shape[2])
            scale = map_bhwc.abs().max().item()
            torch.testing.assert_close(
                x, map_bhwc.permute(0, 3, 1, 2), atol=1e-5 * scale, rtol=0, msg=f"{stage} differs"
            )
    if size_px == 224:
        assert sides == [55, 55, 28, 14, 7]
    images = our_inputs(2, size_px)
    assert_same_probabilities(probabilities(ours, images), expected)

    # The comparison would notice today's network, whose weights have the same names and shapes.
    today = create_model("resnet50_keras", num_classes=NUM_CLASSES)
    today.load_state_dict(weights.tensors, strict=True)
    assert (probabilities(today.eval(), images) - expected).abs().max() > 1e-3


def test_resnet50_of_keras_applications(keras: Any, tmp_path: Path) -> None:
    theirs = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=NUM_CLASSES)
    reference.randomize(theirs)
    theirs.save_weights(tmp_path / "resnet50.weights.h5")
    weights = read_keras_weights(tmp_path / "resnet50.weights.h5")
    assert (weights.network, weights.num_classes) == ("resnet50_keras", NUM_CLASSES)
    (expected,) = reference.outputs_of(keras, theirs, ["predictions"], keras_inputs(keras, 3, 64))
    assert_same_probabilities(probabilities(network_from(weights), our_inputs(3, 64)), expected)

    # The other forms of the same weights. Early Keras 3 did not write the layers' names.
    nameless = Path(shutil.copy(tmp_path / "resnet50.weights.h5", tmp_path / "early.weights.h5"))
    reference.remove_names(nameless)
    theirs.save(tmp_path / "whole.h5")
    older = reference.write_h5(tmp_path / "older.h5", theirs, form="keras2")
    for file in (nameless, tmp_path / "whole.h5", older):
        again = read_keras_weights(file)
        assert again.network == "resnet50_keras"
        assert again.tensors.keys() == {key for key in weights.tensors if "num_ba" not in key}
        for key, value in again.tensors.items():
            assert torch.equal(value, weights.tensors[key]), (file.name, key)


def test_vgg16(keras: Any, tmp_path: Path) -> None:
    theirs = keras.applications.VGG16(weights=None, classes=NUM_CLASSES)
    reference.randomize(theirs)
    file = reference.write_h5(tmp_path / "vgg16.h5", theirs, form="keras1")
    weights = read_keras_weights(file)
    assert (weights.network, weights.num_classes) == ("vgg16", NUM_CLASSES)
    file.unlink()  # half a gigabyte
    (expected,) = reference.outputs_of(keras, theirs, ["predictions"], keras_inputs(keras, 2, 224))
    assert_same_probabilities(probabilities(network_from(weights), our_inputs(2, 224)), expected)

    file = tmp_path / "vgg16.weights.h5"
    theirs.save_weights(file)
    again = read_keras_weights(file)
    file.unlink()
    assert again.network == "vgg16"
    assert all(torch.equal(value, weights.tensors[key]) for key, value in again.tensors.items())
    assert again.tensors.keys() == weights.tensors.keys()
