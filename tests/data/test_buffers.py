"""Memory for batches: never that of a batch somebody still holds, and no more than is needed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.data.buffers import Buffers

SIZE = 4
NUM_BYTES = 5 * 3 * SIZE * SIZE * 4


def one(buffers: Buffers, num: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return buffers.empty(num, 3, SIZE, dtype)


def test_shape_type_and_layout() -> None:
    batch = one(Buffers(NUM_BYTES, 2), 3, torch.uint8)
    assert batch.shape == (3, 3, SIZE, SIZE)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    buffers = Buffers(NUM_BYTES, 2)
    batch = one(buffers)
    place = batch.data_ptr()
    view = batch[1:, :2].flip(0).add_(1)  # new memory: does not hold it
    part = batch[2]
    del batch
    assert one(buffers).data_ptr() != place  # `part` still lies in it
    del part
    places = {one(buffers).data_ptr(), place}
    assert place in places
    assert view.shape == (4, 2, SIZE, SIZE)


def test_what_numpy_and_gradients_hold_is_held() -> None:
    buffers = Buffers(NUM_BYTES, 2)
    batch = one(buffers).fill_(2.0)
    weight = torch.ones(1, requires_grad=True)
    loss = (batch * weight).sum()
    array = batch[0].numpy()
    del batch
    one(buffers).fill_(7.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.item() == 2.0 * 5 * 3 * SIZE * SIZE
    assert (array == 2.0).all()


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 3))
def test_no_two_batches_that_are_held_share_memory(keep: list[int], num_kept: int) -> None:
    buffers = Buffers(NUM_BYTES, num_kept)
    held: list[torch.Tensor] = []
    for i, k in enumerate(keep):
        held.append(one(buffers).fill_(i))
        if k < len(held) and k % 2:
            del held[k]
        assert all((batch == batch.flatten()[0]).all() for batch in held)
        assert len({batch.data_ptr() for batch in held}) == len(held)


def test_readers_in_several_threads() -> None:
    buffers = Buffers(NUM_BYTES, 3)
    barrier = threading.Barrier(4)

    def work(number: int) -> bool:
        barrier.wait(timeout=30)
        good = True
        for i in range(200):
            batch = one(buffers).fill_(number * 1000 + i)
            good &= bool((batch.numpy() == np.float32(number * 1000 + i)).all())
        return good

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
