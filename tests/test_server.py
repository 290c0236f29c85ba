"""The running server, over real HTTP."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, free_port, run_cli
from workbench import Workbench
from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import DoneEvent, TokenEvent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("server")) as running:
        yield running


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def test_health_names_every_part(server: LiveServer) -> None:
    with server.client() as http:
        assert http.get("/health/live").json() == {"status": "ok"}
        health = http.get("/health").json()
    assert health["status"] == "degraded", "Ollama is missing; the rest works"
    assert health["parts"]["ollama"]["reason"].startswith("OLLAMA_UNREACHABLE")
    assert health["parts"]["store"]["status"] == "ok"
    assert {"huggingface", "memory", "disk", "scripted"} <= health["parts"].keys()


def test_the_log_is_verified_beside_the_server(server: LiveServer) -> None:
    with server.client() as http:
        answer = http.post("/api/v1/generate", json={"model": "scripted/chunks", "message": "hi"})
        assert answer.status_code == 200
        verdict = http.get("/api/v1/log/verify").json()
    assert verdict["ok"], verdict
    assert {check["check"] for check in verdict["checks"]} >= {"blocks", "sequence", "spool"}


def test_page_answers(server: LiveServer) -> None:
    with server.client() as http:
        page = http.get("/")
    assert page.status_code == 200
    assert "Workbench" in page.text


def test_stream_message_tells_the_whole_story(server: LiveServer) -> None:
    body = {"model": "scripted/chunks", "message": "Hi", "options": {"seed": 5}}
    with server.client() as http, http.stream("POST", "/api/v1/stream-message", json=body) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        assert got.headers["x-correlation-id"]
        told = list(events(got))
    kinds = [event["type"] for event in told]
    assert kinds[0] == "session"
    assert kinds[-1] == "done"
    text = "".join(event["text"] for event in told if event["type"] == "token")
    final = told[-1]["session"]
    assert final["text"] == text != ""
    assert final["status"] == "ok"
    assert final["seed"] == 5
    assert final["ttft_s"] > 0
    assert final["correlation_id"] == got.headers["x-correlation-id"]


def test_compare_names_the_pane_of_each_event(server: LiveServer) -> None:
    body = {"models": ["scripted/chunks", "nothing-like-this"], "message": "Hi"}
    with server.client() as http, http.stream("POST", "/api/v1/compare", json=body) as got:
        last = {event["pane"]: event for event in events(got)}
    assert last[0]["type"] == "done"
    assert last[1]["type"] == "error"
    assert last[1]["error"]["code"] == "MODEL_NOT_FOUND"


def wait_for_row(http: httpx.Client, session_id: str) -> list[Any]:
    sql = "SELECT status, termination_reason FROM stream_sessions WHERE session_id = $id"
    while True:  # pytest-timeout bounds it
        body = http.post("/api/v1/query", json={"sql": sql, "params": {"id": session_id}}).json()
        if body["rows"]:
            return list(body["rows"][0])


def test_cancel_and_disconnect_stop_the_work(server: LiveServer) -> None:
    body = {"model": "scripted/stall", "message": "Hi"}
    with server.client() as http:
        with http.stream("POST", "/api/v1/stream-message", json=body) as got:
            told = []
            for event in events(got):
                told.append(event)
                if event["type"] == "token" and event["seq"] == 0:
                    with server.client() as other:
                        answer = other.delete(f"/api/v1/streams/{event['session_id']}")
                    assert answer.json() == {"cancelled": True}
        assert told[-1]["session"]["status"] == "cancelled"

        with http.stream("POST", "/api/v1/stream-message", json=body) as got:
            session_id = next(events(got))["session_id"]
        assert wait_for_row(http, session_id) == ["cancelled", "disconnect"]
        assert http.delete(f"/api/v1/streams/{session_id}").json() == {"cancelled": False}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"message": "Hi"}, 422, "INVALID_REQUEST"),
        ({"model": "scripted/chunks", "message": "Hi", "extra": 1}, 422, "INVALID_REQUEST"),
        (
            {"model": "scripted/chunks", "message": "Hi", "options": {"top_p": 2}},
            422,
            "INVALID_REQUEST",
        ),
        (
            {"model": "a", "message": "Hi", "history": [{"role": "root", "content": ""}]},
            422,
            "INVALID_REQUEST",
        ),
        ({"model": "a", "message": "Hi", "timeouts": {"total_s": -1}}, 422, "INVALID_REQUEST"),
        ({"model": "a", "message": "Hi", "timeouts": {"nap_s": 1}}, 422, "INVALID_REQUEST"),
    ],
)
def test_bad_bodies_are_problems(
    server: LiveServer, body: dict[str, Any], status: int, code: str
) -> None:
    with server.client() as http:
        got = http.post("/api/v1/stream-message", json=body)
    assert got.status_code == status
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json()["code"] == code
    assert got.json()["correlation_id"] == got.headers["x-correlation-id"]


def test_unknown_model_is_a_404(server: LiveServer) -> None:
    with server.client() as http:
        got = http.post("/api/v1/models/load", json={"model": "no-such-model"})
    assert got.status_code == 404
    assert got.json()["code"] == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_foreign_pages_are_kept_out(server: LiveServer, headers: dict[str, str]) -> None:
    with server.client() as http:
        for path in ("/", "/api/v1/models"):
            assert http.get(path, headers=headers).status_code == 403


def test_log_is_for_the_owner_only(server: LiveServer) -> None:
    got = httpx.post(f"{server.url}/api/v1/query", json={"sql": "SELECT 1"}, trust_env=False)
    assert got.status_code == 401
    file = server.folder / "server.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_facade_is_the_same_over_http(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Events, figures and frames of a server equal those of an engine in this process."""
    monkeypatch.setenv("WORKBENCH_DB", server.environment["WORKBENCH_DB"])
    with Workbench() as remote, Workbench(workbench_db=tmp_path / "own.duckdb") as local:
        assert remote.remote
        assert not local.remote
        frames = []
        for wb in (remote, local):
            told = list(wb.stream("scripted/chunks", "Hi", seed=1))
            assert isinstance(told[-1], DoneEvent)
            assert any(isinstance(event, TokenEvent) for event in told)
            frame = wb.compare(["scripted/chunks"], "Hi", show=False)
            assert frame.status.tolist() == ["ok"]
            frames.append(
                wb.sql(
                    "SELECT * FROM latencies WHERE comparison_id = $id",
                    {"id": frame.comparison_id.iloc[0]},
                )
            )
            with pytest.raises(WorkbenchError) as caught:
                wb.sql("DELETE FROM errors")
            assert caught.value.code is ErrorCode.INVALID_REQUEST
            with pytest.raises(WorkbenchError, match="prompt is empty"):
                list(wb.stream("scripted/chunks", " "))
    assert frames[0].dtypes.astype(str).to_dict() == frames[1].dtypes.astype(str).to_dict()


