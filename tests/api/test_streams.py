"""Answers over REST: whole, streamed, lost and taken up again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import TINY
from tests.live import LiveServer

STEADY = {"model": "scripted/steady", "message": "Hi"}


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def events(answer: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for line in answer.iter_lines():
        if line.startswith("id:"):
            number = int(line.removeprefix("id:"))
        elif line.startswith("data:"):
            yield number, json.loads(line.removeprefix("data:"))


def text(told: list[tuple[int, dict[str, Any]]]) -> str:
    return "".join(event["text"] for _, event in told if event["type"] == "token")


def cut(http: httpx.Client, path: str, body: dict[str, Any], tokens: int) -> Any:
    """Read a stream up to some tokens and drop the connection; what was read, and the id."""
    told: list[tuple[int, dict[str, Any]]] = []
    with http.stream("POST", path, json=body) as got:
        for item in events(got):
            told.append(item)
            if sum(event["type"] == "token" for _, event in told) == tokens:
                return told, got.headers["x-stream-id"]
    raise AssertionError("the stream ended too soon")


def rest(http: httpx.Client, stream_id: str, after: int, **headers: str) -> Any:
    url = f"/api/v1/streams/{stream_id}/events"
    params = {} if headers else {"after": after}
    with http.stream("GET", url, params=params, headers=headers) as got:
        assert got.status_code == 200
        return list(events(got))


def test_a_whole_answer(http: httpx.Client) -> None:
    got = http.post(
        "/api/v1/generate",
        json={"model": TINY, "message": "Hi", "options": {"max_tokens": 4, "seed": 3}},
    )
    assert got.status_code == 200
    body = got.json()
    assert body["status"] == "ok"
    assert body["text"]
    assert body["output_tokens"] == 4
    assert body["seed"] == 3
    assert body["ttft_s"] > 0
    assert got.headers["x-session-id"] == body["session_id"]
    failed = http.post("/api/v1/generate", json={"model": "scripted/error", "message": "Hi"})
    assert failed.status_code == 500
    assert failed.json()["code"] == "INTERNAL"
    assert http.post("/api/v1/generate", json={"model": "x", "message": ""}).status_code == 422


@pytest.mark.parametrize("by_header", [False, True])
def test_a_lost_stream_is_taken_up_where_it_was_left(http: httpx.Client, by_header: bool) -> None:
    body = {**STEADY, "detach": True}
    told, stream_id = cut(http, "/api/v1/stream-message", body, 5)
    number = told[-1][0]
    headers = {"Last-Event-ID": str(number)} if by_header else {}
    more = rest(http, stream_id, number, **headers)
    numbers = [n for n, _ in told + more]
    assert numbers == sorted(set(numbers))
    final = more[-1][1]
    assert final["type"] == "done"
    assert final["session"]["status"] == "ok"
    assert text(told + more) == final["session"]["text"]
    # Again from the beginning, after its end; it is kept for a while.
    again = rest(http, stream_id, 0)
    assert text(again) == final["session"]["text"]
    assert again[-1][1] == final
    assert rest(http, stream_id, again[-1][0]) == []


def test_two_readers_of_one_stream(http: httpx.Client, server: LiveServer) -> None:
    """The second one keeps the work alive when the first one leaves."""
    with http.stream("POST", "/api/v1/stream-message", json=STEADY) as first:
        stream_id = first.headers["x-stream-id"]
        reading = events(first)
        next(reading)
        with server.client() as other:
            url = f"/api/v1/streams/{stream_id}/events"
            with other.stream("GET", url) as second:
                told = [next(iter_second := events(second))]
                first.close()
                told += list(iter_second)
    assert told[-1][1]["session"]["status"] == "ok"


def test_without_detach_a_lost_stream_is_cancelled(http: httpx.Client) -> None:
    told, stream_id = cut(http, "/api/v1/stream-message", STEADY, 2)
    more = rest(http, stream_id, told[-1][0])
    assert more[-1][1]["session"]["status"] == "cancelled"
    assert more[-1][1]["session"]["termination_reason"] == "disconnect"


def test_a_lost_comparison_is_one_stream(http: httpx.Client) -> None:
    body = {"models": ["scripted/steady", "scripted/chunks"], "message": "Hi", "detach": True}
    told, stream_id = cut(http, "/api/v1/compare", body, 3)
    session_id = next(event["session_id"] for _, event in told)
    more = rest(http, session_id, told[-1][0])  # by the comparison's id or a session's
    ends = {event["pane"]: event["session"]["status"] for _, event in more if "session" in event}
    assert ends == {0: "ok", 1: "ok"}
    assert rest(http, stream_id, 0)[-1] == more[-1]


def test_a_stream_is_cancelled_by_its_id(http: httpx.Client) -> None:
    body = {"models": ["scripted/stall", "scripted/stall"], "message": "Hi", "detach": True}
    told, stream_id = cut(http, "/api/v1/compare", body, 2)
    assert http.delete(f"/api/v1/streams/{stream_id}").json() == {"cancelled": True}
    more = rest(http, stream_id, told[-1][0])
    assert [e["session"]["status"] for _, e in more if "session" in e] == ["cancelled"] * 2
    assert http.delete(f"/api/v1/streams/{stream_id}").json() == {"cancelled": False}
    assert http.delete("/api/v1/streams/ses_nobody").json() == {"cancelled": False}


def test_what_cannot_be_taken_up(http: httpx.Client) -> None:
    _, stream_id = cut(http, "/api/v1/stream-message", STEADY, 1)
    url = f"/api/v1/streams/{stream_id}/events"
    for got, status, code in (
        (http.get("/api/v1/streams/ses_nobody/events"), 404, "STREAM_NOT_FOUND"),
        (http.get(url, params={"after": 10**9}), 422, "INVALID_REQUEST"),
        (http.get(url, params={"after": -1}), 422, "INVALID_REQUEST"),
        (http.get(url, headers={"Last-Event-ID": "x"}), 422, "INVALID_REQUEST"),
    ):
        assert (got.status_code, got.json()["code"]) == (status, code)


def test_grace_and_buffer_are_bounded(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bounds")
    bounds = {
        "WORKBENCH_DETACH_GRACE_S": "0.2",
        "WORKBENCH_STREAM_BUFFER": "16",
        "WORKBENCH_STREAMS_KEPT": "1",
    }
    with LiveServer(folder, **bounds) as server, server.client() as http:
        body = {**STEADY, "model": "scripted/stall", "detach": True}
        _, stream_id = cut(http, "/api/v1/stream-message", body, 3)
        until = time.monotonic() + 20
        while http.get("/api/v1/streams").json()["streams"]:  # nobody comes back
            assert time.monotonic() < until, "the grace does not end"
            time.sleep(0.02)
        session = http.get(f"/api/v1/sessions/{stream_id}").json()
        assert (session["status"], session["termination_reason"]) == ("cancelled", "disconnect")

        with http.stream("POST", "/api/v1/stream-message", json=STEADY) as got:
            told = list(events(got))
            stream_id, last = got.headers["x-stream-id"], told[-1][0]
        gone = http.get(f"/api/v1/streams/{stream_id}/events", params={"after": 1})
        assert (gone.status_code, gone.json()["code"]) == (410, "EVENTS_GONE")
        oldest = gone.json()["details"]["oldest"]
        assert 1 < oldest < last
        assert rest(http, stream_id, oldest)[-1][0] == last
        for _ in range(2):  # one ended stream is kept, older ones go
            with http.stream("POST", "/api/v1/stream-message", json=STEADY) as got:
                list(events(got))
        old = http.get(f"/api/v1/streams/{stream_id}/events", params={"after": last})
        assert old.status_code == 404


def test_sessions_in_pages(http: httpx.Client) -> None:
    conversation = "con_pages"
    for _ in range(5):
        body = {"model": "scripted/chunks", "message": "Hi", "conversation_id": conversation}
        http.post("/api/v1/generate", json=body)
    params: dict[str, Any] = {"conversation_id": conversation, "limit": 2}
    seen: list[str] = []
    sizes: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = http.get("/api/v1/sessions", params={**params, "cursor": cursor or None}).json()
        sizes.append(len(page["sessions"]))
        seen += [row["session_id"] for row in page["sessions"]]
        cursor = page["next"]
    assert sizes == [2, 2, 1]
    assert len(set(seen)) == 5
    one = http.get(f"/api/v1/sessions/{seen[0]}").json()
    assert one["prompt"] == "Hi"
    assert one["text"].startswith("The quick")
    assert one["options"]["temperature"] == 0.7
    assert one["ttft_s"] > 0
    talk = http.get(f"/api/v1/conversations/{conversation}").json()
    assert [m["role"] for m in talk["messages"]].count("assistant") == 5
    for params, count in (
        ({"model": "scripted/chunks", "status": "ok"}, 5),
        ({"status": "error"}, 0),
        ({"since": "2999-01-01T00:00:00Z"}, 0),
        ({"until": "2999-01-01T00:00:00"}, 5),
    ):
        found = http.get("/api/v1/sessions", params={**params, "conversation_id": conversation})
        assert len(found.json()["sessions"]) == count
    for params in ({"limit": 0}, {"limit": 10_000}, {"cursor": "x"}, {"status": "odd"}):
        assert http.get("/api/v1/sessions", params=params).status_code == 422
    assert http.get("/api/v1/sessions/ses_nobody").json()["code"] == "SESSION_NOT_FOUND"
    assert http.get("/api/v1/conversations/con_nobody").status_code == 404
