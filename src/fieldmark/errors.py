"""What Fieldmark says when something is wrong.

Every message has the same four parts: the problem, what was given, what is valid, and what to do
next. Users see the text alone; a traceback of one of these classes reaching a user is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FieldmarkError(ValueError):
    """Base of everything a user can put right.

    Args:
        problem: what is wrong, one sentence.
        given: what was given, shown as is; None leaves the line out.
        valid: what would have been accepted: a sentence, or the words to choose from.
        fix: what to do next.
    """

    def __init__(
        self,
        problem: str,
        *,
        given: object = None,
        valid: str | Sequence[object] | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        lines = [problem]
        if given is not None:
            lines.append(f"  given:  {given}")
        if valid is not None:
            words = valid if isinstance(valid, str) else ", ".join(map(str, valid))
            lines.append(f"  valid:  {words}")
        if fix is not None:
            lines.append(f"  do:     {fix}")
        super().__init__("\n".join(lines))


class SourceError(FieldmarkError):
    """The pictures, or the table that names them, cannot be used as they are."""


class PictureError(FieldmarkError):
    """One picture cannot be used. `problem` is the reason, short enough for a table."""


class RecipeError(FieldmarkError):
    """A word or a value in a recipe is not valid."""


class ModelError(FieldmarkError):
    """No such network, or the network does not admit what was asked of it."""


class CheckpointError(FieldmarkError):
    """A model file is missing, damaged, or not one of Fieldmark's."""


class DownloadError(FieldmarkError):
    """A file from the web is not to be had, or is not the one that was meant."""


class OutputError(FieldmarkError):
    """A result cannot be written where it should go."""


class TrainingError(FieldmarkError):
    """The network cannot go on: the loss is no longer finite, or the memory is full."""


def closest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word most like `word`, or None when nothing comes near."""
    by_lower = {name.lower(): name for name in valid}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def check_choice(
    what: str,
    given: object,
    valid: Sequence[object],
    also: Sequence[object] = (),
    *,
    error: type[FieldmarkError] = RecipeError,
) -> None:
    """Raise `error` unless `given` is one of `valid`; suggests the nearest of these and `also`."""
    if any(given == choice and type(given) is type(choice) for choice in valid):
        return
    near = closest(str(given), [str(choice) for choice in (*valid, *also)])
    fix = f"did you mean {near!r}?" if near else "take one of the valid words"
    raise error(f"unknown {what}", given=repr(given), valid=valid, fix=fix)
