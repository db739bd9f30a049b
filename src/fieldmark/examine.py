"""A network and a part of labelled pictures in; figures out. Draws and writes nothing.

Not called `evaluate`: a module of that name hides the function `fieldmark.evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from fieldmark.data.loader import Batch, EvalLoader
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.prepare import labels_of
from fieldmark.evaluation.metrics import Metrics, evaluate_logits, softmax
from fieldmark.inference import run_inference
from fieldmark.progress import Progress
from fieldmark.runtime import Runtime, translate_out_of_memory
from fieldmark.types import Preprocess, Sample


@dataclass(frozen=True)
class Evaluated:
    """What a network said of a part, picture by picture and in figures.

    Attributes:
        samples: the n pictures that were really seen.
        probabilities_nk: (n, k) float64, rows summing to 1.
        store: where their pixels are; picture i of `samples` is number `indices_n[i]` there.
    """

    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    probabilities_nk: npt.NDArray[np.float64]
    metrics: Metrics
    store: PixelStore
    indices_n: tuple[int, ...]


def evaluate_store(
    model: nn.Module,
    store: PixelStore,
    class_names: tuple[str, ...],
    preprocess: Preprocess,
    runtime: Runtime,
    progress: Progress,
    *,
    batch_size: int,
    title: str,
    batches: Iterable[Batch] | None = None,
) -> Evaluated:
    """Evaluate `model` (on the runtime's device) on every picture of a store.

    Args:
        batches: what the model takes in place of the store's pictures, such as their features.

    Raises:
        TrainingError: there is not enough memory for such batches.
    """
    labels = labels_of(store, class_names)
    if batches is None:
        batches = EvalLoader(store, labels, preprocess, runtime, batch_size=batch_size)
    memory = translate_out_of_memory(batch_size, preprocess.size)
    with memory, progress.task(title, total=len(store)) as task:
        outputs = run_inference(model, batches, runtime, task)
    logits_nk = outputs.logits_nk.numpy()
    indices_n = tuple(outputs.indices_n.tolist())
    return Evaluated(
        class_names=class_names,
        samples=tuple(store.samples[index] for index in indices_n),
        probabilities_nk=softmax(logits_nk),
        metrics=evaluate_logits(logits_nk, outputs.labels_n.numpy(), class_names),
        store=store,
        indices_n=indices_n,
    )
