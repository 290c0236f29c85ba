"""Readers, writers and the app on one log at the same time: no lock error, every count right.

    python -m benchmarks.store_clients --seconds 600

Starts a server on a log of its own. Four readers ask it as notebooks do, small and large results in
turns; two writers log sessions and rows of their own as benchmark processes do; streams run in the
app meanwhile. All are processes of their own. Whatever was acknowledged must be in the log at the
end, once; a reader must never see a count go down; nobody must see an error. Prints JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workbench import Workbench

ROOT = Path(__file__).parent.parent
READERS, WRITERS, STREAMS = 4, 2, 2
LARGE_ROWS = 20_000


def reader(wb: Workbench, until: float) -> dict[str, Any]:
    """Ask like a notebook: counts that only grow, aggregates, large results over Quack."""
    seen = queries = large = 0
    slowest_s = 0.0
    while time.time() < until:
        started = time.monotonic()
        count = int(wb.sql("SELECT count(*) AS n FROM stream_sessions").n[0])
        slowest_s = max(slowest_s, time.monotonic() - started)
        if count < seen:
            raise AssertionError(f"the count fell from {seen} to {count}")
        seen = count
        wb.sql("SELECT model, count(*) AS n, avg(ttft_s) FROM latencies GROUP BY model")
        joined = wb.sql(
            "SELECT s.session_id, len(t.t_ns) AS tokens FROM stream_sessions s "
            "LEFT JOIN token_streams t USING (session_id)"
        )
        if joined.tokens.isna().any():
            raise AssertionError("half a session was visible")
        rows = wb.sql(f"SELECT range AS i FROM range({LARGE_ROWS})")
        if len(rows) != LARGE_ROWS:
            raise AssertionError(f"{len(rows)} rows came of {LARGE_ROWS}")
        queries += 4
        large += 1
    return {"queries": queries, "large": large, "count_slowest_s": round(slowest_s, 4)}


def writer(wb: Workbench, until: float) -> dict[str, Any]:
    """Log like a benchmark process: a session, then a few rows, each acknowledged."""
    from tests.store.conftest import make_session
    from workbench.types import Message, new_id

    sessions = rows = 0
    taken: list[float] = []
    while time.time() < until:
        started = time.monotonic()
        wb.log_session(make_session(source="clients"), [Message("user", "hi")])
        taken.append(time.monotonic() - started)
        sessions += 1
        wb.log("errors", *[_row(new_id("err")) for _ in range(5)])
        rows += 5
    taken.sort()
    return {
        "sessions": sessions,
        "rows": rows,
        "ack_p50_ms": round(taken[len(taken) // 2] * 1000, 2),
        "ack_p99_ms": round(taken[len(taken) * 99 // 100] * 1000, 2),
        "ack_max_ms": round(taken[-1] * 1000, 2),
    }


def _row(error_id: str) -> dict[str, Any]:
    return {
        "error_id": error_id,
        "created_at": "2026-01-01T00:00:00+00:00",
        "code": "INTERNAL",
        "message": "of store_clients",
        "details": {},
    }


def streamer(wb: Workbench, until: float) -> dict[str, Any]:
    """Stream through the app, as the page does."""
    streams = 0
    while time.time() < until:
        wb.chat("scripted/chunks", "Hi")
        streams += 1
    return {"streams": streams}


ROLES = {"reader": reader, "writer": writer, "streamer": streamer}


def run(seconds: float) -> dict[str, Any]:
    """Do it, and compare what is in the log with what was acknowledged."""
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        with (
            (Path(folder) / "server.log").open("w+") as log,
            subprocess.Popen(
                [sys.executable, str(ROOT / "app.py")],
                env=environment,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as server,
        ):
            try:
                assert server.stdout is not None
                if "Workbench is at" not in server.stdout.readline():
                    raise SystemExit((Path(folder) / "server.log").read_text())
                return _judge(_clients(seconds, environment), seconds, environment)
            finally:
                server.terminate()


def _environment(folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "HF_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "WORKBENCH_DB": str(folder / "workbench.duckdb"),
        "WORKBENCH_PORT": str(port),
        "WORKBENCH_OFFLINE": "true",
        "WORKBENCH_RATE_LIMIT": "0",
        "OLLAMA_HOST": "127.0.0.1:9",
    }


def _clients(seconds: float, environment: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    wanted = ["reader"] * READERS + ["writer"] * WRITERS + ["streamer"] * STREAMS
    started = [
        (
            role,
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.store_clients", "--role", role],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
        )
        for role in wanted
    ]
    found: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    for _, process in started:  # importing takes longer than a short run
        assert process.stdout is not None
        process.stdout.readline()
    until = time.time() + seconds
    for _, process in started:
        assert process.stdin is not None
        process.stdin.write(f"{until}\n")
        process.stdin.flush()
    for role, process in started:
        out, err = process.communicate(timeout=seconds + 120)
        lines = out.splitlines()
        found[role].append(
            json.loads(lines[-1]) if process.returncode == 0 else {"error": err[-2000:]}
        )
    return found


def _judge(
    found: dict[str, list[dict[str, Any]]], seconds: float, environment: dict[str, str]
) -> dict[str, Any]:
    def total(role: str, name: str) -> int:
        return sum(item.get(name, 0) for item in found[role])

    os.environ.update({k: environment[k] for k in environment if k.startswith("WORKBENCH_")})
    with Workbench(remote=True) as wb:
        (counts,) = wb.sql(
            "SELECT count(*) FILTER (source = 'clients') AS logged, "
            "count(*) FILTER (provider = 'scripted' AND source <> 'clients') AS streamed, "
            "count(*) AS sessions, count(DISTINCT seq) AS numbers, max(seq) AS last, "
            "(SELECT count(*) FROM errors WHERE message = 'of store_clients') AS rows, "
            "(SELECT count(*) FROM token_streams) AS timelines FROM stream_sessions"
        ).to_dict("records")
    problems = [item["error"] for items in found.values() for item in items if "error" in item]
    right = (
        counts["logged"] == total("writer", "sessions")
        and counts["rows"] == total("writer", "rows")
        and counts["streamed"] == total("streamer", "streams")
        and counts["sessions"] == counts["numbers"] == counts["last"] == counts["timelines"]
    )
    return {
        "ok": right and not problems,
        "seconds": seconds,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "log": {name: int(value) for name, value in counts.items()},
        "clients": found,
        "problems": problems,
    }


def main() -> None:
    """Run as the whole, or as one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--role", choices=ROLES)
    given = parser.parse_args()
    if given.role:
        with Workbench(remote=True) as wb:
            wb.sql(f"FROM range({LARGE_ROWS})")
            print("ready", flush=True)
            print(json.dumps(ROLES[given.role](wb, float(sys.stdin.readline()))))
        return
    result = run(given.seconds)
    print(json.dumps(result, indent=1))
    if not result["ok"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
