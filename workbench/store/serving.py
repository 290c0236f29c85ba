"""The log served to other processes over DuckDB's Quack protocol, beside the writer.

What a client may ask over it is deliberately little: whole tables and views of the log, column by
column, and results that a query over REST has parked. The client's own DuckDB computes the rest.
Two facts about Quack decided that (DuckDB 1.5.5): a statement that a client sends runs in this
process and nothing stops it, neither the client's end nor the server's; and SELECT may call
functions that open or stop servers. A query with limits goes over REST, and only its result, when
it is large, comes over Quack.

The check is a macro in a database of its own, in memory: Quack asks it before every statement, and
before every insert, whatever the client claims to be.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Final

import duckdb

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store.extension import load_quack

MIN_TOKEN: Final = 16
"""The shortest token in characters."""

_LOOPBACK: Final = "127.0.0.1"

# What ATTACH asks for, as DuckDB 1.5 writes it (spaces aside).
_CATALOGUE: Final = (
    "SELECT catalog_name, schema_name FROM information_schema.schemata "
    "WHERE catalog_name NOT IN ('system', 'temp') ORDER BY ALL",
    "SELECT schema_name, sql, 'table' FROM duckdb_tables() "
    "UNION ALL SELECT schema_name, view_name, 'view' FROM duckdb_views()",
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to serve, and the key.

    Args:
        token: what clients must show, at least :data:`MIN_TOKEN` characters.
        host: to listen on; other than loopback lets other machines in.
        port: 0 takes a free one.
        offline: True never asks the network for the extension.
    """

    token: str = field(repr=False)
    host: str = _LOOPBACK
    port: int = 0
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Serving:
    """What came of it: an address to attach, or the reason why there is none."""

    uri: str | None = None
    token: str | None = field(default=None, repr=False)
    problem: WorkbenchError | None = None

    @property
    def local_uri(self) -> str | None:
        """The address for this machine: one that listens everywhere is reached by loopback."""
        if self.uri is None:
            return None
        return self.uri.replace("quack:0.0.0.0:", "quack:127.0.0.1:").replace("[::]:", "[::1]:")


def serve(connection: duckdb.DuckDBPyConnection, address: Address) -> Serving:
    """Serve an open log; a failure is told in the result, for the log works without.

    To be called before the log is sealed: the extension is a file.
    """
    try:
        uri = _serve(connection, address)
    except WorkbenchError as error:
        logs.get(__name__).warning("log_not_served", reason=str(error))
        return Serving(problem=error)
    return Serving(uri, address.token)


def stop(connection: duckdb.DuckDBPyConnection, serving: Serving) -> None:
    """Stop listening."""
    if serving.uri is not None:
        connection.execute("CALL quack_stop(?)", [serving.uri]).fetchall()


def _serve(connection: duckdb.DuckDBPyConnection, address: Address) -> str:
    load_quack(connection, offline=address.offline)
    try:
        connection.execute("ATTACH ':memory:' AS guard")
        connection.execute(_guard(connection))
        connection.execute("SET GLOBAL quack_authorization_function = 'guard.main.may_read'")
        port = address.port or _free_port(address.host)
        host = f"[{address.host}]" if ":" in address.host else address.host
        uri = f"quack:{host}:{port}"
        connection.execute(
            "CALL quack_serve(?, token := ?, allow_other_hostname := true)", [uri, address.token]
        ).fetchall()
    except (duckdb.Error, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            f"The log is not served over Quack: {reason}",
            fix="Set WORKBENCH_LOG_HOST and WORKBENCH_LOG_PORT to an address that is free.",
            operation="serve",
        ) from None
    return uri


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _guard(connection: duckdb.DuckDBPyConnection) -> str:
    """The macro that Quack asks, which lets plain reads of one table pass and what ATTACH needs.

    It judges the tree that DuckDB's parser makes of the text: one SELECT from one known table,
    with nothing in it but columns, literals, casts and LIMIT. No condition, join, function,
    subquery or sorting has a form that passes, nor has anything that writes.
    """
    row = connection.execute(
        "SELECT current_database(), list(table_name) FROM information_schema.tables "
        "WHERE table_catalog = current_database() AND table_schema = 'main'"
    ).fetchone()
    assert row is not None
    database, tables = row
    return f"""
CREATE MACRO guard.main.may_read(session, query) AS (
    WITH parsed AS (SELECT json_serialize_sql(query::VARCHAR) AS tree),
    parts AS (
        SELECT
            tree,
            tree -> '$.statements[0].node' AS node,
            tree -> '$.statements[0].node.from_table' AS source
        FROM parsed
    )
    SELECT trim(regexp_replace(query, '\\s+', ' ', 'g')) IN ({_literals(_CATALOGUE)})
        OR coalesce(
            (tree ->> 'error') = 'false'
            AND json_array_length(tree -> 'statements') = 1
            AND (node ->> 'type') = 'SELECT_NODE'
            AND json_array_length(node -> '$.cte_map.map') = 0
            AND json_array_length(node -> 'group_expressions') = 0
            AND coalesce(
                node ->> 'where_clause', node ->> 'having', node ->> 'qualify',
                node ->> 'sample', source ->> 'sample', source ->> 'at_clause'
            ) IS NULL
            AND (source ->> 'type') = 'BASE_TABLE'
            AND (
                (source ->> 'table_name') IN ({_literals(tables)})
                AND (source ->> 'schema_name') IN ('', 'main')
                AND (source ->> 'catalog_name') IN ('', {_literals([database])})
                OR (source ->> 'catalog_name') = 'parked'
                AND (source ->> 'schema_name') = 'main'
                AND regexp_full_match(source ->> 'table_name', 'r_[0-9a-f]{{32}}')
            )
            AND list_has_all(
                ['STAR', 'POSITIONAL_REFERENCE', 'COLUMN_REF', 'CONSTANT', 'CAST'],
                json_extract_string(tree, '$..class')
            )
            AND list_has_all(
                ['LIMIT_MODIFIER'], json_extract_string(node, '$.modifiers[*].type')
            ),
            false
        )
    FROM parts
)"""  # noqa: S608


def _literals(texts: tuple[str, ...] | list[str]) -> str:
    return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
