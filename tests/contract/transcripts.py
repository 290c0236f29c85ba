"""Recordings of a real Ollama server, and the comparison of an answer with one of them.

A recording is compared by what a client can rely on: status, the headers that matter, framing, the
names and the order of fields, and exact texts where the server words them. Times, dates and random
tokens are not compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).resolve().parents[1] / "data" / "ollama"
NDJSON = "application/x-ndjson"
_GO_BUFFER = 2048
"""Go sends a Content-Length by itself only up to this many bytes."""
_ENDS = {"stop", "length"}
_COUNTS_AND_DURATIONS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


@dataclass(frozen=True)
class Exchange:
    """One answer, recorded or received."""

    status: int
    reason: str
    headers: dict[str, str]
    body: str

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type") == NDJSON

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON values of the body, one per line."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]

    @property
    def text(self) -> str:
        """What the model said."""
        return "".join(_piece(line) for line in self.lines)


@dataclass(frozen=True)
class Case:
    """One recorded request with its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    answer: Exchange


def _piece(line: dict[str, Any]) -> str:
    return str(line["response"] if "response" in line else line["message"]["content"])


def _renamed(text: str, model: str) -> str:
    """The model under test in place of the recorded names (one of which spells it in capitals)."""
    text = text.replace("SmolLM2:135M", model.upper())
    return text.replace("smollm2-t1:135m", model).replace("smollm2:135m", model)


@cache
def case(name: str, model: str) -> Case:
    """Load a recording by name, as if it had been made with ``model``."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    request, response = recorded["request"], recorded["response"]
    kept = {"content-type", "accept"}
    _, _, reason = response["status_line"].split(" ", 2)
    return Case(
        method=request["method"],
        path=request["path"],
        headers={k: v for k, v in request["headers"] if k.lower() in kept},
        body=_renamed(request["body"], model),
        answer=Exchange(
            response["status"],
            reason,
            {k.lower(): v for k, v in response["headers"]},
            _renamed(response["body"], model),
        ),
    )


def send(client: httpx.Client, sent: Case) -> Exchange:
    """Send a recorded request byte for byte."""
    response = client.request(sent.method, sent.path, content=sent.body, headers=sent.headers)
    assert response.http_version == "HTTP/1.1"
    return Exchange(
        response.status_code, response.reason_phrase, dict(response.headers), response.text
    )


def shape(value: Any) -> Any:
    """Field names in their order and the types of values; lists count as their first element."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return ["list", *(shape(item) for item in value[:1])]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    return "number"


def check_head(expected: Exchange, got: Exchange) -> None:
    """Status, headers and framing."""
    assert (got.status, got.reason) == (expected.status, expected.reason), got.body
    for name in ("content-type", "allow", "location"):
        assert got.headers.get(name) == expected.headers.get(name)
    assert "date" in got.headers
    assert "server" not in got.headers
    recorded_length = len(expected.body.encode())
    if expected.chunked and recorded_length <= _GO_BUFFER:
        assert got.chunked  # the server decided for a stream, however short
    else:
        assert got.chunked is (expected.is_stream or len(got.body.encode()) > _GO_BUFFER)
    assert got.chunked is ("content-length" not in got.headers)


def check_exact(expected: Exchange, got: Exchange) -> None:
    """The same answer to the byte."""
    check_head(expected, got)
    assert got.body == expected.body


def check_shape(expected: Exchange, got: Exchange) -> None:
    """The same kind of answer: every line has the fields of its recorded counterpart."""
    check_head(expected, got)
    assert got.body.endswith("\n") is expected.body.endswith("\n")
    assert shape(got.last) == shape(expected.last)
    reason = expected.last.get("done_reason")
    # Other tokens may end elsewhere, so which of the two it is only counts for equal texts.
    assert got.last.get("done_reason") in (_ENDS if reason in _ENDS else {reason})
    ordinary = shape(expected.lines[0])
    for line in got.lines[:-1]:
        assert shape(line) == ordinary
        assert line["done"] is False
        assert _piece(line)
    for name in _COUNTS_AND_DURATIONS:
        if name in got.last:
            assert isinstance(got.last[name], int)
            assert got.last[name] > 0
    assert got.last.get("prompt_eval_count") == expected.last.get("prompt_eval_count")


def check_same_text(expected: Exchange, got: Exchange) -> None:
    """The same kind of answer, and greedy decoding that agrees."""
    check_shape(expected, got)
    assert got.text == expected.text
    assert got.last["done_reason"] == expected.last["done_reason"]
    assert got.last["eval_count"] == expected.last["eval_count"]
