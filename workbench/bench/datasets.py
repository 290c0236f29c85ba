"""Datasets: JSONL, CSV or Parquet, one item a line or row, and those that come with the workbench.

Known columns are ``id``, ``cluster``, ``prompt`` or ``messages``, ``system``, ``expected`` and
``choices``; all others go to the item's ``meta`` (``scorer``, ``schema``, ``rules``, ``tests``,
``tolerance``...). In CSV the columns of :data:`JSON_COLUMNS` hold JSON.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from workbench.bench.items import Item
from workbench.errors import WorkbenchError, invalid
from workbench.folders import shipped
from workbench.types import Message

if TYPE_CHECKING:
    from workbench.settings import Settings

BUILTIN: Final = "builtin:"
_FOLDER: Final = "data/datasets"
FORMATS: Final = (".jsonl", ".csv", ".parquet")
KNOWN: Final = ("id", "cluster", "prompt", "messages", "system", "expected", "choices")
JSON_COLUMNS: Final = ("messages", "choices", "schema", "rules", "meta", "scorer")
_ENCODING: Final = "utf-8-sig"  # spreadsheets write a mark at the beginning


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items with the name and the hash of the file they come from.

    ``digest`` is ``sha256:...`` of the bytes: runs over other bytes must not be compared.
    """

    name: str
    items: tuple[Item, ...]
    digest: str

    @property
    def clusters(self) -> int:
        """How many independent groups of items there are."""
        return len({item.family for item in self.items})


class _Row(NamedTuple):
    """Where a record stands, for messages, and what it says."""

    place: str
    values: Mapping[str, Any]


def builtin() -> tuple[str, ...]:
    """Names of the datasets that come with the workbench, ``builtin:reasoning`` and so on."""
    return tuple(f"{BUILTIN}{path.stem}" for path in sorted(shipped(_FOLDER).glob("*.jsonl")))


def load(name: str, settings: Settings, *, folder: Path | None = None) -> Dataset:
    """Read a dataset whole and check every item.

    Args:
        name: a path, or ``builtin:`` and a name.
        settings: bounds: bytes, items, bytes of a prompt.
        folder: what relative paths start from, as that of a spec; default the working directory.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; the message names file, line and column, and the fix.
    """
    path = _path(name, folder)
    if path.suffix.lower() not in FORMATS:
        raise invalid(
            f"{path} is no dataset: it does not end in {', '.join(FORMATS)}.",
            fix="Convert it; JSONL has one JSON object a line.",
        )
    try:
        size = path.stat().st_size
        if size > settings.workbench_dataset_max_size:
            raise invalid(
                f"{path} has {size:,} bytes, more than {settings.workbench_dataset_max_size:,}.",
                fix="Take a part of it, or raise WORKBENCH_DATASET_MAX_SIZE.",
            )
        content = path.read_bytes()
    except OSError as error:
        raise invalid(
            f"The dataset {path} cannot be read: {error.strerror}.",
            fix=f"Check the path; the datasets of the workbench are {', '.join(builtin())}.",
        ) from None
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    for row in _rows(path, content):
        if len(items) >= settings.workbench_dataset_max_items:
            raise invalid(
                f"{path} has more than {settings.workbench_dataset_max_items:,} items.",
                fix="Take a part of it, or raise WORKBENCH_DATASET_MAX_ITEMS.",
            )
        item = _item(row, len(items) + 1, settings.workbench_max_prompt_bytes)
        if item.id in items:
            raise invalid(
                f"{row.place}: the id {item.id!r} is taken by {places[item.id]}.",
                fix="Give every item an id of its own, or leave the column out.",
            )
        items[item.id], places[item.id] = item, row.place
    if not items:
        raise invalid(f"{path} has no items.", fix="Write one item a line.")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Dataset(name if name.startswith(BUILTIN) else path.stem, tuple(items.values()), digest)


def _path(name: str, folder: Path | None) -> Path:
    if not name.startswith(BUILTIN):
        return (folder or Path.cwd()) / Path(name).expanduser()
    if name not in builtin():
        raise invalid(f"There is no dataset {name!r}.", fix=f"There are {', '.join(builtin())}.")
    return shipped(_FOLDER) / f"{name.removeprefix(BUILTIN)}.jsonl"


# -- formats -----------------------------------------------------------------------------------


def _rows(path: Path, content: bytes) -> Iterator[_Row]:
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        text = content.decode(_ENCODING)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise invalid(f"{path}, line {line}: not UTF-8.", fix="Save it as UTF-8.") from None
    return _csv(path, text) if path.suffix.lower() == ".csv" else _jsonl(path, text)


