"""Where decoded pictures are to be during a run, decided before the work by the room there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil
import torch

from fieldmark.allocator import give_memory_back
from fieldmark.data.pixels.build import Keep
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.errors import RecipeError
from fieldmark.progress import size

# Leave the rest of the free memory to the network, its activations and other programs.
MEMORY_SHARE: Final = 0.5
GPU_SHARE: Final = 0.3

_CGROUP: Final = Path("/sys/fs/cgroup")

CacheWord = Literal["auto", "ram", "gpu", "disk", "none"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the pictures will be.

    Attributes:
        keep: during the run.
        cache: where decoded pictures are kept between runs; None keeps none.
        reason: a sentence for the user, with sizes.
    """

    keep: Keep
    cache: PixelCache | None
    reason: str


def plan_pixels(
    word: CacheWord,
    num_bytes: int,
    device: torch.device,
    cache: PixelCache | None = None,
    *,
    is_decoded: bool = False,
) -> Plan:
    """Settle `data.cache`.

    Args:
        num_bytes: what all pictures of the run take, by an estimate.
        cache: None takes the user's.
        is_decoded: the source holds pixels, as IDX files do: keeping them again would take longer
            than making them.

    Raises:
        RecipeError: there is no room where the word wants the pictures to be.
    """
    cache = cache or PixelCache()
    about = f"decoded pictures take about {size(num_bytes)}"
    if word == "none":
        return Plan("none", None, f"{about}; they are decoded again whenever they are needed")
    has_room = cache.has_room(num_bytes)
    keep = _auto(num_bytes, device, has_room) if word == "auto" else word
    _check(keep, num_bytes, device, cache, has_room=has_room)
    if keep == "none":
        reason = (
            f"{about}: too much for this machine's memory ({size(free_memory())} free) and for "
            f"the cache ({size(cache.limit)}, `fieldmark cache --limit` raises it); they are "
            "decoded again in every epoch"
        )
        return Plan("none", None, reason)
    where = {"ram": "in memory", "gpu": "on the GPU", "disk": "read from disk"}[keep]
    if is_decoded and keep != "disk":
        return Plan(keep, None, f"{about}: {where}")
    if not has_room:
        why = f"no room for them in the cache, {cache.root} (limit {size(cache.limit)})"
        return Plan(keep, None, f"{about}: {where}; not kept for the next run: {why}")
    return Plan(keep, cache, f"{about}: {where}, and kept for the next run in {cache.root}")


def check_device(word: CacheWord, device: torch.device) -> None:
    """Raise RecipeError where the device cannot keep pictures."""
    if word == "gpu" and device.type != "cuda":
        raise RecipeError(
            "pictures can be kept on a CUDA GPU only",
            given=f"data.cache = gpu, device {device}",
            valid="auto, ram, disk or none on this device",
            fix="drop --cache gpu, or train with --device cuda",
        )


def _auto(num_bytes: int, device: torch.device, has_room: bool) -> Keep:
    if device.type == "cuda" and num_bytes <= GPU_SHARE * _free_on_gpu(device):
        return "gpu"
    if num_bytes <= MEMORY_SHARE * free_memory():
        return "ram"
    return "disk" if has_room else "none"


def _check(
    keep: Keep, num_bytes: int, device: torch.device, cache: PixelCache, *, has_room: bool
) -> None:
    """Raise RecipeError where what was asked for cannot be."""
    check_device(keep, device)
    needed = f"data.cache = {keep}; decoded, the pictures take about {size(num_bytes)}"
    if keep == "gpu" and num_bytes > _free_on_gpu(device):
        raise RecipeError(
            "there is not enough memory on the GPU for the pictures",
            given=needed,
            valid=f"at most {size(_free_on_gpu(device))}, and the network needs its part",
            fix="take --cache auto, or a smaller --size",
        )
    if keep == "ram" and num_bytes > free_memory():
        raise RecipeError(
            "there is not enough memory for the pictures",
            given=needed,
            valid=f"at most {size(free_memory())}, which is free now",
            fix="take --cache auto or disk, or a smaller --size",
        )
    if keep == "disk" and not has_room:
        raise RecipeError(
            "there is no room on disk for the pictures",
            given=f"{needed}; the cache is {cache.root}",
            valid=f"at most {size(cache.limit)} (its limit), as far as the disk has room",
            fix="raise the limit (`fieldmark cache --limit 50GB`), name another disk in "
            "FIELDMARK_CACHE, or take --cache none",
        )


def free_memory() -> int:
    """Bytes that are free, within what a container or batch system allows."""
    give_memory_back()  # else what this process keeps, and does not need, counts as taken
    available: int = psutil.virtual_memory().available
    try:  # Linux' control groups, version 2; psutil knows the whole machine only
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used))


def _free_on_gpu(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])
