"""Where pictures are kept: by the room there is, or as the user says, each with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fieldmark.data.pixels import cache as cache_module
from fieldmark.data.pixels import plan as plan_module
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.plan import GPU_SHARE, MEMORY_SHARE, Plan, plan_pixels
from fieldmark.data.sources.scan import scan
from fieldmark.errors import RecipeError
from fieldmark.progress import Silent
from fieldmark.types import Preprocess

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
MB = 10**6


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`machine(ram=.., gpu=.., disk=.., limit=..)`: what is free, in bytes; gives the cache."""

    def make(*, ram: float, gpu: float = 0, disk: float = 0, limit: int = 10**12) -> PixelCache:
        class Disk:
            free, total = disk, 0

        monkeypatch.setattr(plan_module, "free_memory", lambda: int(ram))
        monkeypatch.setattr(plan_module, "_free_on_gpu", lambda device: int(gpu))
        cache = PixelCache(tmp_path / "pixels")
        cache.set_limit(limit)
        monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: Disk)
        return cache

    return make


def test_auto_takes_the_nearest_place_with_room(machine: Any) -> None:
    def keep(device: torch.device = CPU, **free: float) -> tuple[str, bool]:
        cache = machine(**free)
        plan = plan_pixels("auto", 100 * MB, device, cache)
        return plan.keep, plan.cache is cache

    much = 10**12
    assert keep(ram=100 * MB / MEMORY_SHARE, disk=much) == ("ram", True)
    assert keep(ram=100 * MB / MEMORY_SHARE - 2, disk=much) == ("disk", True)
    assert keep(ram=much, disk=100 * MB - 1) == ("ram", False)
    assert keep(ram=much, disk=much, limit=100 * MB - 1) == ("ram", False)
    assert keep(ram=0, disk=100 * MB - 1) == ("none", False)
    assert keep(CUDA, ram=much, gpu=100 * MB / GPU_SHARE + 1, disk=much) == ("gpu", True)
    assert keep(CUDA, ram=much, gpu=100 * MB / GPU_SHARE - 2, disk=much) == ("ram", True)
    assert keep(CPU, ram=much, gpu=much, disk=0) == ("ram", False)


def test_what_is_decoded_already_is_not_kept_again(machine: Any) -> None:
    cache = machine(ram=10**12, disk=10**12)
    plan = plan_pixels("auto", 100 * MB, CPU, cache, is_decoded=True)
    assert plan == Plan("ram", None, "decoded pictures take about 100.0 MB: in memory")
    assert plan_pixels("disk", 100 * MB, CPU, cache, is_decoded=True).cache is cache


def test_the_reason_names_sizes_and_places(machine: Any) -> None:
    cache = machine(ram=10**12, disk=10**12)
    plan = plan_pixels("auto", 150 * MB, CPU, cache)
    assert plan.reason == (
        f"decoded pictures take about 150.0 MB: in memory, and kept for the next run in "
        f"{cache.root}"
    )
    cache = machine(ram=0, disk=10**12, limit=MB)
    reason = plan_pixels("auto", 150 * MB, CPU, cache).reason
    assert "150.0 MB" in reason
    assert "1.0 MB, `fieldmark cache --limit` raises it" in reason
    assert "decoded again in every epoch" in reason
    assert plan_pixels("none", 150 * MB, CPU, cache) == Plan(
        "none",
        None,
        "decoded pictures take about 150.0 MB; they are decoded again whenever they are needed",
    )


@pytest.mark.parametrize(
    ("word", "device", "free", "says"),
    [
        ("gpu", CPU, {"ram": 1e12}, "can be kept on a CUDA GPU only"),
        ("gpu", CUDA, {"ram": 1e12, "gpu": MB}, "not enough memory on the GPU"),
        ("ram", CPU, {"ram": MB, "disk": 1e12}, "not enough memory for the pictures"),
        ("disk", CPU, {"ram": 1e12, "disk": MB}, "no room on disk"),
        ("disk", CPU, {"ram": 1e12, "disk": 1e12, "limit": MB}, "cache --limit"),
    ],
)
def test_what_cannot_be_is_refused(
    machine: Any, word: Any, device: torch.device, free: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        plan_pixels(word, 100 * MB, device, machine(**free))


@pytest.mark.parametrize("kind", ["exact", "crops", "canvas"])
@pytest.mark.parametrize("size", [64, 224])
def test_real_photos_take_what_was_estimated(shared_data: Path, kind: Any, size: int) -> None:
    samples = scan(shared_data / "hymenoptera").samples[::8]
    form = Form(kind, Preprocess(size, 3, (0.0,) * 3, (1.0,) * 3))
    store = build_store(samples, form, strict=False, title="", progress=Silent())
    real = sum(pixels.nbytes for pixels in store.get_many(range(len(store))))
    estimated = form.estimate_bytes([sample.path for sample in samples])
    assert estimated == pytest.approx(real, rel=0.03)


def test_names_that_alternate_between_kinds_do_not_fool_the_estimate(tmp_path: Path) -> None:
    """Every n-th of a_thumb.png, a.png, b_thumb.png ... would all be of one kind."""
    paths = []
    for number in range(1500):
        side = (8, 160)[number % 2]
        path = tmp_path / f"{side}.png"
        if not path.exists():
            Image.new("RGB", (side, side)).save(path)
        paths.append(str(path))
    form = Form("crops", Preprocess(112, 3, (0.0,) * 3, (1.0,) * 3))
    assert form.estimate_bytes(paths) == pytest.approx(750 * 3 * (8**2 + 160**2), rel=0.1)


def test_a_container_has_less_memory_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "_CGROUP", tmp_path)
    whole = plan_module.free_memory()
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert plan_module.free_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert plan_module.free_memory() == pytest.approx(whole, rel=0.2)


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    plan = plan_pixels("auto", 1000, CPU, PixelCache(tmp_path / "file" / "pixels"))
    assert plan.cache is None
    assert "not kept for the next run" in plan.reason


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("shape", [(40, 30), (8, 8), (500, 300), (10, 900)])
def test_the_estimate_of_one_picture(tmp_path: Path, resize: Any, shape: tuple[int, int]) -> None:
    path = str(tmp_path / "a.png")
    Image.new("RGB", shape).save(path)
    preprocess = Preprocess(28, 3, (0.0,) * 3, (1.0,) * 3, resize=resize)
    for kind in ("exact", "crops", "canvas"):
        form = Form(kind, preprocess)  # type: ignore[arg-type]
        assert form.estimate_bytes([path]) == pytest.approx(
            form.decode(path).pixels.nbytes, rel=0.05
        )
    assert Form("exact", preprocess).estimate_bytes([]) == 0
