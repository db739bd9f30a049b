"""RandAugment and TrivialAugment: torchvision's operations and strengths, our own draws."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from fieldmark.data.augment import policy
from fieldmark.data.augment.policy import (
    NUM_BINS,
    Op,
    apply_op,
    apply_ops,
    draw_ops,
    randaugment,
    randaugment_space,
    trivialaugment,
    trivialaugment_space,
)
from support.pictures import noise_batch, seeded, smooth_batch

GREY = (0.5,) * 3
SPACES: dict[str, Any] = {
    "RandAugment": (v2.RandAugment, randaugment_space(50, 70)),
    "TrivialAugmentWide": (v2.TrivialAugmentWide, trivialaugment_space()),
}


@pytest.mark.parametrize("name", SPACES)
def test_operations_and_strengths_are_torchvisions(name: str) -> None:
    theirs, ours = SPACES[name]
    assert set(ours) == set(theirs._AUGMENTATION_SPACE)
    for op, (strengths, signed) in theirs._AUGMENTATION_SPACE.items():
        assert ours[op].signed == signed
        expected = strengths(NUM_BINS, 50, 70)
        if expected is not None:
            drawn = [ours[op].at(position) for position in range(NUM_BINS)]
            assert drawn == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-6), op


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_every_operation_is_what_torchvisions_transform_does(name: str, channels: int) -> None:
    """To the level, on Pillow's pictures and on tensors; whatever it is given comes back."""
    transform, space = SPACES[name]
    theirs = transform()._apply_image_or_video_transform
    tensor = noise_batch(1, channels, 50, 70)[0]
    picture = tvf.to_pil_image(tensor)
    for op, strength in space.items():
        for position in (0, 9, 30):
            for sign in (1, -1) if strength.signed else (1,):
                magnitude = sign * strength.at(position)
                for given in (tensor, picture):
                    words = {"interpolation": v2.InterpolationMode.NEAREST, "fill": {}}
                    fill = {type(given): [128] * channels}
                    expected = theirs(given, op, magnitude, **(words | {"fill": fill}))
                    ours = apply_op(given, Op(op, magnitude), [128] * channels)
                    assert type(ours) is type(given)
                    assert torch.equal(as_tensor(ours), as_tensor(expected)), (op, magnitude)


def as_tensor(picture: torch.Tensor | Image.Image) -> torch.Tensor:
    return picture if isinstance(picture, torch.Tensor) else tvf.pil_to_tensor(picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_and_tensors_agree_so_that_a_cpu_and_a_gpu_do(channels: int) -> None:
    """The operations are the same, their rounding is not."""
    images = smooth_batch(2, channels, 48, 64)
    for op, strength in trivialaugment_space().items():
        operation = Op(op, strength.at(12))
        on_tensors = apply_op(images, operation, [128] * channels).int()
        on_pictures = torch.stack(
            [
                tvf.pil_to_tensor(apply_op(tvf.to_pil_image(x), operation, [128] * channels))
                for x in images
            ]
        ).int()
        apart = (on_tensors - on_pictures).abs().float()
        assert apart.mean() < 0.8, op
        assert apart.max() <= 2 or (apart > 2).float().mean() < 0.03, op  # edges of what is moved


def test_each_picture_goes_through_the_operations_it_has_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = noise_batch(9, height=20, width=20)
    rounds = [
        draw_ops(randaugment_space(20, 20), torch.full((9,), 20), seeded(seed)) for seed in (1, 2)
    ]
    expected = []
    for i, image in enumerate(images):
        picture = tvf.to_pil_image(image)
        for ops in rounds:
            picture = apply_op(picture, ops[i], [128] * 3)
        expected.append(tvf.pil_to_tensor(picture))
    before = images.clone()
    assert torch.equal(apply_ops(images, rounds, GREY), torch.stack(expected))
    assert torch.equal(images, before)


def test_tensors_of_one_operation_go_together_and_come_back_in_their_places() -> None:
    """The way of a GPU, taken here on a CPU: grouping must not change what is done."""
    images = smooth_batch(12, 3, 20, 24)
    ops = draw_ops(trivialaugment_space(), torch.full((12,), 10), seeded(4))
    grouped = policy._apply_grouped(images.clone(), [ops, ops[::-1]], [128] * 3)
    for i, image in enumerate(images):
        alone = apply_op(image[None], ops[i], [128] * 3)
        alone = apply_op(alone, ops[11 - i], [128] * 3)
        assert torch.equal(grouped[i], alone[0])


def test_every_operation_is_drawn_equally_often_and_either_sign() -> None:
    space = trivialaugment_space()
    num = 14_000
    ops = draw_ops(space, torch.full((num,), 15), seeded())
    counts = Counter(op.name for op in ops)
    assert set(counts) == set(space)
    for name, strength in space.items():
        assert counts[name] / num == pytest.approx(1 / 14, abs=0.009)  # 4 standard errors
        negative = sum(op.strength < 0 for op in ops if op.name == name)
        if strength.signed:
            assert negative / counts[name] == pytest.approx(0.5, abs=0.065)
        else:
            assert negative == 0


def test_the_strength_is_fixed_for_randaugment_and_any_for_trivialaugment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[list[Op]]] = []

    def spy(images: torch.Tensor, rounds: Any, fill: Any) -> torch.Tensor:
        seen.append([list(ops) for ops in rounds])
        return images

    monkeypatch.setattr(policy, "apply_ops", spy)
    images = noise_batch(600)
    randaugment(images, 3, 6, GREY, seeded())
    trivialaugment(images, GREY, seeded())
    rounds = seen[0]
    assert len(rounds) == 3
    assert rounds[0] != rounds[1] != rounds[2]
    rotations = {abs(op.strength) for ops in rounds for op in ops if op.name == "Rotate"}
    assert rotations == {30 * 6 / 30}
    ((ops,),) = seen[1:]
    rotations = {abs(op.strength) for op in ops if op.name == "Rotate"}
    assert len(rotations) > 15
    assert max(rotations) > 100


def test_what_comes_in_from_outside_is_the_fill() -> None:
    white = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    moved = apply_ops(white, [[Op("TranslateX", 8.0)]], (0.2, 0.4, 0.6))
    assert moved[0, :, 5, 3].tolist() == [51, 102, 153]
    assert moved[0, :, 5, 12].tolist() == [255] * 3


def test_torchs_global_generator_is_neither_asked_nor_moved() -> None:
    images = noise_batch(8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = trivialaugment(images, GREY, seeded(3))
    again = randaugment(images, 2, 9, GREY, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(trivialaugment(images, GREY, seeded(3)), first)
    assert torch.equal(randaugment(images, 2, 9, GREY, seeded(3)), again)
