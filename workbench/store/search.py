"""Sessions by their columns and by the words of question and answer, page by page.

Words are looked for by reading, from the newest session back, as much as a time allows: what was
not reached yet is the next page's. There is no index. DuckDB's full-text index is built of a table
as it stands and would be built anew for a log that grows with every answer, knows no parts of words
and no language but those it has a stemmer for; and reading a million questions and answers takes
seconds (``benchmarks/store_scale.py``), the newest of them none.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.store.records import FILTERS, number, plain

if TYPE_CHECKING:
    from workbench.store.store import Store

MAX_WORDS: Final = 12
"""Words and phrases that may be looked for at once."""

_FIRST: Final = 20_000
"""Sessions of the first window."""
_LARGEST: Final = 500_000
_QUICK_S: Final = 0.3
"""A window that took less is followed by one of twice its size."""
_SHOWN: Final = 300
"""Characters of a question that come with its row."""

_PIECE: Final = re.compile(r'"([^"]+)"|(\S+)')
_ID: Final = re.compile(r"(ses|con|cor|cmp|run)_\w{4,60}")
_ID_COLUMNS: Final = {
    "ses": "session_id",
    "con": "conversation_id",
    "cor": "correlation_id",
    "cmp": "comparison_id",
    "run": "run_id",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions. ``filters`` are values by column (:data:`FILTERS`); empty ones are any.

    ``words`` must all occur in question or answer, in any case; ``"two words"`` in quotes belong
    together. An id (``ses_``, ``con_``, ``cor_``, ``cmp_``, ``run_``) is looked up as one.
    """

    filters: Mapping[str, str | None] = field(default_factory=dict)
    words: str = ""
    since: dt.datetime | None = None
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A page, the newest first; ``next`` is the cursor of the one after it (None: no more).

    ``sessions`` counts all that match, None where words are looked for. ``reached`` is the time
    down to which was read when the time was over before the page was full; None: it was full, or
    everything was read.
    """

    rows: list[dict[str, Any]]
    next: str | None
    sessions: int | None
    reached: dt.datetime | None = None


def search(
    store: Store, wanted: Wanted, *, limit: int = 50, cursor: str | None = None, within_s: float
) -> Found:
    """A page of sessions, each with the figures of ``latencies`` and the start of its ``prompt``.

    Args:
        store: the log.
        wanted: which.
        limit: rows of the page.
        cursor: ``next`` of the page before.
        within_s: how long words are looked for; the page then says how far it came.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; as ``Store.query``.
    """
    ids, words = _pieces(wanted.words)
    where, params = _condition(wanted, ids)
    place = number(cursor) if cursor else None
    if not words:
        seqs, more = _newest(store, where, params, place, limit)
        count = store.rows(f"SELECT count(*) AS n FROM stream_sessions WHERE {where}", params)  # noqa: S608
        next_place = str(seqs[-1]) if more else None
        return Found(_rows(store, seqs), next_place, count[0]["n"])
    seqs, next_seq, reached = _reading(store, where, params, words, place, limit, within_s)
    return Found(_rows(store, seqs), next_seq, None, reached)


def _pieces(text: str) -> tuple[dict[str, str], list[str]]:
    """The ids, by column, and the words, in lower case."""
    ids: dict[str, str] = {}
    words: list[str] = []
    for phrase, word in _PIECE.findall(text):
        if word and (match := _ID.fullmatch(word)):
            ids[_ID_COLUMNS[match[1]]] = word
        else:
            words.append((phrase or word).lower())
    if len(words) > MAX_WORDS:
        raise invalid(
            f"{len(words)} words are looked for; at most {MAX_WORDS} can be.",
            fix='Put those that belong together into quotes: "one phrase".',
        )
    return ids, words


def _condition(wanted: Wanted, ids: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """SQL over ``stream_sessions`` and its values; the names are ours, never from outside."""
    if unknown := wanted.filters.keys() - set(FILTERS):
        raise invalid(
            f"Sessions have no filter {min(unknown)!r}.", fix=f"Use {', '.join(FILTERS)}."
        )
    values = {name: value for name, value in wanted.filters.items() if value} | dict(ids)
    clauses = ["true", *(f"{name} = ${name}" for name in values)]
    params: dict[str, Any] = dict(values)
    for name, moment, comparison in (("since", wanted.since, ">="), ("until", wanted.until, "<")):
        if moment is not None:
            params[name] = moment
            clauses.append(f"created_at {comparison} ${name}")
    return " AND ".join(clauses), params


def _newest(
    store: Store, where: str, params: Mapping[str, Any], place: int | None, limit: int
) -> tuple[list[int], bool]:
    below = "" if place is None else f"AND seq < {place}"
    found = store.rows(
        f"SELECT seq FROM stream_sessions WHERE {where} {below} "  # noqa: S608
        f"ORDER BY seq DESC LIMIT {limit + 1}",
        params,
    )
    return [row["seq"] for row in found[:limit]], len(found) > limit


def _reading(
    store: Store,
    where: str,
    params: Mapping[str, Any],
    words: Sequence[str],
    place: int | None,
    limit: int,
    within_s: float,
) -> tuple[list[int], str | None, dt.datetime | None]:
    """Sessions that hold the words, window by window from the newest on."""
    low, high = _ends(store, where, params)
    place = high + 1 if place is None else min(place, high + 1)
    size, found, reached = _FIRST, list[int](), None
    deadline = time.monotonic() + within_s
    while place > low and len(found) <= limit:
        began = time.monotonic()
        if began >= deadline:
            return found, str(place), reached
        start = max(place - size, low)
        try:
            seqs, reached = _window(
                store, where, params, words, start, place, limit + 1, deadline - began
            )
        except WorkbenchError as error:
            if error.code is not ErrorCode.TIMEOUT:
                raise
            if size > _FIRST // 8:  # a smaller one is tried when the search goes on
                return found, str(place), reached
            raise
        found += seqs
        place = start
        if time.monotonic() - began < _QUICK_S:
            size = min(2 * size, _LARGEST)
    if len(found) > limit:
        return found[:limit], str(found[limit - 1]), None
    return found, None, None


def _ends(store: Store, where: str, params: Mapping[str, Any]) -> tuple[int, int]:
    (row,) = store.rows(
        f"SELECT coalesce(min(seq), 1) AS low, coalesce(max(seq), 0) AS high "  # noqa: S608
        f"FROM stream_sessions WHERE {where}",
        params,
    )
    return row["low"], row["high"]


def _window(
    store: Store,
    where: str,
    params: Mapping[str, Any],
    words: Sequence[str],
    start: int,
    end: int,
    limit: int,
    within_s: float,
) -> tuple[list[int], dt.datetime | None]:
    """Those of one window, and the time of its oldest session.

    Messages carry the time of their session, and are stored in its order: by that time only the
    part of the table that belongs to the window is read.
    """
    chosen = f"FROM stream_sessions WHERE {where} AND seq >= {start} AND seq < {end}"
    (ends,) = store.rows(
        f"SELECT min(created_at) AS oldest, max(created_at) AS newest {chosen}",
        params,
    )
    if ends["oldest"] is None:
        return [], None
    holds = [f"contains(lower(content), $word{n})" for n in range(len(words))]
    rows = store.rows(
        f"""
        WITH holding AS (
            SELECT session_id, {", ".join(f"{one} AS w{n}" for n, one in enumerate(holds))}
            FROM messages
            WHERE created_at BETWEEN $oldest AND $newest AND session_id IS NOT NULL
                AND ({" OR ".join(holds)})
        ), every AS (
            SELECT session_id FROM holding GROUP BY session_id
            HAVING {" AND ".join(f"bool_or(w{n})" for n in range(len(words)))}
        )
        SELECT seq {chosen} AND session_id IN (FROM every) ORDER BY seq DESC LIMIT {limit}
        """,  # noqa: S608
        {**params, **ends, **{f"word{n}": word for n, word in enumerate(words)}},
        timeout_s=within_s,
    )
    return [row["seq"] for row in rows], ends["oldest"]


def _rows(store: Store, seqs: Sequence[int]) -> list[dict[str, Any]]:
    """Those sessions; their places are known, so that little of the log is computed."""
    if not seqs:
        return []
    rows = store.rows(
        "FROM latencies WHERE seq BETWEEN $low AND $high AND list_contains($seqs, seq) "
        "ORDER BY seq DESC",
        {"low": seqs[-1], "high": seqs[0], "seqs": list(seqs)},
    )
    if not rows:  # deleted meanwhile
        return []
    # Messages are stored in the order of time: by values that stand in the query, unlike those of a
    # join, DuckDB reads only the parts of the table that can hold them.
    times = ", ".join(f"TIMESTAMPTZ '{row['created_at'].isoformat()}'" for row in rows)
    asked = store.rows(
        f"SELECT session_id, left(prompt, {_SHOWN}) AS prompt FROM session_prompts "  # noqa: S608
        f"WHERE created_at IN ({times}) AND list_contains($ids, session_id)",
        {"ids": [row["session_id"] for row in rows]},
    )
    prompts = {row["session_id"]: row["prompt"] for row in asked}
    return [plain({**row, "prompt": prompts.get(row["session_id"])}) for row in rows]


def facets(store: Store) -> dict[str, list[str]]:
    """The values that occur, by column: what there is to filter by."""
    columns = ("model", "provider", "status", "timing_mode", "source")
    lists = ", ".join(f"list(DISTINCT {name} ORDER BY {name}) AS {name}" for name in columns)
    (row,) = store.rows(f"SELECT {lists} FROM stream_sessions")  # noqa: S608
    return {name: list(row[name] or []) for name in columns}
