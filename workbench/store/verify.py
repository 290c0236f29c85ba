"""``workbench db verify``: is the log whole, and does it hold what the spool says it must."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import duckdb

from workbench.errors import WorkbenchError
from workbench.figures import count
from workbench.store import rollup
from workbench.store.blocks import DatabaseFile
from workbench.store.files import spool_of
from workbench.store.repair import reports
from workbench.store.salvage import mark_of, unreadable
from workbench.store.spool import read_spools
from workbench.store.views import VIEWS

_RESTART: Final = (
    "Stop the workbench and start it again: it keeps the damaged file beside and makes a new one "
    "of what can be read and of the spool."
)
_DEFECT: Final = "This is a defect of the workbench; please report it with the message."
_NAMED: Final = 10
"""The most offenders that a message names."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: ``ok``, ``note`` (known, or no harm) or ``bad``."""

    check: str
    status: Literal["ok", "note", "bad"]
    message: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """Plain values: ``ok``, and ``checks``."""
    return {
        "ok": all(check.status != "bad" for check in checks),
        "checks": [check.to_dict() for check in checks],
    }


def unopened(error: WorkbenchError) -> dict[str, Any]:
    """The verdict on a log that cannot even be opened."""
    return verdict([Check("file", "bad", error.message, error.fix)])


def verify(
    path: Path, connection: duckdb.DuckDBPyConnection, file: DatabaseFile, *, is_open: bool
) -> list[Check]:
    """Look at everything. No checkpoint may be made meanwhile.

    Args:
        path: of the log.
        connection: one that reads it.
        file: the same from outside.
        is_open: somebody writes to it, so that the spool may be ahead.
    """
    checks = [*_file(path, connection, file)]
    looks: list[Callable[[], Iterator[Check]]] = [
        lambda: _sequence(path, connection),
        lambda: _spool(path, connection, is_open=is_open),
        lambda: _orphans(connection),
        lambda: _rollup(connection),
        lambda: _views(connection),
    ]
    for look in looks:
        try:
            checks += look()
        except duckdb.Error as error:
            checks.append(Check("tables", "bad", f"They cannot be read: {error}", _RESTART))
    checks += [Check("repair", "note", told.message, told.fix) for told in reports(path)]
    return checks


def _file(path: Path, connection: duckdb.DuckDBPyConnection, file: DatabaseFile) -> Iterator[Check]:
    state = file.read_state(blocks=True)
    broken = unreadable(connection)
    if state.broken:
        yield Check("blocks", "bad", f"Not as written: {', '.join(state.broken)}.", _RESTART)
    else:
        yield Check("blocks", "ok", f"{file.size_bytes / 2**20:.1f} MiB with the right checksums")
    for table in broken:
        yield Check("tables", "bad", f"Cannot be read: {table}.", _RESTART)
    if not broken:
        yield Check("tables", "ok", "every value was read")
    if state.broken or broken:  # a large file is not read at every start
        mark_of(path).parent.mkdir(mode=0o700, exist_ok=True)
        mark_of(path).touch(mode=0o600)


def _sequence(path: Path, connection: duckdb.DuckDBPyConnection) -> Iterator[Check]:
    """``seq`` counts the sessions in the order of their commit, without gaps or repeats."""
    (row,) = connection.execute(
        "SELECT count(*), count(DISTINCT seq), coalesce(min(seq), 1), coalesce(max(seq), 0) "
        "FROM stream_sessions"
    ).fetchall()
    rows, distinct, first, last = row
    if rows != distinct:
        yield Check("sequence", "bad", f"{count(rows - distinct, 'number')} given twice.", _DEFECT)
    missing = last - first + 1 - distinct
    if not missing:
        yield Check("sequence", "ok", f"{count(rows, 'session')}, {first} to {last} without a gap")
        return
    # Numbers are given in the order of time: a gap is a prune's if what is before it is that old.
    gaps = connection.execute(
        "SELECT seq + 1, next - 1 FROM (SELECT seq, created_at, lead(seq) OVER (ORDER BY seq) "
        "AS next FROM stream_sessions) s WHERE next > seq + 1 AND created_at >= "
        "coalesce((SELECT max(before) FROM prunes), '-infinity') AND next - seq - 1 > "
        "(SELECT count(DISTINCT d.seq) FROM deletions d WHERE d.seq > s.seq AND d.seq < next) "
        "ORDER BY seq LIMIT ?",
        [_NAMED],
    ).fetchall()
    if not gaps:
        words = f"{count(rows, 'session')}; {count(missing, 'number')} pruned or deleted"
        yield Check("sequence", "ok", words)
        return
    words = ", ".join(f"{start} to {end}" if end > start else f"{start}" for start, end in gaps)
    known = connection.execute(
        "SELECT count(*) FROM errors WHERE code = 'STORE_DAMAGED'"
    ).fetchall()[0][0]
    if known:
        yield Check(
            "sequence",
            "note",
            f"{count(missing, 'number')} missing ({words}); a repair of this log is on record.",
            "See: workbench db query \"select * from errors where code = 'STORE_DAMAGED'\".",
        )
    else:
        yield Check(
            "sequence",
            "bad",
            f"{count(missing, 'number')} missing: {words}.",
            "If nobody deleted these sessions, the file was changed by something else.",
        )


