"""GraphQL over HTTP and WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from graphql import get_introspection_query
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.api.conftest import TINY
from tests.live import LiveServer


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def ask(http: httpx.Client, query: str, **variables: Any) -> Any:
    got = http.post("/graphql", json={"query": query, "variables": variables})
    assert got.status_code == 200, got.text
    return got.json()


def data(http: httpx.Client, query: str, **variables: Any) -> Any:
    body = ask(http, query, **variables)
    assert "errors" not in body, body["errors"]
    return body["data"]


def errors(http: httpx.Client, query: str, **variables: Any) -> list[dict[str, Any]]:
    return list(ask(http, query, **variables)["errors"])


@contextmanager
def socket(server: LiveServer) -> Iterator[ClientConnection]:
    url = server.url.replace("http", "ws") + "/graphql"
    protocol = Subprotocol("graphql-transport-ws")
    with connect(url, subprotocols=[protocol], proxy=None) as connection:
        connection.send(json.dumps({"type": "connection_init"}))
        assert json.loads(connection.recv(timeout=30))["type"] == "connection_ack"
        yield connection


STREAM = """
subscription ($input: StreamMessageInput!) {
  streamMessage(input: $input) {
    type number sessionId text seq session error { code message fix }
  }
}
"""


def subscribe(connection: ClientConnection, **input: Any) -> Iterator[dict[str, Any]]:
    payload = {"query": STREAM, "variables": {"input": input}}
    connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
    while True:
        message = json.loads(connection.recv(timeout=60))
        if message["type"] == "complete":
            return
        assert message["type"] in ("next", "error"), message
        yield message


def test_models(http: httpx.Client) -> None:
    listed = data(http, "{ availableModels { id provider status sizeBytes } }")["availableModels"]
    assert {TINY, "scripted/steady"} <= {model["id"] for model in listed}
    only = data(http, '{ availableModels(provider: "scripted") { provider } }')["availableModels"]
    assert {model["provider"] for model in only} == {"scripted"}
    query = "query ($id: String!) { model(id: $id) { id status sizeBytes details } }"
    assert data(http, query, id=TINY)["model"]["sizeBytes"] > 0
    (error,) = errors(http, query, id="nobody")
    assert error["extensions"]["code"] == "MODEL_NOT_FOUND"
    assert error["extensions"]["fix"]


def test_load_unload_and_download(http: httpx.Client) -> None:
    load = "mutation ($m: String!) { loadModel(model: $m) { id status memoryBytes } }"
    loaded = data(http, load, m=TINY)["loadModel"]
    assert loaded["status"] == "resident"
    assert loaded["memoryBytes"] > 2**20
    unload = "mutation ($m: String!) { unloadModel(model: $m) { status } }"
    assert data(http, unload, m=TINY)["unloadModel"]["status"] == "available"
    fetch = "mutation ($m: String!) { downloadModel(model: $m) { id kind status bytesDone } }"
    (error,) = errors(http, fetch, m="../outside")
    assert error["extensions"]["code"] in ("INVALID_REQUEST", "HF_INVALID_CONFIG", "FORBIDDEN_PATH")


def test_sessions_conversation_queue_health_runs(http: httpx.Client) -> None:
    body = {"model": "scripted/chunks", "message": "Hi", "conversation_id": "con_graphql"}
    for _ in range(3):
        http.post("/api/v1/generate", json=body)
    query = """
    query ($cursor: String) {
      streamSessions(conversationId: "con_graphql", status: "ok", limit: 2, cursor: $cursor) {
        sessions { sessionId model ttftS outputTokens memPeakBytes seed }
        next
      }
    }"""
    page = data(http, query)["streamSessions"]
    more = data(http, query, cursor=page["next"])["streamSessions"]
    ids = {row["sessionId"] for row in page["sessions"] + more["sessions"]}
    assert len(ids) == 3
    assert more["next"] is None
    assert all(row["ttftS"] > 0 for row in page["sessions"])
    talk = data(http, '{ conversation(id: "con_graphql") { messages { role content } } }')
    assert talk["conversation"]["messages"][0] == {"role": "user", "content": "Hi"}
    health = data(http, "{ health { status ready parts { name status reason details } } }")
    assert {"store", "scripted"} <= {part["name"] for part in health["health"]["parts"]}
    queue = data(http, "{ queue { streams { phase } waiting { position } residents { model } } }")
    assert queue["queue"]["streams"] == queue["queue"]["waiting"] == []
    assert data(http, "{ benchmarkRuns { runs { runId } next } }")["benchmarkRuns"]["runs"] == []
    for wrong in ("limit: 0", "limit: 100000", 'cursor: "x"', 'status: "odd"', 'since: "soon"'):
        (error,) = errors(http, f"{{ streamSessions({wrong}) {{ next }} }}")
        assert error["extensions"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("model", ["scripted/chunks", TINY])
def test_a_subscription_tells_the_whole_answer(server: LiveServer, model: str) -> None:
    with socket(server) as connection:
        options = {"maxTokens": 16, "seed": 4, "temperature": 0.5}
        told = [
            message["payload"]["data"]["streamMessage"]
            for message in subscribe(connection, model=model, message="Hi", options=options)
        ]
    assert told[0]["type"] == "session"
    final = told[-1]
    assert final["type"] == "done"
    assert final["session"]["seed"] == 4
    assert final["session"]["source"] == "graphql"
    text = "".join(event["text"] for event in told if event["type"] == "token")
    assert final["session"]["text"] == text != ""
    assert [event["number"] for event in told] == sorted({event["number"] for event in told})


def test_errors_of_a_subscription(server: LiveServer) -> None:
    with socket(server) as connection:
        *_, last = subscribe(connection, model="scripted/error", message="Hi")
        event = last["payload"]["data"]["streamMessage"]
        assert (event["type"], event["error"]["code"]) == ("error", "INTERNAL")
        for wrong in (
            {"message": "Hi", "options": {"topP": 7.0}},
            {"message": "Hi", "timeouts": {"totalS": -1.0}},
        ):
            (refused,) = subscribe(connection, model="scripted/chunks", **wrong)
            payload = refused["payload"]
            (error,) = payload if isinstance(payload, list) else payload["errors"]
            assert error["extensions"]["code"] == "INVALID_REQUEST"


def test_leaving_or_terminating_stops_the_work(server: LiveServer, http: httpx.Client) -> None:
    with socket(server) as connection:
        told = subscribe(connection, model="scripted/stall", message="Hi")
        first = next(told)["payload"]["data"]["streamMessage"]["sessionId"]
    while data(http, "{ queue { streams { sessionId } } }")["queue"][
        "streams"
    ]:  # pytest-timeout bounds it
        pass
    row = http.get(f"/api/v1/sessions/{first}").json()
    assert (row["status"], row["termination_reason"]) == ("cancelled", "disconnect")

    stop = "mutation ($id: String!) { terminateStream(id: $id) { cancelled } }"
    with socket(server) as connection:
        told = subscribe(connection, model="scripted/stall", message="Hi")
        second = next(told)["payload"]["data"]["streamMessage"]["sessionId"]
        assert data(http, stop, id=second)["terminateStream"] == {"cancelled": True}
        *_, last = told
    session = last["payload"]["data"]["streamMessage"]["session"]
    assert (session["status"], session["termination_reason"]) == ("cancelled", "user")
    assert data(http, stop, id=second)["terminateStream"] == {"cancelled": False}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("{ availableModels { nonsense } }", "nonsense"),
        ("{ availableModels { id ", "Syntax"),
        ("{" + " ".join(f"a{i}: queue {{ nextVictims }}" for i in range(30)) + "}", "aliases"),
        ("{ queue { " + "nextVictims " * 3000 + "} }", "tokens"),
        ("{ __schema { types { fields { type { name } } } } }", ""),
    ],
)
def test_bounds_and_mistakes(http: httpx.Client, query: str, said: str) -> None:
    body = ask(http, query)
    if not said:
        assert "errors" not in body, "introspection is on unless it is switched off"
        return
    assert said in body["errors"][0]["message"]
    extensions = body["errors"][0]["extensions"]
    assert extensions["code"] == "INVALID_REQUEST"
    assert extensions["fix"]
    assert extensions["correlation_id"].startswith("cor_")


def test_introspection_can_be_switched_off(
    server: LiveServer, http: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert data(http, get_introspection_query())["__schema"]
    folder = tmp_path_factory.mktemp("closed")
    closed = {
        "WORKBENCH_GRAPHQL_INTROSPECTION": "false",
        "WORKBENCH_GRAPHQL_MAX_DEPTH": "1",
        "WORKBENCH_API_KEY": "secret",
    }
    with LiveServer(folder, **closed) as other, other.client() as keyed:
        (error, *_) = errors(keyed, "{ __schema { types { name } } }")
        assert "introspection" in error["message"]
        (error,) = errors(keyed, "{ streamSessions { sessions { model } } }")
        assert "depth" in error["message"]
        assert "WORKBENCH_GRAPHQL_MAX_DEPTH" in error["extensions"]["fix"]
        assert "availableModels" not in json.dumps(errors(keyed, "{ availableModel { id } }"))
        assert "StreamSession" not in keyed.get("/graphql").text
        with pytest.raises(InvalidStatus), connect(other.url.replace("http", "ws") + "/graphql"):
            pass


def test_pages_load_nothing_from_elsewhere(http: httpx.Client) -> None:
    for path, said in (("/graphql", "availableModels"), ("/api/docs", "/v1/chat/completions")):
        page = http.get(path)
        assert page.status_code == 200
        assert said in page.text
        assert "src=" not in page.text
        assert "<link" not in page.text
        policy = page.headers["content-security-policy"]
        assert "http" not in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
    assert http.put("/graphql").status_code == 405


def test_a_query_is_never_logged(http: httpx.Client, server: LiveServer) -> None:
    """It may hold a prompt, which the library's own log of errors would quote."""
    secret = "the-secret-word-of-a-prompt"
    for query in (
        f'{{ conversation(id: "{secret}") {{ title }} }}',
        f'{{ conversation(id: "{secret}") {{ nonsense }} }}',
        f'{{ conversation(id: "{secret}" ',
    ):
        assert errors(http, query)
    with socket(server) as connection:
        message = f'subscription {{ streamMessage(input: {{model: "x/y", message: "{secret}"}}) '
        payload = {"query": message + "{ seq } }"}
        connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        assert json.loads(connection.recv(timeout=30))["type"] in ("error", "next")
    assert secret not in server.read_log()
