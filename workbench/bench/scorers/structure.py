"""Answers that must be JSON: of a schema, with the right values."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from workbench.bench.items import Item
from workbench.bench.scorers import searching
from workbench.bench.scorers.base import Answer, Pure, Score, lacks, verdict
from workbench.bench.scorers.text import folded, shown
from workbench.errors import invalid


def json_schema(time_s: float, *, strict: bool = False) -> Pure:
    """JSON that keeps the item's ``schema`` and has the values of ``expected`` (JSON too).

    The score is the share of expected values that are there; 0 without JSON, or where it breaks
    the schema. Text values are compared without case and marks at the ends.

    Args:
        time_s: the longest search for a schema's ``pattern``; an answer that takes longer has no
            score.
        strict: the whole answer must be JSON; otherwise the first object or array in it is taken.
    """

    def of(item: Item, answer: Answer) -> Score:
        schema = item.meta.get("schema")
        if schema is None and item.expected is None:
            raise lacks(item, "json_schema", "schema or expected")
        try:
            found = json.loads(answer.text) if strict else first_json(answer.text)
        except ValueError:
            return verdict(False, f"no JSON in {shown(answer.text)!r}")
        if schema is not None and (problem := _breaks(found, schema, item, time_s)):
            return verdict(False, problem)
        if item.expected is None:
            return Score(1.0)
        return _compared(found, _expected(item))

    return Pure("json_schema", of)


def first_json(text: str) -> Any:
    """The first object or array of a text that may say other things around it.

    Raises:
        ValueError: there is none.
    """
    decoder = json.JSONDecoder()
    for start in (i for i, c in enumerate(text) if c in "{["):
        try:
            return decoder.raw_decode(text, start)[0]
        except ValueError:
            continue
        except RecursionError:
            break
    raise ValueError("no JSON")


def _expected(item: Item) -> Any:
    try:
        return json.loads(item.expected or "")
    except ValueError:
        raise lacks(item, "json_schema", "JSON as expected") from None


def _compared(found: Any, wanted: Any) -> Score:
    values = list(_leaves(wanted))
    there = dict(_leaves(found))
    wrong = [path for path, value in values if path not in there or not _same(there[path], value)]
    share = 1 - len(wrong) / len(values) if values else float(found == wanted)
    reason = f"wrong or missing: {', '.join(path or 'all' for path in wrong)}"
    return Score(share, {"reason": reason} if wrong else {})


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        for i, part in enumerate(value):
            yield from _leaves(part, f"{path}[{i}]")
    else:
        yield path, value


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return folded(found) == folded(wanted)
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    return bool(found == wanted)


_IMPORTING: Final = threading.Lock()
"""Answers are scored in several threads, and jsonschema's modules import each other: of threads
that import them at once one can meet a module half made."""


def _breaks(value: Any, schema: Any, item: Item, time_s: float) -> str | None:
    with _IMPORTING:
        from jsonschema.exceptions import SchemaError, best_match

    try:
        error = best_match(_validator(json.dumps(schema), time_s).iter_errors(value))
    except SchemaError as problem:
        raise invalid(
            f"The schema of item {item.id!r} is no JSON schema: {problem.message}.",
            fix="Correct it; draft 2020-12 is taken unless it names another.",
        ) from None
    return None if error is None else f"{error.json_path}: {shown(error.message)}"


@lru_cache(maxsize=256)
def _validator(schema: str, time_s: float) -> Any:
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import Draft202012Validator, extend, validator_for

    def pattern(_: Any, sought: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not searching.found(sought, value, time_s, "the schema"):
            yield ValidationError(f"{value!r} does not match {sought!r}")

    parsed = json.loads(schema)
    kind = validator_for(parsed, default=Draft202012Validator)
    kind.check_schema(parsed)
    if '"patternProperties":' in schema:
        raise invalid(
            "A schema has patternProperties, whose search through an answer has no time limit.",
            fix="Name the properties, or use propertyNames with a pattern.",
        )
    return extend(kind, {"pattern": pattern})(parsed)
