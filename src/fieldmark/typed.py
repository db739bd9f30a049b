"""Plain values, as TOML has them, into typed dataclasses: every key known, every value of its kind.

A dataclass may hold others as sections. Kinds are read off the type hints; ranges are the
dataclasses' own business.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fieldmark.errors import RecipeError, closest


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """An instance of the dataclass `cls`; what `values` does not name keeps its default.

    Raises:
        RecipeError: unknown key (with a suggestion), or a value of the wrong kind.
    """
    return _build(cls, values, where="", root=cls)


def _build(cls: type, values: Mapping[str, Any], where: str, root: type) -> Any:
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in hints:
            raise _unknown_key(name, key, list(hints), root)
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, Mapping):
                raise RecipeError(
                    f"{name} is a section, not a value",
                    given=value,
                    valid=[f"{name}.{f.name}" for f in dataclasses.fields(hint)],
                    fix="set one of its fields",
                )
            arguments[key] = _build(hint, value, where=f"{name}.", root=root)
        else:
            arguments[key] = _convert(value, hint, name)
    return cls(**arguments)


def _unknown_key(name: str, key: str, valid: Sequence[str], root: type) -> RecipeError:
    """Another section's word is sent home; a misspelt one gets the nearest here, else anywhere."""
    homes: dict[str, list[str]] = {}
    for section, hint in get_type_hints(root).items():
        homes.setdefault(section, []).append(section)
        for f in dataclasses.fields(hint) if dataclasses.is_dataclass(hint) else ():
            homes.setdefault(f.name, []).append(f"{section}.{f.name}")
    suggestion = None
    if key in homes:
        suggestion = " or ".join(homes[key])
    elif near := closest(key, valid):
        suggestion = name.removesuffix(key) + near
    elif elsewhere := closest(key, homes):
        suggestion = " or ".join(homes[elsewhere])
    fix = f"did you mean {suggestion}?" if suggestion else "take one of the valid words"
    return RecipeError(f"unknown setting: {name}", valid=valid, fix=fix)


def _convert(value: Any, hint: Any, name: str) -> Any:
    """`value` as `hint` wants it (lists become tuples, whole numbers become floats)."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        origin, arguments = get_origin(option), get_args(option)
        if origin is Literal:
            if any(value == word and type(value) is type(word) for word in arguments):
                return value
        elif origin is tuple:
            wanted = arguments[0]
            right_length = arguments[-1] is Ellipsis or len(arguments) == _length(value)
            if isinstance(value, (list, tuple)) and right_length:
                return tuple(_convert(item, wanted, name) for item in value)
        elif origin is dict:
            if isinstance(value, dict):
                return value
        elif option is float:
            if isinstance(value, float) or (type(value) is int and abs(value) < 2**63):
                return float(value)
        elif type(value) is option:
            return value
    words = [word for option in options for word in _describe(option)]
    near = closest(value, words) if isinstance(value, str) else None
    raise RecipeError(
        f"{name} must be {_either(words)}",
        given=repr(value),
        fix=f"did you mean {near}?" if near else f"give {name} such a value",
    )


def _either(words: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple)) else -1


def _describe(option: Any) -> list[str]:
    origin, arguments = get_origin(option), get_args(option)
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if origin is Literal:
        return [str(word) for word in arguments]
    if origin is tuple:
        many = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return [f"a list of {many}{'texts' if arguments[0] is str else 'numbers'}"]
    return ["a table"] if origin is dict else [plain[option]]
