"""How fast the log takes finished sessions: ``python -m benchmarks.store_bench writer``.

Each part prints JSON last.

    writer    P producers log finished sessions one after another, each waiting until its session is
              acknowledged (committed and on disk twice) before it sends the next
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.metrics import session_metrics
from workbench.store import MemorySample, Store
from workbench.types import (
    Message,
    Options,
    Stamps,
    Status,
    StreamSession,
    TimingMode,
    TokenTimeline,
    new_id,
)

MS = 1_000_000
MODELS = ("huggingface/a", "huggingface/b", "ollama/c:135m", "ollama/d:1b")
ASKED = (Message("user", "Name three colors that a cat could wear in winter."),)


def make_session(chance: random.Random, tokens: int) -> StreamSession:
    """A finished session as an engine builds it, with ``tokens`` token events of 10 to 30 ms."""
    start = time.monotonic_ns()
    sent = start + chance.randrange(1, 20) * MS
    times = [sent + chance.randrange(20, 200) * MS]
    while len(times) < tokens:
        times.append(times[-1] + chance.randrange(10, 30) * MS)
    stamps = Stamps(
        queued=start,
        slot=sent,
        sent=sent,
        first_any=times[0],
        first_content=times[0],
        last=times[-1],
        end=times[-1] + MS,
    )
    timeline = TokenTimeline(tuple(times), (1,) * tokens, (4,) * tokens, ("content",) * tokens)
    text = "word " * tokens
    model = chance.choice(MODELS)
    return StreamSession(
        session_id=new_id("ses"),
        conversation_id=new_id("con"),
        correlation_id=new_id("cor"),
        requested_model=model,
        model=model,
        provider=model.partition("/")[0],
        status=Status.OK,
        created_at=dt.datetime.now(dt.UTC),
        stamps=stamps,
        options=Options(seed=1),
        seed=1,
        timing_mode=TimingMode.ISOLATED,
        source="bench",
        text=text,
        finish_reason="stop",
        prompt_tokens=11,
        output_tokens=tokens,
        count_source="runtime",
        streamed_tokens=tokens,
        timeline=timeline,
        mem_before_bytes=2**30,
        mem_peak_bytes=2**30 + 2**20,
        dtype="bf16",
        device="cpu",
        threads=2,
        metrics=session_metrics(
            stamps,
            timeline,
            output_tokens=tokens,
            content_chars=len(text),
            mem_before_bytes=2**30,
            mem_peak_bytes=2**30 + 2**20,
            overlap_ns=0,
        ),
    )


def samples_of(session: StreamSession, count: int) -> tuple[MemorySample, ...]:
    """Memory readings spread over a session."""
    return tuple(
        MemorySample(session.stamps.queued + i * 200 * MS, "worker", session.session_id)
        for i in range(count)
    )


def measure_writer(
    path: Path, *, producers: int, sessions: int, tokens: int, samples: int
) -> dict[str, Any]:
    """Log ``sessions`` sessions from ``producers`` threads; rates and waits."""
    chance = random.Random(1)
    made = [make_session(chance, tokens) for _ in range(sessions)]
    items = [(session, samples_of(session, samples)) for session in made]
    waits: list[list[int]] = [[] for _ in range(producers)]
    ready = threading.Barrier(producers + 1)

    with Store.open(path) as store:

        def produce(index: int) -> None:
            own, mine = items[index::producers], waits[index]
            ready.wait()
            for session, readings in own:
                began = time.perf_counter_ns()
                store.log_session(session, ASKED, readings).result()
                mine.append(time.perf_counter_ns() - began)

        threads = [threading.Thread(target=produce, args=[i]) for i in range(producers)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        (stored,) = store.rows("SELECT count(*) AS n, max(seq) AS seq FROM stream_sessions")
    assert stored == {"n": sessions, "seq": sessions}, stored
    ordered = sorted(wait / MS for mine in waits for wait in mine)
    return {
        "part": "writer",
        "producers": producers,
        "sessions": sessions,
        "token_events_each": tokens,
        "memory_samples_each": samples,
        "acknowledged_per_s": round(sessions / seconds),
        "wait_p50_ms": round(statistics.median(ordered), 2),
        "wait_p99_ms": round(ordered[int(len(ordered) * 0.99)], 2),
        "wait_max_ms": round(ordered[-1], 2),
        "file_bytes": path.stat().st_size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["writer"])
    parser.add_argument("--producers", type=int, default=64)
    parser.add_argument("--sessions", type=int, default=60_000)
    parser.add_argument("--tokens", type=int, default=16, help="token events of a session")
    parser.add_argument("--samples", type=int, default=0, help="memory readings of a session")
    parser.add_argument("--folder", type=Path, help="where the log is made (default: a new one)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="store-bench-") as folder:
        figures = measure_writer(
            Path(folder) / "log" / "workbench.duckdb",
            producers=given.producers,
            sessions=given.sessions,
            tokens=given.tokens,
            samples=given.samples,
        )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
