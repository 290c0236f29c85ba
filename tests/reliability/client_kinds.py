"""What clients do: they leave, they stall, they send what makes no sense."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from tests.reliability.asking import Leave, Told, until
from tests.reliability.kinds import Case, Kind
from tests.reliability.stage import HUGGING_FACE, MODELS, OLLAMA, QUESTION, SCRIPTED


def client(name: str, how: str, inject: Any, *expects: str, **more: Any) -> Kind:
    """A fault of a client."""
    models = more.pop("models", MODELS)
    return Kind(name, "clients", how, frozenset(expects), inject, models, **more)


def leaves(when: str) -> Any:
    """One who hangs up at the first event of a type."""

    async def inject(case: Case) -> None:
        async def listen(kind: str, told: Told) -> None:
            if kind == when:
                raise Leave

        await case.ask(tokens=2000, on_event=listen)

    return inject


async def leaves_at_random(case: Case) -> None:
    asking = asyncio.create_task(case.ask(tokens=2000, model=case.model))
    await asyncio.sleep(case.chance.uniform(0, 0.1))
    asking.cancel()
    await asyncio.wait([asking])
    told = next(told for told in reversed(case.stage.users.asked) if told.model == case.model)
    told.left = True
    if not case.victims:
        told.outcome = "left"
        case.victims.append(told)


async def stopped(case: Case) -> None:
    """Stopped by another client."""

    async def listen(kind: str, told: Told) -> None:
        if kind == "token" and told.events < 50:
            await case.stage.users.http.delete(f"/api/v1/streams/{told.session_id}")

    await case.ask(tokens=2000, on_event=listen)


async def never_reads(case: Case) -> None:
    """Asks for much, reads nothing, and is reset at last; nobody else may wait for it."""
    server = case.stage.server
    raw = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    told = Told(f"rel-slow-{case.number}", case.model, "left", left=True)
    body = json.dumps({"model": case.model, "message": QUESTION, "options": {"max_tokens": 500}})
    raw.sendall(
        f"POST /api/v1/stream-message HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"X-Correlation-ID: {told.correlation_id}\r\n\r\n{body}".encode()
    )
    await asyncio.sleep(0.05)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    case.victims.append(told)
    case.stage.users.asked.append(told)


async def half_a_body(case: Case) -> None:
    """Announces more than it sends, and waits."""
    server = case.stage.server
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /api/v1/stream-message HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    writer.write(
        f'{head}Content-Type: application/json\r\nContent-Length: 90\r\n\r\n{{"mo'.encode()
    )
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    case.note(problem["code"], problem["message"], problem["fix"])


def refused(path: str, body: Mapping[str, Any] | bytes) -> Any:
    """A request that is refused before it becomes a session."""

    async def inject(case: Case) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        content = content.replace(b"MODEL", case.model.encode())
        headers = {"Content-Type": "application/json"}
        answer = await case.stage.users.http.post(path, content=content, headers=headers)
        problem = answer.json()
        case.note(problem["code"], problem["message"], problem["fix"])

    return inject


async def unknown_model(case: Case) -> None:
    provider = case.model.partition("/")[0]
    await case.ask(model=f"{provider}/nobody-has-this")


async def unknown_stream(case: Case) -> None:
    answer = await case.stage.users.http.get("/api/v1/streams/ses_nobody/events")
    problem = answer.json()
    case.note(problem["code"], problem["message"], problem["fix"])


async def comes_back(case: Case) -> None:
    """Loses its connection in the middle and reads the rest by number: nothing is missing."""
    told = Told("", case.model)

    async def listen(kind: str, told: Told) -> None:
        if kind == "token":
            raise Leave

    lost = await case.ask(tokens=40, detach=True, on_event=listen)
    users = case.stage.users
    path = f"/api/v1/streams/{lost.session_id}/events"
    async with users.http.stream("GET", path, params={"after": 0}) as response:
        from tests.reliability.asking import take

        async for text in response.aiter_lines():
            if text.startswith("data:"):
                take(told, json.loads(text.removeprefix("data:")))
    case.victims[:] = [told]
    told.fix = "-"
    whole = await users.ask(case.model, f"{case.mark} {QUESTION}", 40)
    assert told.text == whole.text, f"read in two parts: {told.text!r}, at once: {whole.text!r}"


async def never_comes_back(case: Case) -> None:
    """Says that it will come back, and does not: its work ends after the grace."""

    async def listen(kind: str, told: Told) -> None:
        if kind == "token":
            raise Leave

    told = await case.ask(tokens=100_000, detach=True, on_event=listen)
    users = case.stage.users

    async def over() -> bool:
        streams = (await users.get("/api/v1/streams"))["streams"]
        return all(one["session_id"] != told.session_id for one in streams)

    await until(over, "the work of a client that never came back ends", 30)


ANSWERING = (*HUGGING_FACE, *OLLAMA)

KINDS = [
    client("leaves-at-once", "hangs up at the first event", leaves("session"), "left", "ok"),
    client("leaves-in-prompt", "hangs up while the prompt is read", leaves("prompt"), "left", "ok"),
    client("leaves-in-answer", "hangs up at the first word", leaves("token"), "left", "ok"),
    client("leaves-anywhere", "hangs up after 0 to 100 ms", leaves_at_random, "left", "ok"),
    client("stopped", "another client stops the answer", stopped, "cancelled", "ok"),
    client("never-reads", "reads nothing and resets", never_reads, "left"),
    client("half-a-body", "sends half of its request", half_a_body, "REQUEST_TIMEOUT",
           models=SCRIPTED, quick=False, weight=0.2),
    client("no-json", "a body that is no JSON",
           refused("/api/v1/stream-message", b'{"model": '), "INVALID_REQUEST"),
    client("unknown-field", "a field that there is not",
           refused("/api/v1/stream-message", {"model": "MODEL", "message": "x", "n": 2}),
           "INVALID_REQUEST"),
    client("unknown-option", "an option that there is not",
           refused("/api/v1/generate", {"model": "MODEL", "message": "x", "options": {"x": 1}}),
           "INVALID_REQUEST"),
    client("empty-prompt", "a prompt without a word",
           refused("/api/v1/generate", {"model": "MODEL", "message": "  "}), "INVALID_REQUEST"),
    client("too-large", "a body of 9 MB",
           refused("/api/v1/generate", b"x" * (9 * 2**20)), "TOO_LARGE", weight=0.1),
    client("unknown-model", "a model that its provider does not have", unknown_model,
           "HF_MODEL_NOT_FOUND", "OLLAMA_MODEL_NOT_FOUND", "MODEL_NOT_FOUND"),
    client("unknown-stream", "asks for a stream that there is not", unknown_stream,
           "STREAM_NOT_FOUND"),
    client("comes-back", "loses its connection and reads the rest", comes_back, "ok",
           models=ANSWERING, weight=0.3),
    client("never-comes-back", "says that it will come back, and does not", never_comes_back,
           "left", models=HUGGING_FACE, quick=False, weight=0.1),
]  # fmt: skip
