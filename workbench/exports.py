"""Sessions from the log, as files: JSON, Markdown, CSV, a notebook, the spec of a benchmark."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from workbench import setups
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.figures import lateness, seconds
from workbench.store import Store
from workbench.store.records import session
from workbench.types import Options

COLUMNS: Final = (
    *("model", "status", "ttft_s", "decode_tps", "e2e_s", "output_tokens", "mem_peak_bytes"),
    *(
        "contended",
        "ttft_spoilt",
        "speed_spoilt",
        "timing_mode",
        "seed",
        "digest",
        "session_id",
        "prompt",
        "answer",
    ),
)

MAX_SELECTION: Final = 200
"""Sessions of one file."""

Comparison = Mapping[str, Any]
"""``sessions``, and ``comparison_id``, by which the file is called."""


def comparison(store: Store, comparison_id: str) -> Comparison:
    """The finished sessions of a comparison, in the order in which they were asked for.

    Each has its question and its answer.

    Raises:
        WorkbenchError: ``SESSION_NOT_FOUND``; as ``Store.query``.
    """
    found = store.rows(
        "SELECT session_id, conversation_id FROM stream_sessions WHERE comparison_id = $id "
        "ORDER BY TRY_CAST(details->>'place' AS INTEGER) NULLS LAST, seq",
        {"id": comparison_id},
    )
    if not found:
        raise WorkbenchError(
            ErrorCode.SESSION_NOT_FOUND,
            f"There is no finished comparison {comparison_id[:80]!r} in the log.",
            fix="The rows of GET /api/v1/sessions name theirs.",
            operation="export",
        )
    return {
        "comparison_id": comparison_id,
        "sessions": [{**session(store, one["session_id"]), **_said(store, one)} for one in found],
    }


def selection(store: Store, session_ids: Sequence[str]) -> Comparison:
    """Finished sessions that somebody chose, in that order, as :func:`comparison` gives them.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for none or too many, ``SESSION_NOT_FOUND``; as
            ``Store.query``.
    """
    wanted = [*dict.fromkeys(session_ids)]
    if not wanted or len(wanted) > MAX_SELECTION:
        raise invalid(
            f"{len(wanted)} sessions were named; a file holds 1 to {MAX_SELECTION}.",
            fix="Name fewer, or export the whole log: workbench db export DIR.",
        )
    found = [session(store, one) for one in wanted]
    name = str(found[0]["comparison_id"] or found[0]["session_id"])
    others = {one["comparison_id"] or one["session_id"] for one in found} - {name}
    return {
        "comparison_id": f"{name}-and-{len(others)}-more" if others else name,
        "sessions": [{**one, **_said(store, one)} for one in found],
    }


def _said(store: Store, one: Mapping[str, Any]) -> dict[str, str]:
    said = store.rows(
        "SELECT role, content FROM messages WHERE session_id = $session "
        "OR (conversation_id = $conversation AND role = 'system') ORDER BY position",
        {"session": one["session_id"], "conversation": one["conversation_id"]},
    )
    latest = {message["role"]: message["content"] for message in said}
    names = {"system": "system", "user": "prompt", "assistant": "answer"}
    return {name: latest.get(role, "") for role, name in names.items()}


def as_json(found: Comparison) -> str:
    """Everything that is known."""
    return json.dumps(found, ensure_ascii=False, indent=2, default=str)


def as_markdown(found: Comparison) -> str:
    """To read, with the figures under each answer."""
    parts = [f"# {found['comparison_id']}"]
    asked = None
    for one in found["sessions"]:
        if one["prompt"] != asked:
            asked = one["prompt"]
            parts.append(_fenced(asked))
        marks = ", contended" if one.get("contended") else ""
        if late := lateness(one):
            marks += f", {late}"
        parts += [
            f"## {one['model']}",
            f"{one['status']}, TTFT {seconds(one.get('ttft_s'))}, "
            f"{one.get('decode_tps') or 0:.1f} tok/s, {one.get('output_tokens')} tokens, "
            f"{one['timing_mode']}{marks}, seed {one['seed']}, digest {one.get('digest')}",
            one["answer"],
        ]
    return "\n\n".join(parts) + "\n"


def as_csv(found: Comparison) -> str:
    """A row an answer; no cell can be taken for a formula by a spreadsheet."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(COLUMNS)
    for one in found["sessions"]:
        rows.writerow([_cell(one.get(name)) for name in COLUMNS])
    return out.getvalue()


