"""The gate: which SQL from outside may run.

A read-only transaction is not enough. SELECT can call functions that read files, stop the server
or open another one, and DuckDB has internal tables with paths and other people's queries. So the
statement is parsed by DuckDB itself and its tree is walked: it must be one SELECT, its table
functions must be on a list of harmless ones, its tables must be tables of the log, and a few
scalar functions are kept out. What the walk does not know is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import duckdb

from workbench.errors import WorkbenchError, invalid
from workbench.store.failures import querying
from workbench.wire import clean

MAX_SQL_BYTES: Final = 100_000
"""The longest statement: a parser must not be busy for minutes."""

MAX_NESTING: Final = 200
"""The most brackets that may be open at once: parsers recurse."""

TABLE_FUNCTIONS: Final = frozenset(
    {
        *("range", "generate_series", "unnest", "json_each", "json_tree", "repeat_row"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_indexes"),
        *("duckdb_keywords", "duckdb_schemas", "duckdb_tables", "duckdb_types", "duckdb_views"),
        *("pragma_database_size", "pragma_table_info", "pragma_version", "summary"),
    }
)
"""Functions that may stand in FROM."""

REFUSED_FUNCTIONS: Final = frozenset(
    {
        # settings and variables may hold paths and keys
        *("current_setting", "getvariable", "getenv"),
        # effects beyond the result
        *("nextval", "currval", "setseed", "write_log"),
        # these make the server wait, or build values of any size in one step, which nothing stops
        *("sleep_ms", "pg_sleep", "repeat", "lpad", "rpad", "bar"),
        *("list_resize", "array_resize", "bitstring", "json_deserialize_sql"),
    }
)
"""Functions that may stand nowhere."""

MAX_SERIES: Final = 100_000
"""The longest list that ``range`` makes as a value; in FROM it has no limit."""

MAX_FUNCTIONS: Final = 1000
"""The most calls in one statement."""

SYSTEM_VIEWS: Final = frozenset({"duckdb_columns", "duckdb_tables", "duckdb_views"})
"""Views of DuckDB itself that may be read, besides those of the next list."""

SYSTEM_SCHEMAS: Final = {
    "information_schema": frozenset({"columns", "schemata", "tables", "views"}),
    "main": SYSTEM_VIEWS,
    "": SYSTEM_VIEWS,
}

_SHOWN: Final = frozenset({"", '"tables"', "__show_tables_expanded"})
_FROM: Final = frozenset(
    {
        *("BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY"),
        *("PIVOT", "SHOW_REF"),
    }
)
_NODES: Final = frozenset(
    {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "QUERY_NODE"}
)
_NAME: Final = re.compile(r"^\w{1,200}$")
_EXPLAIN: Final = re.compile(r"^\s*explain\b\s*(analyze\b)?", re.IGNORECASE)
_PIVOT: Final = re.compile(r"\bpivot(_wider)?\b", re.IGNORECASE)
_READING: Final = "Use SELECT, WITH, FROM, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN."


def admit(sql: str, connection: duckdb.DuckDBPyConnection) -> tuple[str, bool]:
    """Let one reading statement through.

    Args:
        sql: from outside.
        connection: parses it; nothing of it is run.

    Returns:
        The statement without the semicolons around it, and whether it is a SELECT, which may stand
        in brackets (EXPLAIN may not).

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` that says what is not allowed.
    """
    sql = clean(sql)
    _check_size(sql)
    try:
        bare = _bare(sql)
    except (duckdb.Error, RuntimeError) as error:
        raise invalid(str(error)) from None
    if (explain := _EXPLAIN.match(bare)) is None:
        _check(bare, connection)
        return bare, True
    # The words are put back in front of what was let through, never taken from outside.
    inner = bare[explain.end() :]
    _check(inner, connection)
    return f"EXPLAIN {'ANALYZE ' if explain[1] else ''}{inner}", False


def _check_size(sql: str) -> None:
    if len(sql.encode()) > MAX_SQL_BYTES:
        raise invalid(
            f"The statement is longer than {MAX_SQL_BYTES} bytes.", fix="Use parameters for values."
        )
    if "\0" in sql:
        raise invalid("The statement has a NUL character.", fix="Leave it out.")
    open_brackets = 0
    for character in sql:
        open_brackets += (character in "([{") - (character in ")]}")
        if open_brackets > MAX_NESTING:
            raise invalid(f"More than {MAX_NESTING} brackets are open.", fix="Nest less deeply.")


def _check(statement: str, connection: duckdb.DuckDBPyConnection) -> None:
    # Not extract_statements: it opens the files of IMPORT DATABASE while it parses.
    try:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
        assert row is not None
        tree: dict[str, Any] = json.loads(row[0])
    except duckdb.Error as error:
        raise querying(error) from None
    except RecursionError:
        raise invalid("The statement is nested too deeply.", fix="Nest less deeply.") from None
    if tree["error"]:
        problem = str(tree["error_message"])
        if "serialized to json" in problem:  # what DuckDB says of any other kind of statement
            problem = "Queries only read."
            if _PIVOT.search(statement):
                raise invalid(
                    "PIVOT without its values is more than one query: it makes a type first.",
                    fix="Name them: PIVOT ... ON model IN ('a', 'b') USING ...",
                )
        raise invalid(problem, fix=_READING)
    if len(tree["statements"]) != 1:
        raise invalid(
            f"Give exactly one SQL statement, not {len(tree['statements'])}.",
            fix="Send them one by one.",
        )
    calls = 0
    for node in _nodes(tree):
        calls += node.get("class") == "FUNCTION"
        _check_node(node)
    if calls > MAX_FUNCTIONS:
        raise invalid(f"The statement calls {calls} functions.", fix="Ask for less at once.")


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    """Every object of the tree; without recursion, for it may be deep."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _check_node(node: dict[str, Any]) -> None:
    kind = node.get("type")
    for place in ("from_table", "left", "right", "source"):
        child = node.get(place)
        if (
            isinstance(child, dict)
            and "sample" in child
            and child.get("type") not in _FROM | _NODES
        ):
            raise invalid(f"{child.get('type')} is not allowed in a query.", fix=_READING)
    if kind == "TABLE_FUNCTION":
        function = node["function"]
        if function.get("class") != "FUNCTION":
            raise invalid("Only functions by their name may stand in FROM.", fix=_READING)
        name = str(function["function_name"]).lower()
        if name not in TABLE_FUNCTIONS:
            raise _no_function(name)
        function["class"] = "TABLE_FUNCTION"  # judged; its limits as a value do not apply
    elif kind == "BASE_TABLE":
        _check_table(node)
    elif kind == "SHOW_REF" and node["table_name"] not in _SHOWN:
        raise invalid(f"SHOW {node['table_name']} is not allowed.", fix="Use SHOW TABLES.")
    elif node.get("class") == "FUNCTION":
        _check_function(str(node["function_name"]).lower(), node["children"])


def _check_function(name: str, arguments: list[dict[str, Any]]) -> None:
    if name in REFUSED_FUNCTIONS or name.startswith("quack_"):
        raise _no_function(name)
    constants = [_constant(argument) for argument in arguments]
    if name in ("range", "generate_series") and not all(map(_is_modest, arguments)):
        raise invalid(
            f"{name} outside FROM takes numbers up to {MAX_SERIES} and lengths of lists only.",
            fix=f"Use FROM {name}(...).",
        )
    if name in ("replace", "regexp_replace") and not _shrinks(*constants[1:3]):
        raise invalid(
            f"{name} must not make a text longer than it was.",
            fix="Give the text to put in as a literal, not longer than the one to look for.",
        )
    if name in ("format", "printf") and not _is_plain_format(constants[0] if constants else None):
        raise invalid(
            f"{name} takes a literal with widths below 1000.", fix="Write the format out."
        )


def _constant(argument: dict[str, Any]) -> object:
    """The value of a literal; None if it is something else."""
    if argument.get("class") != "CONSTANT" or argument["value"]["is_null"]:
        return None
    value: object = argument["value"]["value"]
    return value


def _is_modest(argument: dict[str, Any]) -> bool:
    """Whether a number is small, or the length of what is there already, give or take."""
    if argument.get("class") == "FUNCTION":
        name, inner = argument["function_name"], argument["children"]
        return name in ("len", "array_length") or (name in "+-" and all(map(_is_modest, inner)))
    value = _constant(argument)
    return isinstance(value, int) and abs(value) <= MAX_SERIES


def _shrinks(sought: object = None, put_in: object = None) -> bool:
    return isinstance(sought, str) and isinstance(put_in, str) and len(put_in) <= len(sought)


def _is_plain_format(text: object) -> bool:
    return isinstance(text, str) and not re.search(r"\d{4}|\*|\{[^}]*\{", text)


def _check_table(node: dict[str, Any]) -> None:
    names = [str(node[part]) for part in ("catalog_name", "schema_name", "table_name")]
    if not all(_NAME.match(name) for name in names if name) or not names[-1]:
        raise invalid(
            f"{'.'.join(filter(None, names))!r} is no table of the log: queries read no files.",
            fix="See workbench db tables.",
        )
    catalog, schema, table = (name.lower() for name in names)
    if catalog in ("system", "temp", "parked", "guard"):
        raise invalid(f"The database {catalog} is not open to queries.", fix=_READING)
    if schema == "pg_catalog" or (schema == "information_schema" and not _is_listed(schema, table)):
        raise invalid(f"{schema}.{table} is not open to queries.", fix="See workbench db tables.")
    internal = table.startswith(("duckdb_", "pragma_", "sqlite_", "pg_"))
    if internal and not _is_listed(schema, table):
        raise invalid(f"{table} is not open to queries.", fix="See workbench db tables.")


def _is_listed(schema: str, table: str) -> bool:
    return table in SYSTEM_SCHEMAS.get(schema, frozenset())


def _no_function(name: str) -> WorkbenchError:
    return invalid(
        f"The function {name} is not allowed: queries read the log and nothing else.",
        fix="See workbench db tables for what can be read.",
    )


def _bare(sql: str) -> str:
    """The text of the one statement in ``sql`` without the semicolons around it.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, there is none or more than one.
    """
    raw = sql.encode()  # DuckDB counts bytes
    parts: list[list[int]] = [[]]
    for offset, kind in duckdb.tokenize(sql):
        if kind == duckdb.token_type.operator and raw[offset : offset + 1] == b";":
            parts[-1].append(offset)
            parts.append([])
        elif kind != duckdb.token_type.comment:
            parts[-1].append(offset)
    ends = [part for part in parts[:-1] if len(part) > 1] + ([parts[-1]] if parts[-1] else [])
    if len(ends) != 1:
        raise invalid(
            f"Give exactly one SQL statement, not {len(ends)}.", fix="Send them one by one."
        )
    (tokens,) = ends
    ended = tokens is not parts[-1]
    return raw[tokens[0] : tokens[-1] if ended else len(raw)].decode()
