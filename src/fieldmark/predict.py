"""A saved model put to work on new pictures."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, overload

from torch import nn

from fieldmark.checkpoint import ModelInfo, load_model
from fieldmark.data.loader import EvalLoader
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.form import Form
from fieldmark.data.sources.listing import NOT_UTF8, find_files_below, is_text, shown
from fieldmark.errors import PictureError, SourceError
from fieldmark.evaluation.metrics import softmax
from fieldmark.inference import run_inference
from fieldmark.progress import Progress, Silent
from fieldmark.rundir import find_model
from fieldmark.runtime import Runtime, open_runtime, translate_out_of_memory
from fieldmark.types import LeftOut, Prediction, Sample

CHUNK: Final = 256  # pictures decoded at a time: bounds memory, however many there are
_NOTHING: Final = "no picture is found there"


@dataclass(frozen=True)
class Predictor:
    """A trained network with its preprocess and class names. Make one with `load`."""

    model: nn.Module
    info: ModelInfo
    runtime: Runtime

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the network's outputs."""
        return self.info.class_names

    @overload
    def predict(self, pictures: str | Path) -> Prediction: ...
    @overload
    def predict(self, pictures: list[str] | list[Path]) -> list[Prediction]: ...
    def predict(
        self, pictures: str | Path | list[str] | list[Path]
    ) -> Prediction | list[Prediction]:
        """Classify one picture file, or several.

        Returns:
            For several pictures one prediction each, in order; one that could not be read has
            its `error` set and does not stop the others.

        Raises:
            PictureError: a single picture was given and cannot be read.
            SourceError: what was given is no path.
        """
        if not isinstance(pictures, str | Path):
            return list(self.predict_each(pictures))
        prediction = next(self.predict_each([pictures]))
        if prediction.error is not None:
            raise PictureError(
                f"cannot classify this picture: {prediction.error}",
                given=pictures,
                fix="check the path and the file",
            )
        return prediction

    def predict_each(
        self,
        pictures: Iterable[str | Path | LeftOut],
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> Iterator[Prediction]:
        """Classify any number of pictures; predictions come in order, a chunk at a time.

        What was left out when the pictures were looked for (see `find_pictures`) gets its row too.

        Raises:
            SourceError: something is no path.
        """
        items = _check_items(pictures)
        with (progress or Silent()).task("classifying", total=len(items)) as task:
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                yield from self._predict_chunk(chunk, batch_size)
                task.advance(len(chunk))

    def _predict_chunk(
        self, items: Sequence[str | LeftOut], batch_size: int
    ) -> Iterator[Prediction]:
        paths = [item for item in items if isinstance(item, str)]
        done = self._predict_paths(paths, batch_size)
        for item in items:
            if isinstance(item, LeftOut):
                yield Prediction(item.path, error=item.reason)
            else:
                yield done[item]

    def _predict_paths(self, paths: Sequence[str], batch_size: int) -> dict[str, Prediction]:
        store = build_store(
            [Sample(path, label="") for path in paths],
            Form("exact", self.info.preprocess),
            strict=False,
            title="decoding",
            progress=Silent(),
        )
        done = {item.path: Prediction(item.path, error=item.reason) for item in store.left_out}
        unknown = [-1] * len(store)
        loader = EvalLoader(
            store, unknown, self.info.preprocess, self.runtime, batch_size=batch_size
        )
        with translate_out_of_memory(batch_size, self.info.preprocess.size):
            outputs = run_inference(self.model, loader, self.runtime)
        if not len(store):
            return done
        probabilities_nk = softmax(outputs.logits_nk.numpy())
        for sample, probabilities_k in zip(store.samples, probabilities_nk, strict=True):
            done[sample.path] = Prediction(
                sample.path, self.class_names, tuple(map(float, probabilities_k))
            )
        return done


def load(run: str | Path, device: str = "auto") -> Predictor:
    """Load a model from a run directory, the name of a run, or a model.safetensors.

    It computes in float32 on every device, as the figures of its run were computed.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
    """
    model, info = load_model(find_model(run))
    runtime = open_runtime(device, "float32")
    return Predictor(runtime.place_network(model), info, runtime)


def _check_items(pictures: object) -> list[str | LeftOut]:
    alone = isinstance(pictures, str | bytes | os.PathLike) or not isinstance(pictures, Iterable)
    items: list[str | LeftOut] = []
    for item in [pictures] if alone else pictures:  # type: ignore[attr-defined]
        if not isinstance(item, str | os.PathLike | LeftOut):
            raise SourceError(
                "a picture is named by the path of its file, and this is no path",
                given=f"{type(item).__module__}.{type(item).__qualname__}",
                valid="a path (text or pathlib.Path), or a list of paths",
                fix="save the picture to a file first, as PNG if nothing may be lost",
            )
        items.append(item if isinstance(item, LeftOut) else os.fsdecode(item))
    return items


def find_pictures(words: Sequence[str]) -> list[str | LeftOut]:
    """The picture files that `words` mean: files, folders (searched below), glob patterns.

    A file named outright is taken whatever it is, so that its error is shown beside it. Each file
    comes once, in the order of the words. A word that means nothing, and a file whose name could
    not be printed, are there as left out, with the reason.

    Raises:
        SourceError: no word means anything.
    """
    found: dict[str | LeftOut, None] = {}
    for word in words:
        matches = list(chain.from_iterable(map(_files_of, _paths_of(word))))
        found.update(dict.fromkeys(matches or [LeftOut(shown(word), _NOTHING)]))
    if found and all(isinstance(item, LeftOut) and item.reason == _NOTHING for item in found):
        raise SourceError(
            _NOTHING,
            given=", ".join(map(repr, words)),
            valid="picture files, folders with pictures, patterns such as 'new/*.jpg'",
            fix="check the path; quote patterns so that the shell leaves them alone",
        )
    return list(found)


# os.path, not pathlib: that one raises for a name longer than any file system admits.


def _paths_of(word: str) -> list[str]:
    if os.path.exists(word) or not glob.has_magic(word):  # noqa: PTH110
        return [word]  # a missing file stays in the list: it gets its own error row
    return sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - absolute ones too


def _files_of(path: str) -> list[str | LeftOut]:
    """A folder stands for what is in it, one that a pattern met too."""
    files = find_files_below(Path(path)) if os.path.isdir(path) else [path]  # noqa: PTH112
    return [
        LeftOut(shown(file), NOT_UTF8) if isinstance(file, str) and not is_text(file) else file
        for file in files
    ]
