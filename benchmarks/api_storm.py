"""Clients that leave at any moment, and far more of them than the machine has cores.

    python -m benchmarks.api_storm [--disconnects 1000] [--clients 512] [--turns 3] [--defaults]

Against a real server with a real (tiny, random) Hugging Face model in a worker process and the
scripted schedules. Two questions:

1. Clients hang up in every phase. Is each one's work stopped within a second, its row written as
   ``cancelled``, its place free again?
2. All clients come at once. Does every one get an answer or an honest refusal (429 or 503 with
   ``Retry-After``) in time, does none hang, and does the server's memory come back?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent
LONG = (("huggingface/tiny", 1500), ("scripted/stall", 512), ("scripted/steady", 512))
"""Models and lengths whose answers outlast the patience of the clients that leave."""
SHORT = (("huggingface/tiny", 16), ("scripted/steady", 8), ("scripted/chunks", 16))
PATIENCE_S = 1.4
"""Clients leave after a random time of at most this; the shortest long answer takes 1.6 s."""
HANG_S = 120.0


@dataclass(frozen=True)
class Server:
    """Where the server is, and its owner's token."""

    port: int
    token: str
    pid: int

    def get(self, path: str) -> httpx.Response:
        """An answer as the owner."""
        return httpx.get(
            f"http://127.0.0.1:{self.port}{path}",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
            trust_env=False,
        )

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of the log."""
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/api/v1/query",
            headers={"Authorization": f"Bearer {self.token}"},
            json={"sql": sql, "limit": 10_000},
            timeout=60,
            trust_env=False,
        )
        return list(answer.raise_for_status().json()["rows"])

    def busy(self) -> int:
        """Requests that run or wait, by its own metrics."""
        lines = self.get("/metrics").text.splitlines()
        return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if _gauge(line)))

    def memory_bytes(self) -> int:
        """What the server's own process holds for itself."""
        return int(psutil.Process(self.pid).memory_full_info().uss)


def _gauge(line: str) -> bool:
    return line.startswith(("workbench_num_requests_running{", "workbench_num_requests_waiting{"))


@dataclass
class Answer:
    """What one client got: status (0: the connection broke), seconds until it was whole."""

    status: int
    seconds: float
    whole: bool = True
    retry_after: bool = False


@dataclass
class Storm:
    """What all clients of one turn got."""

    answers: list[Answer] = field(default_factory=list)
    alive_s: list[float] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        """How many got which."""
        return Counter(answer.status for answer in self.answers)


def _request(server: Server, model: str, tokens: int, correlation_id: str) -> bytes:
    options = {"max_tokens": tokens, "temperature": 0.0}
    body = json.dumps({"model": model, "message": "Tell me a story.", "options": options}).encode()
    return (
        f"POST /api/v1/stream-message HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"X-Correlation-ID: {correlation_id}\r\nConnection: close\r\n\r\n"
    ).encode() + body