def as_notebook(found: Comparison) -> str:
    """A notebook that asks the same again through ``Workbench``."""
    lines = ["from workbench import Workbench", "", "wb = Workbench()", "answers = {}"]
    for one in found["sessions"]:
        options = setups.different(Options.from_mapping(one["options"]))
        arguments = {"system": one["system"] or None, **options, "seed": one["seed"]}
        lines.append(
            f"answers[{one['session_id']!r}] = wb.compare([{one['requested_model']!r}], "
            f"{one['prompt']!r}, mode='isolated', show=False, **{arguments!r})"
        )
    shown = (
        "import pandas as pd\n\n"
        "columns = ['model', 'status', 'ttft_s', 'decode_tps', 'text']\n"
        "again = pd.concat(answers.values())\nagain[[c for c in columns if c in again]]"
    )
    said = (
        f"{found['comparison_id']} again, one model at a time, with the seeds that were used. "
        "Turns before the last question are not asked again."
    )
    cells: list[dict[str, Any]] = [
        {"id": "what", "cell_type": "markdown", "metadata": {}, "source": said},
        *(
            {
                "id": name,
                "cell_type": "code",
                "metadata": {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for name, source in (("ask", "\n".join(lines)), ("show", shown))
        ),
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})


def as_spec(found: Comparison) -> str:
    """The spec of a benchmark of these models, each with the options of its pane."""
    first = found["sessions"][0]
    panes = []
    longest_asked = {one["options"].get("max_tokens") for one in found["sessions"]}
    for one in found["sessions"]:
        options = _asked(Options.from_mapping(one["options"]))
        if len(longest_asked) > 1:  # otherwise the answers are as long as the longest one was
            options["max_tokens"] = one["options"].get("max_tokens")
        if (pane := (one["requested_model"], options)) not in panes:
            panes.append(pane)
    common = {
        name: value
        for name, value in panes[0][1].items()
        if all(options.get(name) == value for _, options in panes)
    }
    longest = max((one.get("output_tokens") or 1) for one in found["sessions"])
    lines = [
        "# Prompts of about the length of the comparison's are made; each model has the options of",
        "# its pane. Run with: workbench bench run FILE",
        f"name = {_toml(found['comparison_id'])}",
        f"seed = {first['seed']}",
        "models = [",
        *(f"    {_model(model, options, common)}," for model, options in panes),
        "]",
        *([f"system = {_toml(first['system'])}"] if first["system"] else []),
        "",
        "[options]",
        *(f"{name} = {_toml(value)}" for name, value in common.items()),
        "",
        "[prompts]",
        f"input_tokens = {first.get('prompt_tokens') or 64}",
        f"output_tokens = {longest}",
    ]
    return "\n".join(lines) + "\n"


def _asked(options: Options) -> dict[str, Any]:
    """What is not as by default, also what a setup does not carry; a run has its own seeds."""
    values, defaults = options.to_dict(), Options().to_dict()
    left_out = ("max_tokens", "seed")
    return {n: v for n, v in values.items() if v != defaults[n] and n not in left_out}


def _model(model: str, options: Mapping[str, Any], common: Mapping[str, Any]) -> str:
    """A model as an entry of a spec, with the options that not all have."""
    own = [f"{name} = {_toml(value)}" for name, value in options.items() if name not in common]
    if not own:
        return _toml(model)
    return f"{{ model = {_toml(model)}, options = {{ {', '.join(own)} }} }}"


FORMATS: Final[Mapping[str, tuple[str, str, Callable[[Comparison], str]]]] = {
    "json": ("json", "application/json", as_json),
    "markdown": ("md", "text/markdown; charset=utf-8", as_markdown),
    "csv": ("csv", "text/csv; charset=utf-8", as_csv),
    "notebook": ("ipynb", "application/x-ipynb+json", as_notebook),
    "spec": ("toml", "application/toml", as_spec),
}
"""Name -> file ending, media type, writer."""


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            f"{{ {', '.join(f'{_toml(key)} = {_toml(inner)}' for key, inner in value.items())} }}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
