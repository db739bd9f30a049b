"""Read from disk, forty times as many pictures take the same memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RUN = """
import json, re, sys
from pathlib import Path
from fieldmark.data.contents import contents_of
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Form
from fieldmark.progress import Silent
from fieldmark.types import Preprocess, Sample

folder, keep = sys.argv[1:]
samples = [Sample(str(path), "a") for path in sorted(Path(folder).iterdir())]
store = build_store(
    samples,
    Form("exact", Preprocess(224, 3, (0.0,) * 3, (1.0,) * 3)),
    keep=keep,
    cache=PixelCache(),
    contents=contents_of([sample.path for sample in samples], Silent()),
    strict=True,
    title="",
    progress=Silent(),
)
for start in range(0, len(store), 32):
    store.stack(range(start, min(start + 32, len(store))))
status = Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024
print(json.dumps([len(store), peak]))
"""


def peak_bytes(folder: Path, keep: str, cache: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), keep],
        env=os.environ | {"FIELDMARK_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    num, peak = json.loads(done.stdout)
    assert num == len(list(folder.iterdir()))
    return int(peak)


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux tells a process's own peak, and not its parent's",
)
def test_the_peak_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    rng = np.random.default_rng(0)
    for folder, num in ((few, 40), (many, 1600)):
        folder.mkdir()
        for number in range(num):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    more_pixels = 1560 * 224 * 224 * 3
    grown = peak_bytes(many, "disk", tmp_path / "1") - peak_bytes(few, "disk", tmp_path / "2")
    assert grown < 0.15 * more_pixels
    # So that the figure above could have come out otherwise:
    held = peak_bytes(many, "ram", tmp_path / "1") - peak_bytes(few, "ram", tmp_path / "2")
    assert held > 0.6 * more_pixels