async def leave(server: Server, model: str, tokens: int, name: str, wait_s: float) -> float:
    """Ask and hang up after ``wait_s``, politely or with a reset; the wall time of leaving."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(_request(server, model, tokens, name))
    await writer.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await reader.read()
    if random.random() < 0.5:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left = time.time()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return left


async def disconnects(
    server: Server, count: int, models: Sequence[tuple[str, int]] = LONG, together: int = 24
) -> dict[str, float]:
    """Wall times of leaving by correlation id; at most ``together`` clients are there at once."""
    gate = asyncio.Semaphore(together)
    left: dict[str, float] = {}

    async def one(number: int) -> None:
        async with gate:
            model, tokens = models[number % len(models)]
            name = f"leave-{number}"
            wait_s = random.uniform(0.0, PATIENCE_S)
            left[name] = await leave(server, model, tokens, name, wait_s)

    await asyncio.gather(*(one(number) for number in range(count)))
    return left


def account(server: Server, left: dict[str, float]) -> dict[str, Any]:
    """What became of the work of clients that left; waits until the server is idle."""
    started = time.monotonic()
    while server.busy() and time.monotonic() - started < 30:
        time.sleep(0.02)
    idle_s = time.monotonic() - started
    rows = server.query(
        "SELECT s.correlation_id, s.status, s.termination_reason, "
        "epoch(s.created_at) + l.wall_s, s.sent_ns IS NOT NULL, s.first_any_ns IS NOT NULL "
        "FROM stream_sessions s JOIN latencies l USING (session_id) "
        "WHERE s.correlation_id LIKE 'leave-%'"
    )
    cancelled = [row for row in rows if row[1] == "cancelled"]
    late = sorted(row[3] - left[row[0]] for row in cancelled)
    phases = Counter(
        "decoding" if row[5] else "prompt" if row[4] else "queue or load" for row in cancelled
    )
    return {
        "clients": len(left),
        "rows": len(rows),
        "never_a_session": len(left) - len(rows),
        "statuses": dict(Counter(f"{row[1]}/{row[2]}" for row in rows)),
        "phases": dict(phases),
        "stopped_after_s": {
            "p50": _at(late, 0.5),
            "p99": _at(late, 0.99),
            "max": late[-1] if late else None,
        },
        "idle_after_s": idle_s,
        "busy": server.busy(),
    }


def _at(ordered: Sequence[float], share: float) -> float | None:
    return ordered[round(share * (len(ordered) - 1))] if ordered else None


async def _client(server: Server, number: int, models: Sequence[tuple[str, int]]) -> Answer:
    model, tokens = models[number % len(models)]
    started = time.monotonic()
    try:
        async with asyncio.timeout(HANG_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(_request(server, model, tokens, f"storm-{number}"))
            text = await reader.read()
            writer.close()
    except TimeoutError:
        return Answer(-1, time.monotonic() - started, whole=False)
    except OSError:
        return Answer(0, time.monotonic() - started, whole=False)
    head, _, body = text.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
    if status == 200 and b"QUEUE_FULL" in body:
        status = 503  # told in the stream, which had begun
    ended = b"event: done" in body or b"event: error" in body or status >= 400
    again = b"retry-after" in head.lower() or b"retry_after_s" in body
    return Answer(status, time.monotonic() - started, whole=ended, retry_after=again)


async def storm(server: Server, clients: int, models: Sequence[tuple[str, int]] = SHORT) -> Storm:
    """All clients at once; somebody asks meanwhile whether the server lives."""
    found = Storm()
    over = asyncio.Event()

    async def watch() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            while not over.is_set():
                started = time.monotonic()
                with suppress(httpx.HTTPError):
                    await http.get(f"http://127.0.0.1:{server.port}/health/live")
                    found.alive_s.append(time.monotonic() - started)
                await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    found.answers = await asyncio.gather(*(_client(server, n, models) for n in range(clients)))
    over.set()
    await watching
    return found


def summary(found: Storm) -> dict[str, Any]:
    """Figures of one turn."""
    answered = sorted(answer.seconds for answer in found.answers if answer.status == 200)
    refused = sorted(answer.seconds for answer in found.answers if answer.status in (429, 503))
    alive = sorted(found.alive_s)
    return {
        "statuses": {str(status): count for status, count in sorted(found.statuses.items())},
        "cut_short": sum(not answer.whole for answer in found.answers),
        "refused_without_retry_after": sum(
            answer.status in (429, 503) and not answer.retry_after for answer in found.answers
        ),
        "answered_s": {"p50": _at(answered, 0.5), "max": answered[-1] if answered else None},
        "refused_s": {"p50": _at(refused, 0.5), "max": refused[-1] if refused else None},
        "alive_s": {"p50": _at(alive, 0.5), "max": alive[-1] if alive else None},
    }


def start(folder: Path, **environment: str) -> tuple[subprocess.Popen[str], Server]:
    """A server with a tiny model of its own; wait until it listens."""
    from tests.hf.tiny import save_model

    save_model(folder / "models" / "tiny")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "HF_"))}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py")],
        env={
            **kept,
            "WORKBENCH_DB": str(folder / "workbench.duckdb"),
            "WORKBENCH_PORT": str(port),
            "WORKBENCH_OFFLINE": "true",
            "HF_MODEL_PATH": str(folder / "models"),
            "HF_HUB_CACHE": str(folder / "hub"),
            "OLLAMA_HOST": "127.0.0.1:9",
            "WORKBENCH_THREADS": "1",
            "HF_MODEL_TIMEOUT_MS": "120000",
            **environment,
        },
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=(folder / "server.log").open("w"),
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    token = json.loads((folder / "server.json").read_text())["token"]
    return process, Server(port, token, process.pid)


def main() -> None:
    """Run both, print what was found, JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--disconnects", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--defaults",
        action="store_true",
        help="the limits on one address as they are; else all clients are let in to the queue",
    )
    chosen = parser.parse_args()
    wide = {} if chosen.defaults else {"CLIENT_CONNECTIONS": "2000", "MAX_REQUESTS": "2000"}
    wide["RATE_LIMIT"] = "1000"  # one machine plays all clients
    settings = {f"WORKBENCH_{name}": value for name, value in wide.items()}
    random.seed(1)
    report: dict[str, Any] = {"cores": os.cpu_count(), "settings": settings}
    with tempfile.TemporaryDirectory() as name:
        process, server = start(Path(name), HF_MAX_BATCH="8", **settings)
        try:
            asyncio.run(storm(server, 6))  # models in memory, code warm
            left = asyncio.run(disconnects(server, chosen.disconnects))
            report["disconnects"] = account(server, left)
            print(json.dumps(report["disconnects"], indent=1), flush=True)
            report["memory_before_bytes"] = server.memory_bytes()
            report["storms"] = []
            for _ in range(chosen.turns):
                turn = summary(asyncio.run(storm(server, chosen.clients)))
                while server.busy():
                    time.sleep(0.05)
                time.sleep(6)  # idle connections are closed after five seconds
                turn["memory_after_bytes"] = server.memory_bytes()
                report["storms"].append(turn)
                print(json.dumps(turn), flush=True)
            after = asyncio.run(storm(server, len(SHORT)))
            report["well_afterwards"] = dict(after.statuses) == {200: len(SHORT)}
            report["health"] = server.get("/health").json()["parts"]["store"]
        finally:
            process.send_signal(signal.SIGTERM)
            report["exit"] = process.wait(60)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
