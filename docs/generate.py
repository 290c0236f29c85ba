"""Writes the pages of the reference that say what the code says already.

``python docs/generate.py`` writes them; ``--check`` fails if one is not what the code says.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BeforeValidator

from workbench import metrics
from workbench.errors import HTTP_STATUS, ErrorCode
from workbench.folders import data_folder
from workbench.settings import Settings, load_settings
from workbench.store.steps import MIGRATIONS

FOLDER: Final = Path(__file__).parent / "reference"
NOTE: Final = "\n<!-- Made by docs/generate.py from the code; edit that. -->\n"


def settings() -> str:
    """Every setting: default, bounds, meaning."""
    meanings = _meanings(Settings)
    for name in Settings.model_fields.keys() - meanings.keys():
        raise SystemExit(f"{name} has no meaning: write it as a string below the field")
    rows = [
        f"| `{name.upper()}` | {_default(field)} | {_bounds(field)} | {meanings[name]} |"
        for name, field in Settings.model_fields.items()
    ]
    return (
        "# Settings\n\n"
        "Settings are environment variables, or lines of a `.env` file in the working directory or "
        "in the checkout; installed from a wheel, in `~/.config/llm-workbench/` instead of the "
        "checkout. The environment wins over the files, and the file of the working directory over "
        "the other.\n\n"
        "A bad value stops the start; the message names the variable and the fix. A variable that "
        "begins with `WORKBENCH_` and is not a setting is named in the server's log.\n\n"
        "The end of a name is its unit: `_S` seconds, `_MS` milliseconds. Sizes are bytes, and may "
        "have a unit: `12GB` (powers of 1000) or `12GiB` (powers of 1024). `data/` is the folder "
        "in the checkout; installed from a wheel it is the user's data folder, on Linux "
        "`~/.local/share/llm-workbench`.\n\n"
        "| variable | default | allowed | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _meanings(of: type) -> dict[str, str]:
    """The strings that stand below the fields of a class, which cost a start nothing."""
    tree = ast.parse(inspect.getsource(sys.modules[of.__module__]))
    body = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == of.__name__
    )
    return {
        ast.unparse(field.target if isinstance(field, ast.AnnAssign) else field.targets[0]): (
            " ".join(text.value.value.split())
        )
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign | ast.Assign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Path):
        return f"`{Path('data') / value.relative_to(data_folder())}`"
    if value is None or value in ("", {}, ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and any(isinstance(m, BeforeValidator) for m in field.metadata):
        return f"`{_size(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _size(value: int) -> str:
    """As it would be written into the environment: of the powers that fit, those of 1000 first."""
    for base, end in ((1000, "B"), (1024, "iB")):
        for power in (4, 3, 2, 1):
            if value and value % base**power == 0:
                return f"{value // base**power}{'KMGT'[power - 1]}{end}"
    return str(value)


def _bounds(field: Any) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    found = []
    for item in field.metadata:
        for name, word in words.items():
            if (bound := getattr(item, name, None)) is not None:
                found.append(f"{word} {bound:,}")
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    return " ".join(found)


def cli() -> str:
    """Every command with its arguments and options, as ``--help`` has them."""
    import typer
    from typer.cli import get_docs_for_click

    from workbench.cli import app

    command = typer.main.get_command(app)
    _say_whole(command)
    context = typer.Context(command, info_name="workbench")
    text = get_docs_for_click(obj=command, ctx=context, name="workbench", title="Command line")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"


def _say_whole(command: Any) -> None:
    """Keep the first lines of commands whole in lists, which would cut them to 45 characters."""
    command.short_help = (command.help or "").strip().partition("\n")[0]
    command.get_short_help_str = lambda limit=45: command.short_help
    for inner in getattr(command, "commands", {}).values():
        _say_whole(inner)


def rest() -> str:
    """Every operation of the OpenAPI document, with its body and an example."""
    document = _application().openapi()
    text = [
        "# REST\n",
        "The same as a document for programs: `GET /openapi.json` of a running server, as pages: "
        "`/api/docs`. Errors are `application/problem+json`, see [Error codes](errors.md).\n",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            text += _operation(document, method.upper(), path, operation)
    return "\n".join(text)


def _operation(
    document: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> Iterator[str]:
    yield f"## {method} `{path}`\n"
    yield f"{operation.get('description') or operation.get('summary', '')}\n"
    rows = [
        (item["name"], item["in"], _type(item.get("schema", {})), item.get("description", ""))
        for item in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        schema = _resolve(document, body["schema"])
        needed = schema.get("required", ())
        rows += [
            (
                name,
                "body, needed" if name in needed else "body",
                _type(_resolve(document, item)),
                item.get("description", ""),
            )
            for name, item in schema.get("properties", {}).items()
        ]
    if rows:
        yield "| name | in | type | meaning |\n|---|---|---|---|"
        yield "\n".join(f"| `{row[0]}` | {row[1]} | {row[2]} | {_cell(row[3])} |" for row in rows)
        yield ""
    if body and (example := _example(body)) is not None:
        yield f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```\n"


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(item) for item in schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _example(body: dict[str, Any]) -> Any:
    if "example" in body:
        return body["example"]
    examples = list(body.get("examples", {}).values())
    return examples[0].get("value") if examples else None


def graphql() -> str:
    """The GraphQL schema."""
    schema = _application().state.graphql_schema.as_str().strip()
    return (
        "# GraphQL\n\n"
        "`POST /graphql`; the subscription speaks `graphql-transport-ws` at the same address. "
        "`GET /graphql` in a browser is a page to try it on.\n\n"
        f"```graphql\n{schema}\n```\n"
    )


def log() -> str:
    """Tables and views of the log."""
    from workbench.store import Store

    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "log.duckdb") as store:
        tables = store.rows(
            "SELECT table_name, table_type, list(struct_pack(n := column_name, t := data_type) "
            "ORDER BY ordinal_position) AS columns FROM information_schema.columns "
            "JOIN information_schema.tables USING (table_catalog, table_schema, table_name) "
            "WHERE table_catalog = current_database() AND table_schema = 'main' "
            "GROUP BY ALL ORDER BY table_type, table_name"
        )
    text = [
        "# The log's tables and views\n",
        "One row of `stream_sessions` is one model call; `latencies` is the view with its "
        "figures, see [what they mean](../explanation/metrics.md). Stamps end in `_ns` and are "
        "monotonic: only their differences mean something.\n",
    ]
    comments = _comments()
    for table in tables:
        kind = "view" if table["table_type"] == "VIEW" else "table"
        text.append(f"## `{table['table_name']}` ({kind})\n")
        text.append("| column | type | meaning |\n|---|---|---|")
        for column in table["columns"]:
            meaning = (
                comments.get((table["table_name"], column["n"]))
                or metrics.DEFINITIONS.get(column["n"])
                or metrics.MARKS.get(column["n"])
                or (comments.get(("stream_sessions", column["n"])) if kind == "view" else "")
                or ""
            )
            text.append(f"| `{column['n']}` | {column['t']} | {meaning} |")
        text.append("")
    return "\n".join(text)


def _comments() -> dict[tuple[str, str], str]:
    """What the migrations say of a column beside it."""
    found, table = {}, ""
    for line in "\n".join(step.sql for step in MIGRATIONS).splitlines():
        if made := re.match(r"(?:CREATE|ALTER) TABLE (\w+)(.*)", line):
            table, line = made[1], made[2].removeprefix(" ADD COLUMN")
        if told := re.match(r"\s+(\w+) [^-]*-- (.+)", line):
            found[table, told[1]] = told[2]
    return found


def errors() -> str:
    """Every error code with its HTTP status and its meaning."""
    meanings = _meanings(ErrorCode)
    for code in ErrorCode.__members__.keys() - meanings.keys():
        raise SystemExit(f"{code} has no meaning: write it as a string below the code")
    rows = [f"| `{code}` | {HTTP_STATUS[code]} | {meanings[code]} |" for code in ErrorCode]
    return (
        "# Error codes\n\n"
        "Every failure has a code, a message that says what happened, and a fix that says what to "
        "do. Codes never change, so scripts may match on them; messages may. Over HTTP an error is "
        "`application/problem+json` with `code`, `message`, `fix`, `operation`, `provider`, "
        "`timestamp`, `details` and `correlation_id`. Below `/v1` it has OpenAI's form, with these "
        "fields in `error.workbench`.\n\n"
        "| code | HTTP status | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


@functools.cache
def _application() -> Any:
    from workbench.engine import Engine
    from workbench.registration import build_router
    from workbench.server import create_app
    from workbench.store import Store

    with tempfile.TemporaryDirectory() as folder:
        read = load_settings(_env_file=None)
        with Store.open(Path(folder) / "log.duckdb") as store:
            return create_app(read, Engine(read, build_router(read), store), page=False)


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings,
    "cli.md": cli,
    "rest.md": rest,
    "graphql.md": graphql,
    "log.md": log,
    "errors.md": errors,
}


def main() -> None:
    """Write all pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    for name, make in PAGES.items():
        path, text = FOLDER / name, make() + NOTE
        if not given.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{path} is not what the code says: run python docs/generate.py")


if __name__ == "__main__":
    main()
