"""Where and how precisely tensors are computed. Other modules get a `Runtime` passed in."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fieldmark.allocator import keep_freed_memory
from fieldmark.errors import RecipeError, TrainingError


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process on one device.

    Attributes:
        device: where the network lives.
        half: the 16-bit type of mixed precision; None computes in float32 throughout.
    """

    device: torch.device
    half: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision around a forward pass; nothing in float32."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.half)

    @property
    def scales_gradients(self) -> bool:
        """float16 gradients underflow unless the loss is scaled (Micikevicius et al. 2018)."""
        return self.half is torch.float16

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device; the copy overlaps with computation on CUDA."""
        if self.device.type == "cuda" and not tensor.is_cuda:  # else it lies on a GPU, unpinned
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    @property
    def memory_format(self) -> torch.memory_format:
        """How networks and pictures lie in memory: channels last where that is sound and quick.

        oneDNN and cuDNN compute in that layout: on a CPU a training step of the networks here
        takes 0.8 to 1.1 of the time, most often 0.86 (benchmarks/memory_format_2core-cpu_*.md).
        Not on Apple's GPUs, where batch norm's gradients are wrong in it in some versions of
        torch (github.com/pytorch/pytorch/issues/175189).
        """
        if self.device.type in ("cpu", "cuda"):
            return torch.channels_last
        return torch.contiguous_format

    def place_network(self, model: torch.nn.Module) -> torch.nn.Module:
        """`model` on the device, its convolutions in `memory_format`."""
        # torch's stubs know no keyword form of this.
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]


def open_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Choose the device (cuda, then mps, then cpu) and the precision (16 bits on CUDA only).

    Raises:
        RecipeError: no such device on this machine, or a precision it has not.
    """
    chosen = _choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    if precision == "auto":
        # Mixed precision pays on CUDA alone; elsewhere it is slower or less well tested.
        if chosen.type != "cuda":
            return Runtime(chosen)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Runtime(chosen, torch.bfloat16 if bf16 else torch.float16)
    if precision == "float16" and chosen.type == "cpu":
        raise RecipeError(
            "float16 does not train on a CPU",
            given="precision = float16, device = cpu",
            valid=["auto", "float32", "bfloat16"],
            fix="drop the precision, or choose bfloat16",
        )
    halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return Runtime(chosen, halves.get(precision))


def _choose_device(name: str) -> torch.device:
    present = ["cpu"]
    present += ["mps"] if torch.backends.mps.is_available() else []
    present += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":
        best = "cuda:0" if "cuda:0" in present else present[-1]
        return torch.device(best)
    if name == "cuda" and "cuda:0" in present:
        return torch.device("cuda:0")
    if name not in present:
        raise RecipeError(
            "this machine has no such device",
            given=name,
            valid=["auto", *present],
            fix="drop --device to have one chosen",
        )
    return torch.device(name)


# How torch says that memory is full where it raises no OutOfMemoryError: on CPUs, on Apple's GPUs,
# and where CUDA's own libraries ask for it.
_MEMORY_IS_FULL = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


@contextmanager
def translate_out_of_memory(batch_size: int, size_px: int) -> Iterator[None]:
    """Around whatever computes with a network: full memory is said with the way out.

    Raises:
        TrainingError: there was not enough memory, on the device or beside it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        by_type = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not by_type and not any(words in str(error) for words in _MEMORY_IS_FULL):
            raise
        raise TrainingError(
            "there is not enough memory for batches of this size",
            given=f"batch_size {batch_size}, pictures of {size_px} x {size_px} px",
            fix="lower --batch-size; a training may also take a smaller --size or network",
        ) from error


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def describe_machine(runtime: Runtime) -> dict[str, str | int]:
    """What the figures were measured on, for the record."""
    if runtime.device.type == "cuda":
        device = torch.cuda.get_device_name(runtime.device)
    else:
        device = f"{runtime.device.type} ({platform.processor() or platform.machine()})"
    return {
        "device": device,
        "precision": str(runtime.half or torch.float32).removeprefix("torch."),
        "cpu_cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
