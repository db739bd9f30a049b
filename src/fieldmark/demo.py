"""`fieldmark demo`: the main job on real data, nothing to download, about a minute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fieldmark.api import Run, train
from fieldmark.data.manifest import read_manifest
from fieldmark.data.pictures import open_picture
from fieldmark.files import atomic_path
from fieldmark.progress import Progress
from fieldmark.rundir import RunDirectory
from fieldmark.types import Prediction

SETTINGS: Final[dict[str, Any]] = {
    "model.name": "resnet10",
    "training.epochs": 12,
    "training.batch_size": 64,
}
QUICK_EPOCHS: Final = 4


@dataclass(frozen=True)
class Demo:
    """What the demo shows: a training, and one test picture classified by the file it left."""

    run: Run
    picture: Path
    label: str
    prediction: Prediction


def run_demo(progress: Progress, *, quick: bool = False, out: Path | None = None) -> Demo:
    """Train on 1,797 handwritten digits and classify one that was held back.

    Args:
        quick: fewer epochs, for a look at whether the installation works.
        out: the run directory; None takes a free `runs/digits-resnet10-N`.
    """
    progress.say("Training a small ResNet on 1,797 real handwritten digits: about a minute.")
    epochs = {"training.epochs": QUICK_EPOCHS} if quick else {}
    run = train("digits", settings={**SETTINGS, **epochs}, out=out, progress=progress)
    directory = RunDirectory(run.path)
    sample = read_manifest(directory.manifest).of_part("test")[0]
    picture = run.path / "test_picture.png"
    with atomic_path(picture) as temporary:
        open_picture(sample.path, channels=1).save(temporary, format="PNG")
    return Demo(run, picture, sample.label, run.load().predict(picture))