def test_second_server_says_why_it_cannot_start(server: LiveServer) -> None:
    elsewhere = {**server.environment, "WORKBENCH_PORT": str(free_port())}
    done = run_cli("serve", "--port", str(server.port), env=elsewhere)  # wins over the variable
    assert done.returncode == 1
    assert "PORT_IN_USE" in done.stderr
    assert f"127.0.0.1:{server.port}" in done.stderr
    assert "WORKBENCH_PORT" in done.stderr


def test_open_address_needs_a_key(tmp_path: Path) -> None:
    done = run_cli(
        "serve",
        "--host",
        "0.0.0.0",
        env={**os.environ, "WORKBENCH_DB": str(tmp_path / "x.duckdb")},
    )
    assert done.returncode == 1
    assert "WORKBENCH_API_KEY" in done.stderr
    assert not (tmp_path / "x.duckdb").exists()


def test_an_address_for_all_is_told_as_one_that_a_browser_can_open(tmp_path: Path) -> None:
    with LiveServer(tmp_path, WORKBENCH_HOST="0.0.0.0", WORKBENCH_API_KEY="key") as server:
        assert f"at {server.url} (it listens on all interfaces" in server.said
        assert "WORKBENCH_API_KEY" in server.said
        assert server.announced()["url"] == server.url


def test_cli_works_beside_the_server(server: LiveServer) -> None:
    done = server.cli("compare", "-m", "scripted/chunks", "Hi", "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    sql = f"SELECT source, status FROM latencies WHERE session_id = '{answer['session_id']}'"
    rows = json.loads(server.cli("db", "query", sql, "--json").stdout)
    assert rows == [{"source": "cli", "status": "ok"}]
    assert "latencies (view)" in server.cli("db", "tables").stdout


def test_pin_and_queue_from_every_face(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DB", server.environment["WORKBENCH_DB"])
    with server.client() as http:
        assert http.post("/api/v1/models/pin", json={"model": "scripted/chunks"}).is_success
        seen = http.get("/api/v1/queue").json()
    (resident,) = [one for one in seen["residents"] if one["model"] == "scripted/chunks"]
    assert resident["pinned"]
    assert resident["expires_in_s"] is None
    assert "host" in seen["limit_bytes"]
    assert seen["waiting"] == []
    shown = server.cli("queue").stdout
    assert "scripted/chunks" in shown
    assert "pinned" in shown
    assert "Nobody waits (at most 64, 32 for one model)." in shown
    assert server.cli("models", "unpin", "scripted/chunks").returncode == 0
    with Workbench() as wb:
        body = {"model": "scripted/chunks", "message": "Hi", "priority": "benchmark"}
        with server.client() as http:
            assert http.post("/api/v1/generate", json=body).is_success
        (after,) = [one for one in wb.queue().residents if one.model == "scripted/chunks"]
        assert not after.pinned
        with pytest.raises(WorkbenchError, match="priority 'urgent' is unknown"):
            list(wb.stream("scripted/chunks", "Hi", priority="urgent"))  # type: ignore[arg-type]
    events = json.loads(
        server.cli("db", "query", "SELECT event FROM model_events", "--json").stdout
    )
    assert {"pin", "unpin"} <= {row["event"] for row in events}


def test_stopped_server_leaves_no_trace(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        with server.client() as http:
            body = {"model": "scripted/stall", "message": "Hi"}
            with http.stream("POST", "/api/v1/stream-message", json=body) as got:
                next(events(got))
                server.stop()
        assert not (tmp_path / "server.json").exists()
        rows = json.loads(
            server.cli("db", "query", "SELECT status FROM latencies", "--json").stdout
        )
    assert rows == [{"status": "cancelled"}]
    for line in server.read_log().splitlines():
        json.loads(line)  # the log is JSON, line by line


def test_pin_and_unpin_say_what_they_did(server: LiveServer) -> None:
    assert "stays there until" in server.cli("models", "pin", "scripted/chunks").stdout
    assert "may be evicted" in server.cli("models", "unpin", "scripted/chunks").stdout
    assert "had no pin" in server.cli("models", "unpin", "scripted/chunks").stdout
    assert "unloaded in" in server.cli("models", "unload", "scripted/chunks").stdout
    assert "was not in memory" in server.cli("models", "unload", "scripted/chunks").stdout