def _jsonl(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise invalid(
                f"{place}{column}: no JSON: {said}.", fix="Write one JSON object a line."
            ) from None
        if not isinstance(values, dict):
            raise invalid(f"{place}: not a JSON object.", fix="Write one JSON object a line.")
        yield _Row(place, values)


def _csv(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or ()
    if repeated := {name for name in names if names.count(name) > 1}:
        raise invalid(
            f"{path}, line 1: two columns are called {sorted(repeated)[0]!r}.",
            fix="Give every column a name of its own.",
        )
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise invalid(
                f"{path}, line {number}: {error}.", fix="Check its quotes and separators."
            ) from None
        if cells is None:
            return
        place = f"{path}, line {number}"
        if None in cells or None in cells.values():
            raise invalid(
                f"{place}: not as many cells as the first line has names ({len(names)}).",
                fix="Quote cells that hold commas or line ends.",
            )
        yield _Row(place, {n: _cell(place, n, v) for n, v in cells.items() if v != ""})


def _cell(place: str, name: str, value: str) -> Any:
    if name not in JSON_COLUMNS or (name == "scorer" and not value.lstrip().startswith("{")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise invalid(
            f"{place}, column {name!r}: no JSON: {error}.",
            fix=f"Columns {', '.join(JSON_COLUMNS)} hold JSON in a CSV file.",
        ) from None


def _parquet(path: Path) -> Iterator[_Row]:
    import duckdb

    with duckdb.connect() as connection:
        try:
            found = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
            names = [column[0] for column in found.description or ()]
            number = 0
            while batch := found.fetchmany(1_000):
                for cells in batch:
                    number += 1
                    place = f"{path}, row {number}"
                    pairs = zip(names, cells, strict=True)
                    values = {n: _stored(place, n, v) for n, v in pairs if v is not None}
                    yield _Row(place, values)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise invalid(
                f"{path} cannot be read as Parquet: {reason}", fix="Write it again."
            ) from None


def _stored(place: str, name: str, value: Any) -> Any:
    """Parquet has lists and structs of its own; text in a column for JSON is JSON."""
    return _cell(place, name, value) if isinstance(value, str) else value


# -- items -------------------------------------------------------------------------------------


def _item(row: _Row, position: int, max_prompt_bytes: int) -> Item:
    values = row.values
    rest = {name: value for name, value in values.items() if name not in KNOWN}
    more = rest.pop("meta", {})
    if not isinstance(more, Mapping):
        raise _bad(row, "meta", "must be an object")
    messages = _messages(row)
    size = sum(len(message.content.encode(errors="replace")) for message in messages)
    if size > max_prompt_bytes:
        raise invalid(
            f"{row.place}: the prompt has {size:,} bytes, more than {max_prompt_bytes:,}.",
            fix="Shorten it, or raise WORKBENCH_MAX_PROMPT_BYTES.",
        )
    return Item(
        id=_text(row, "id") or str(position),
        messages=messages,
        cluster=_text(row, "cluster"),
        expected=_expected(values.get("expected")),
        choices=_choices(row),
        meta={**rest, **more},
    )


def _messages(row: _Row) -> tuple[Message, ...]:
    given, prompt = row.values.get("messages"), row.values.get("prompt")
    if (given is None) == (prompt is None):
        raise _bad(row, "prompt", "give either a prompt or messages")
    system = _text(row, "system")
    before = (Message("system", system),) if system else ()
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise _bad(row, "prompt", "must be text that is not empty")
        return (*before, Message("user", prompt))
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise _bad(row, "messages", "must be a list of objects with role and content")
    try:
        return (*before, *(Message(one["role"], one["content"]) for one in given))
    except (TypeError, KeyError):
        raise _bad(row, "messages", "each must be an object with role and content") from None
    except WorkbenchError as error:
        raise _bad(row, "messages", error.message) from None


def _choices(row: _Row) -> tuple[str, ...]:
    given = row.values.get("choices", ())
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise _bad(row, "choices", "must be a list of texts")
    if not all(isinstance(choice, str) and choice for choice in given):
        raise _bad(row, "choices", "must be a list of texts that are not empty")
    if len(set(given)) < len(given):
        raise _bad(row, "choices", "names one twice")
    return tuple(given)


def _expected(value: Any) -> str | None:
    """Text as it is; numbers, lists and objects as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _text(row: _Row, name: str) -> str | None:
    value = row.values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _bad(row, name, "must be text")
    return str(value)


def _bad(row: _Row, column: str, what: str) -> WorkbenchError:
    return invalid(f"{row.place}, column {column!r}: {what}.", fix="Correct this item.")
