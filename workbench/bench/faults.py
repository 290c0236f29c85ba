"""What is wrong with a spec, in words: every key that is, with its line and what it takes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pydantic import ValidationError

from workbench.bench.lines import line_of
from workbench.errors import WorkbenchError, invalid

MOST: Final = 10
"""Faults that are told; the others are counted."""

Known = Callable[[Sequence[str | int]], Sequence[str]]
"""The keys of the table at a path, as pydantic names it."""

_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "too_long": "must have at most {max_length} values",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": (
        "must begin with a letter or a digit, and have no more than 80 letters, digits, spaces, "
        "dots, dashes and underscores"
    ),
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
}
"""Pydantic's kinds of errors, for whoever has never heard of it."""


class At(ValueError):
    """Something wrong with the key ``path``, dotted, in the table that is checked.

    Args:
        path: of the key.
        said: what is wrong.
        others: what is wrong besides.
    """

    def __init__(self, path: str, said: str, others: Iterable[At] = ()) -> None:
        super().__init__(said)
        self.path = path.split(".")
        self.others = tuple(others)


def problem(error: ValidationError, known: Known, name: str, text: str) -> WorkbenchError:
    """All that is wrong with a spec as one error, in the order of its lines.

    Args:
        error: what pydantic found.
        known: the keys that a table may have.
        name: of the file.
        text: of the file; empty where the spec was no text.
    """
    found = sorted(
        (one for raw in error.errors() for one in _faults(raw, known, text)),
        key=lambda one: (one.line is None, one.line or 0),
    )
    meant = {(*one.path[:-1], one.meant) for one in found if one.meant}
    found = [
        one
        for one in found
        if one.unknown
        # The key that was meant is not missing, nor is a list empty whose values are wrong.
        or (one.path not in meant and not any(_inside(other.path, one.path) for other in found))
    ]
    first = found[0]
    if len(found) == 1:
        where = f"{name}, line {first.line}" if first.line else name
        message = f"{where}: {first.words}"
    else:
        lines = [f"{one.where}{one.words}" for one in found[:MOST]]
        more = [f"{len(found) - MOST} more."] if len(found) > MOST else []
        message = "\n  ".join((f"{name} has {len(found)} faults:", *lines, *more))
    return invalid(
        message,
        fix="The keys and what they take: workbench bench init.",
        line=first.line,
        key=".".join(map(str, first.path)),
    )


@contextmanager
def keyed(key: str) -> Iterator[None]:
    """Let an error say which key of the spec, dotted, it comes from."""
    try:
        yield
    except WorkbenchError as error:
        error.details.setdefault("key", key)
        raise


@contextmanager
def placed(name: str, text: str) -> Iterator[None]:
    """Let an error that names a key of the spec say where it stands.

    Args:
        name: of the file.
        text: of the file.
    """
    try:
        yield
    except WorkbenchError as error:
        key = str(error.details.get("key", ""))
        path = [int(part) if part.isdigit() else part for part in key.split(".")]
        if key and "line" not in error.details and (line := line_of(text, path)):
            error.details["line"] = line
            error.message = f"{name}, line {line}: {key}: {error.message}"
        raise


class _Fault:
    def __init__(self, path: Sequence[str | int], said: str, text: str, meant: str = "") -> None:
        self.path = tuple(path)
        self.meant = meant
        self.unknown = False
        self.line = line_of(text, self.path)
        keys = ".".join(map(str, path))
        said = f"{keys}: {said}" if keys else said
        self.words = said if said.endswith("?") else f"{said}."

    @property
    def where(self) -> str:
        return f"line {self.line}: " if self.line else ""


def _faults(error: Any, known: Known, text: str) -> list[_Fault]:
    path, kind, context = _path(error["loc"]), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return [_unknown(path, known(error["loc"][:-1]), text)]
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        close = difflib.get_close_matches(context["tag"], tags, 1)
        said = f"{context['tag']!r} is none of {', '.join(tags)}"
        said += f"; did you mean {close[0]}?" if close else ""
        return [_Fault([*path, context["discriminator"].strip("'")], said, text)]
    cause = context.get("error")
    if isinstance(cause, At):
        return [_Fault([*path, *one.path], str(one), text) for one in (cause, *cause.others)]
    said = _WORDS.get(kind, error["msg"].removeprefix("Value error, ")).format(**context)
    given = error["input"]
    if kind not in ("missing", "value_error") and isinstance(given, str | int | float):
        said += f", not {given!r}"
    return [_Fault(path, said, text)]


def _inside(path: Sequence[str | int], table: Sequence[str | int]) -> bool:
    return len(path) > len(table) and tuple(path[: len(table)]) == tuple(table)


def _unknown(path: Sequence[str | int], known: Sequence[str], text: str) -> _Fault:
    close = difflib.get_close_matches(str(path[-1]), known, 1)
    meant = close[0] if close else ""
    more = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
    fault = _Fault(path, f"there is no such key; {more}", text, meant)
    fault.unknown = True
    return fault


def _path(loc: Sequence[str | int]) -> list[str | int]:
    """Without the steps that are no keys of the file."""
    path = list(loc)
    if path[:1] == ["load"] and len(path) > 1:
        del path[1]  # the pattern's name
    if path[:1] == ["models"] and len(path) > 2:
        del path[2]  # whether it is a name or a table
    return path