def _spool(path: Path, connection: duckdb.DuckDBPyConnection, *, is_open: bool) -> Iterator[Check]:
    """All entries up to the position are in the tables."""
    n = connection.execute("SELECT n FROM log_position").fetchall()[0][0]
    pruned = connection.execute("SELECT max(before) FROM prunes").fetchall()[0][0]
    spooled = read_spools(spool_of(path))
    if spooled.broken:
        lines = "; ".join(spooled.broken[:_NAMED])
        yield Check(
            "spool", "bad", f"{count(len(spooled.broken), 'broken line')}: {lines}.", _RESTART
        )
    wanted = {
        row["session_id"]: entry["n"]
        for entry in spooled.entries
        if entry["n"] <= n
        for table, _, rows in entry["parts"]
        if table == "stream_sessions"
        for row in rows
        if pruned is None or dt.datetime.fromisoformat(row["created_at"]) >= pruned
    }
    found = connection.execute(
        "SELECT session_id FROM stream_sessions WHERE list_contains($ids, session_id) UNION ALL "
        "SELECT session_id FROM deletions WHERE list_contains($ids, session_id)",
        {"ids": list(wanted)},
    ).fetchall()
    if absent := sorted(wanted.keys() - {row[0] for row in found}):
        some = ", ".join(absent[:_NAMED])
        yield Check(
            "spool",
            "bad",
            f"{count(len(absent), 'session')} of the spool not in the tables: {some}.",
            "If nobody deleted these sessions, keep the folder of the spool and report this.",
        )
    ahead = sum(entry["n"] > n for entry in spooled.entries)
    if ahead and not is_open:
        words = f"{count(ahead, 'entry', 'entries')} still to be stored"
        yield Check("spool", "note", words, "The next start of the workbench does it.")
    elif not spooled.broken and not absent:
        words = f"{count(len(wanted), 'session')} of the spool, all in the tables"
        yield Check("spool", "ok", words if wanted else "empty: all sessions are in the tables")


def _orphans(connection: duckdb.DuckDBPyConnection) -> Iterator[Check]:
    """Every row that belongs to a session has it, and every session its timeline."""
    bad = False
    for what, lacks, sql in (
        ("session", "without a timeline", "stream_sessions ANTI JOIN token_streams"),
        ("timeline", "without a session", "token_streams ANTI JOIN stream_sessions"),
        ("message", "without its session", "messages ANTI JOIN stream_sessions"),
        ("memory sample", "without its session", "memory_samples ANTI JOIN stream_sessions"),
    ):
        left = sql.partition(" ")[0]
        ((rows,),) = connection.execute(
            f"SELECT count(*) FROM (SELECT session_id FROM {left} "  # noqa: S608
            f"WHERE session_id IS NOT NULL) ANTI JOIN {sql.rpartition(' ')[2]} USING (session_id)"
        ).fetchall()
        if rows:
            bad = True
            yield Check("orphans", "bad", f"{count(rows, what)} {lacks}.", _DEFECT)
    if not bad:
        yield Check("orphans", "ok", "every row belongs to a session that is there")


def _rollup(connection: duckdb.DuckDBPyConnection) -> Iterator[Check]:
    """The counts of a large log are those of its sessions."""
    place = rollup.position(connection)
    if not place:
        yield Check("rollup", "ok", "none: percentiles are computed from every session")
    elif wrong := rollup.differences(connection):
        yield Check("rollup", "bad", f"{count(wrong, 'count')} not as the sessions give.", _DEFECT)
    else:
        yield Check("rollup", "ok", f"the counts are those of the sessions up to {place}")


def _views(connection: duckdb.DuckDBPyConnection) -> Iterator[Check]:
    names = [
        row[0]
        for row in connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE NOT internal "
            "AND database_name = current_database() ORDER BY view_name"
        ).fetchall()
    ]
    bad = False
    for name in names:
        try:
            connection.execute(f"SELECT * FROM {name} LIMIT 1").fetchall()  # noqa: S608
        except duckdb.Error as error:
            bad = True
            yield Check("views", "bad", f"{name} cannot be computed: {error}", _RESTART)
    if len(names) < len(VIEWS):
        bad = True
        yield Check("views", "bad", f"{len(VIEWS) - len(names)} are missing.", _RESTART)
    if not bad:
        yield Check("views", "ok", f"{len(names)} can be computed")
