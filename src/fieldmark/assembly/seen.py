"""Whether a model is about to be judged on pictures that it was trained or chosen on.

A picture is known by its path, as the run's manifest has it, and by its content, as `contents.csv`
has it: the same photo in a zip, in a copy of the folder or under another name is the same photo.
Looking nearly alike is not enough; `fieldmark check` finds such pictures.
"""

from __future__ import annotations

import csv
import io

from fieldmark.assembly.pictures import samples_of
from fieldmark.data.contents import content_keys
from fieldmark.data.manifest import Manifest
from fieldmark.data.sources.candidates import file_key
from fieldmark.errors import CheckpointError
from fieldmark.evaluation.tables import csv_text
from fieldmark.files import write_text
from fieldmark.progress import Progress
from fieldmark.rundir import RunDirectory

_HEADER = ("split", "sha256")


def write_contents(run: RunDirectory, manifest: Manifest, progress: Progress) -> None:
    """`contents.csv`: part and sha256 of the content of each picture, in the manifest's order.

    Raises:
        OutputError: it cannot be written.
    """
    keys = content_keys([sample.path for sample in manifest.samples], progress)
    rows = [(s.part, key or "") for s, key in zip(manifest.samples, keys, strict=True)]
    write_text(run.contents, csv_text([_HEADER, *rows]))


def say_shared_pictures(manifest: Manifest, run: RunDirectory, progress: Progress) -> None:
    """Warn when a model is about to be judged on pictures it was trained or chosen on.

    Runs of earlier versions have no `contents.csv`; of them the paths alone are compared.

    Raises:
        CheckpointError: manifest or contents are not as the run wrote them.
    """
    if not run.manifest.is_file():
        progress.say(
            "No manifest stands beside this model, so it is not known which pictures trained it; "
            "if these are among them, the figures below are too good."
        )
        return
    used = samples_of(run)
    paths = {file_key(sample.path) for sample in used if sample.part in ("train", "val")}
    contents = _contents_seen(run)
    keys: list[str | None] = [None] * len(manifest.samples)
    if contents:
        keys = content_keys([sample.path for sample in manifest.samples], progress)
    else:
        progress.say(
            "This run does not say what was in its pictures: copies of them, or the same ones in "
            "another place, would not be noticed."
        )
    by_path = [file_key(sample.path) in paths for sample in manifest.samples]
    by_content = [key in contents for key in keys]
    shared = sum(map(max, by_path, by_content))
    if not shared:
        return
    copies = shared - sum(by_path)
    progress.say(
        f"WARNING: {shared} of these {len(manifest.samples)} pictures were used to train or "
        "choose this model"
        + (f" ({copies} as the same file in another place)" if copies else "")
        + "; the figures below are too good. For honest ones leave SOURCE out."
    )


def _contents_seen(run: RunDirectory) -> set[str]:
    """The contents that a run was trained or chosen on; empty where it does not say."""
    if not run.contents.is_file():
        return set()
    try:
        text = run.contents.read_text(encoding="utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if tuple(header) != _HEADER:
            raise ValueError("another header")
        return {key for part, key in rows if part in ("train", "val") and key}
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(
            "what the run says of its pictures' contents cannot be read",
            given=f"{run.contents}: {error}",
            valid="the columns split,sha256, as the run wrote them",
            fix="get that file anew, or move it away: pictures are then compared by path alone",
        ) from error
