"""Typed frames: the same columns with the same dtypes, whether there are rows or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import pandas as pd

Dtype = Literal["string", "Int64", "float64", "boolean", "datetime64[us, UTC]"]


class Column(NamedTuple):
    """What a column holds; its unit is in its name."""

    dtype: Dtype
    meaning: str


Columns = Mapping[str, Column]


class Read(Protocol):
    """Runs one statement that only reads: ``wb.sql``, or ``engine.store.query``."""

    def __call__(self, sql: str, params: Mapping[str, Any] | None = None, /) -> pd.DataFrame:
        """The rows."""
        ...


def text(meaning: str) -> Column:
    """A column of text."""
    return Column("string", meaning)


def whole(meaning: str) -> Column:
    """A column of whole numbers, null where unknown."""
    return Column("Int64", meaning)


def real(meaning: str) -> Column:
    """A column of numbers, NaN where unknown."""
    return Column("float64", meaning)


def flag(meaning: str) -> Column:
    """A column of true and false."""
    return Column("boolean", meaning)


def when(meaning: str) -> Column:
    """A column of times, UTC."""
    return Column("datetime64[us, UTC]", meaning)


def typed(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """The frame with exactly these columns, in this order, of these dtypes."""
    import pandas as pd

    made = {name: _cast(frame, name, column.dtype) for name, column in columns.items()}
    return pd.DataFrame(made, columns=list(columns))


def _cast(frame: pd.DataFrame, name: str, dtype: Dtype) -> pd.Series[Any]:
    import pandas as pd

    values = frame[name].reset_index(drop=True) if name in frame else pd.Series([], dtype=object)
    if dtype == "float64":
        return pd.to_numeric(values, errors="coerce").astype("Float64").astype("float64")
    if dtype == "datetime64[us, UTC]":
        return pd.to_datetime(values, utc=True).astype(dtype)
    if dtype == "Int64":
        return pd.to_numeric(values, errors="coerce").astype("Float64").round().astype(dtype)
    return values.astype(dtype)


GROUP: Final[Columns] = {
    "model": text("model id"),
    "dtype": text("number format of the weights"),
    "quantization": text("how the weights were made smaller"),
}
"""What every summary by model begins with."""


# Two look-ups, each by one equality: those that DuckDB answers without reading the whole column.
CHOSEN: Final = """
SELECT session_id FROM stream_sessions WHERE session_id = $id
UNION
SELECT session_id FROM stream_sessions WHERE comparison_id = coalesce(
    (SELECT comparison_id FROM stream_sessions WHERE session_id = $id), $id)
"""
"""SQL: the sessions of a comparison, named by its id or by that of one of its sessions."""


def condition(contended: bool, alias: str = "") -> str:
    """SQL: answers of the model itself that ended well, and alone unless ``contended``."""
    own = f"{alias}status = 'ok' AND {alias}fallback_from IS NULL"
    return own if contended else f"{own} AND NOT {alias}contended"


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows, with the columns as attributes."""
    return iter(frame.itertuples(index=False))
