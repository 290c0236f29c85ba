"""Two pages for developers: the REST document made readable, and a place to try GraphQL.

Both are made here and load nothing from elsewhere, so that they work offline and no foreign script
runs with the user's key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_STYLE: Final = """<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
code, pre, textarea { font: 13px/1.45 ui-monospace, monospace; }
pre { overflow: auto; padding: .6rem; border: 1px solid #8884; border-radius: 4px; }
textarea { width: 100%; box-sizing: border-box; }
details { border-top: 1px solid #8884; padding: .4rem 0; }
summary { cursor: pointer; }
.verb { display: inline-block; width: 4.5em; font-weight: 600; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
</style>"""

_QUERY: Final = "{\n  availableModels { id status sizeBytes }\n  health { status }\n}"


@router.get("/api/docs")
async def docs(request: Request) -> HTMLResponse:
    """Every operation of the REST face."""
    document: Mapping[str, Any] = request.app.openapi()
    operations = [
        _operation(path, verb, operation, document)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    return _page(
        "Workbench API",
        "<p>The machine-readable form is <a href='/openapi.json'>/openapi.json</a>; GraphQL has "
        "<a href='/graphql'>a page of its own</a>.</p>" + "".join(operations),
    )


@router.get("/graphql")
async def explorer(request: Request) -> HTMLResponse:
    """A query, its answer, the schema."""
    schema = request.app.state.graphql_schema
    sdl = (
        f"<details><summary>Schema</summary><pre>{escape(schema.as_str())}</pre></details>"
        if request.app.state.settings.workbench_graphql_introspection
        else ""
    )
    return _page(
        "Workbench GraphQL",
        "<p>Ctrl+Enter runs it; a subscription runs until its end or until Stop.</p>"
        f"<textarea id='query' rows='12' spellcheck='false'>{escape(_QUERY)}</textarea>"
        "<p>Variables (JSON)</p><textarea id='variables' rows='3'>{}</textarea>"
        "<p><button id='run'>Run</button> <button id='stop'>Stop</button></p>"
        "<pre id='answer'></pre>" + sdl + _SCRIPT,
    )


_SCRIPT: Final = """<script>
const $ = (id) => document.getElementById(id);
const show = (value) => JSON.stringify(value, null, 2);
let socket = null;
function stop() { if (socket) socket.close(); socket = null; }
function subscribe(payload) {
  const mine = socket = new WebSocket("/graphql", "graphql-transport-ws");
  const send = (message) => mine.send(JSON.stringify(message));
  mine.onopen = () => send({type: "connection_init"});
  mine.onclose = (end) => { if (end.code >= 4000) $("answer").textContent += end.reason + "\\n"; };
  mine.onmessage = ({data}) => {
    const message = JSON.parse(data);
    if (message.type === "connection_ack") send({id: "1", type: "subscribe", payload});
    else if (message.type === "ping") send({type: "pong"});
    else if (message.type === "complete") mine.close();
    else $("answer").textContent += show(message.payload) + "\\n";
  };
}
async function run() {
  stop();
  $("answer").textContent = "";
  try {
    const query = $("query").value;
    const payload = {query, variables: JSON.parse($("variables").value || "{}")};
    if (/^\\s*subscription\\b/m.test(query)) { subscribe(payload); return; }
    const headers = {"Content-Type": "application/json"};
    const got = await fetch("/graphql", {method: "POST", headers, body: JSON.stringify(payload)});
    $("answer").textContent = show(await got.json());
  } catch (error) { $("answer").textContent = String(error); }
}
$("run").addEventListener("click", run);
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (key) => { if (key.ctrlKey && key.key === "Enter") run(); });
</script>"""


def _page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"{_STYLE}</head><body><h1>{title}</h1>{body}</body></html>"
    )


def _operation(
    path: str, verb: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> str:
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    if parameters := operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{escape(item['name'])}</code></td><td>{escape(item['in'])}</td>"
            f"<td>{'required' if item.get('required') else ''}</td></tr>"
            for item in parameters
        )
        parts.append(f"<table>{rows}</table>")
    for media in operation.get("requestBody", {}).get("content", {}).values():
        example = _example(media)
        if example is not None:
            command = (
                f"curl -X {verb.upper()} $URL{path} -H 'Content-Type: application/json' "
                f"-d '{json.dumps(example)}'"
            )
            parts.append(f"<pre>{escape(command)}</pre>")
        schema = _resolved(media.get("schema", {}), document)
        fields = json.dumps(schema.get("properties", schema), indent=1)
        parts.append(f"<details><summary>Body</summary><pre>{escape(fields)}</pre></details>")
    for status, response in operation.get("responses", {}).items():
        for media in response.get("content", {}).values():
            example = _example(media)
            if example is not None and status.startswith("2"):
                shown = json.dumps(example, indent=1)
                parts.append(
                    f"<details><summary>{status}</summary><pre>{escape(shown)}</pre></details>"
                )
    return (
        f"<details><summary><span class='verb'>{verb.upper()}</span> <code>{escape(path)}</code> "
        f"{escape(operation.get('summary', ''))}</summary>{''.join(parts)}</details>"
    )


def _example(media: Mapping[str, Any]) -> Any:
    if "example" in media:
        return media["example"]
    return next((item["value"] for item in media.get("examples", {}).values()), None)


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"].get(name, schema)
    return found
