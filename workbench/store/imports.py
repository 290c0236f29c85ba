"""Exports of others, each in a file of its own beside the log, attached under a name of its own.

Nothing of them ever gets into the tables of the log, so that figures of another machine never mix
with one's own unless a query says so: ``SELECT * FROM colleague.latencies``.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Final

import duckdb

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.jobs import Reporter
from workbench.store import failures, rollup
from workbench.store.exchange import FORMAT, MANIFEST
from workbench.store.files import IMPORT_NAME, IMPORTS, attach_import, exchange_folder
from workbench.store.migrations import migrate
from workbench.store.steps import LATEST, MIGRATIONS
from workbench.store.views import create_views

_TAKEN: Final = frozenset(
    {"main", "temp", "system", "memory", "guard", "parked", "information_schema", "pg_catalog"}
)


def bring_in(
    connection: duckdb.DuckDBPyConnection,
    log: Path,
    source: Path,
    name: str,
    report: Reporter,
    cancelled: threading.Event,
) -> dict[str, Any]:
    """Make an export readable beside the log, in place of an earlier one of that name.

    Args:
        connection: to the open log.
        log: its path.
        source: the folder that :meth:`workbench.store.exchange.Exchange.export` made.
        name: what it will be called in queries.
        report: hears which table is read.
        cancelled: stops it between two tables.

    Returns:
        ``name``, ``sessions``, ``log_id``, ``environments``, ``path``.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: no export, one of a newer workbench, or damaged.
    """
    manifest = read_manifest(source)
    made = _build(log, manifest, source, name, report, cancelled)
    file = made.with_name(f"{name}.duckdb")
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"DETACH DATABASE IF EXISTS {name}")
            made.replace(file)
            attach_import(cursor, name, file)
        except duckdb.Error as error:
            made.unlink(missing_ok=True)
            raise failures.exchanging(error, source) from error
    return {
        "name": name,
        "sessions": manifest["tables"]["stream_sessions"]["rows"],
        "log_id": manifest.get("log_id"),
        "environments": manifest.get("environments", []),
        "path": str(file),
    }


def _build(
    log: Path,
    manifest: dict[str, Any],
    source: Path,
    name: str,
    report: Reporter,
    cancelled: threading.Event,
) -> Path:
    """Make the file of an import out of an export; it is not in its place yet."""
    _check_name(name, log)
    folder = exchange_folder(log) / IMPORTS
    folder.parent.mkdir(exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    made = folder / f".{name}.new"
    made.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(made)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            _fill(connection, manifest, source, report, cancelled)
        made.chmod(0o600)
    except duckdb.Error as error:
        made.unlink(missing_ok=True)
        raise failures.exchanging(error, source) from error
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made


def _check_name(name: str, log: Path) -> None:
    """Refuse names that SQL or the log itself needs."""
    if not IMPORT_NAME.match(name) or name in _TAKEN or name == log.stem.lower():
        raise invalid(
            f"{name!r} cannot be the name of an import.",
            fix="Use small letters, digits and _, beginning with a letter.",
        )


def read_manifest(source: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: there is none, or this workbench is too old for it.
    """
    try:
        manifest: dict[str, Any] = json.loads((source / MANIFEST).read_text())
        known = (int(manifest["format"]), int(manifest["schema_version"]))
        tables = manifest["tables"]
    except (OSError, ValueError, KeyError, TypeError):
        raise invalid(
            f"{source} is no export of a workbench.", fix="Give the folder of workbench db export."
        ) from None
    if known[0] > FORMAT or known[1] > LATEST or not isinstance(tables, dict):
        raise invalid(
            f"{source} was exported by a newer workbench (schema {known[1]}, this one knows "
            f"{LATEST}).",
            fix="Update the workbench.",
        )
    return manifest


def _fill(
    connection: duckdb.DuckDBPyConnection,
    manifest: dict[str, Any],
    source: Path,
    report: Reporter,
    cancelled: threading.Event,
) -> None:
    """As the log was when it was exported, then brought up to date like any older log."""
    connection.execute(
        "CREATE TABLE schema_migrations "
        "(version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)"
    )
    for step in MIGRATIONS[: manifest["schema_version"]]:
        if not step.of_rows:
            connection.execute(step.sql)
        connection.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, now())", [step.version, step.name]
        )
    known = {
        row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    }
    for number, (table, facts) in enumerate(manifest["tables"].items()):
        if cancelled.is_set():
            raise WorkbenchError(ErrorCode.CANCELLED, "It was stopped.", operation="import")
        report(table, number, len(manifest["tables"]))
        if table not in known:
            raise invalid(
                f"{source} has a table {table!r} that its version does not have.",
                fix="It was changed after the export: export that log again.",
            )
        if facts["rows"]:
            files = str(source / table / "**" / "*.parquet").replace("'", "''")
            connection.execute(
                f"INSERT INTO {table} BY NAME "  # noqa: S608
                f"SELECT * FROM read_parquet('{files}', hive_partitioning = false)"
            )
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if row is None or row[0] != facts["rows"]:
            raise invalid(
                f"{source} is damaged: {table} has {row and row[0]} rows, the manifest says "
                f"{facts['rows']}.",
                fix="Export it again.",
            )
    migrate(connection, path=source)
    while rollup.advance(connection, rollup.EXACT_SESSIONS):
        pass
    create_views(connection)
