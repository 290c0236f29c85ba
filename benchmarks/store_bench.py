"""How fast the log takes sessions, what that costs: ``python -m benchmarks.store_bench PART``.

Each part prints JSON last.

    writer    P producers log finished sessions one after another, each waiting until its session is
              acknowledged (in the spool, synced) before it sends the next
    streams   scripted answers (200 tokens/s, eight at a time) through the engine, in turns with
              logging (row and journal) and without
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import gc
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import logs
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


def freeze() -> None:
    """Leave what there is to itself, as the server does: garbage is looked for in what comes."""
    gc.collect()
    gc.freeze()


def measure_writer(
    path: Path, *, producers: int, sessions: int, tokens: int, samples: int
) -> dict[str, Any]:
    """Log ``sessions`` sessions from ``producers`` threads; rates and waits."""
    chance = random.Random(1)
    made = [make_session(chance, tokens) for _ in range(sessions)]
    items = [(session, samples_of(session, samples)) for session in made]
    waits: list[list[int]] = [[] for _ in range(producers)]
    ready = threading.Barrier(producers + 1)
    freeze()

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


async def measure_streams(path: Path, *, turns: int, streams: int, tokens: int) -> dict[str, Any]:
    """Play answers through an engine in turns, logged and not; ratios of on to off."""
    from workbench.engine import Engine
    from workbench.providers.scripted import Schedule, ScriptedProvider, steady
    from workbench.router import ModelRouter
    from workbench.settings import load_settings
    from workbench.store.writer import Receipt
    from workbench.types import ChatRequest, DoneEvent

    router = ModelRouter()
    schedule = Schedule(steady(tokens, first_s=0.02, gap_s=0.005))
    router.register_provider(ScriptedProvider({"fast": schedule}))
    store = Store.open(path)
    engine = Engine(load_settings(_env_file=None), router, store)
    log_session, begin = store.log_session, engine._journal.begin
    nothing = Receipt()
    nothing.settle(None)
    freeze()

    async def play() -> tuple[StreamSession, float]:
        request = ChatRequest("scripted/fast", ASKED, Options(max_tokens=tokens))
        async for event in engine.stream(request):
            if isinstance(event, DoneEvent):
                done = time.monotonic_ns()
                assert event.session.stamps.last is not None
                return event.session, (done - event.session.stamps.last) / MS
        raise AssertionError("no end")

    figures: dict[str, dict[str, list[float]]] = {
        name: {"ttft_ms": [], "decode_tps": [], "end_ms": []} for name in ("on", "off")
    }
    for turn in range(2 * turns + 2):
        name = ("on", "off")[turn % 2]
        store.log_session = log_session if name == "on" else lambda *_: nothing  # type: ignore
        engine._journal.begin = begin if name == "on" else lambda *_: None  # type: ignore
        for session, end_ms in await asyncio.gather(*(play() for _ in range(streams))):
            if turn >= 2:  # the first turn of each is a warm-up
                figures[name]["ttft_ms"].append((session.metrics["ttft_s"] or 0) * 1e3)
                figures[name]["decode_tps"].append(session.metrics["decode_tps"] or 0)
                figures[name]["end_ms"].append(end_ms)
    await engine.close()

    def p99(values: list[float]) -> float:
        return sorted(values)[int(len(values) * 0.99)]

    on, off = figures["on"], figures["off"]
    return {
        "part": "streams",
        "answers_each": len(on["ttft_ms"]),
        "tokens": tokens,
        "streams": streams,
        "decode_tps_on_over_off": round(
            statistics.median(on["decode_tps"]) / statistics.median(off["decode_tps"]), 4
        ),
        "ttft_p50_ms": {k: round(statistics.median(v["ttft_ms"]), 2) for k, v in figures.items()},
        "ttft_p99_ms": {k: round(p99(v["ttft_ms"]), 2) for k, v in figures.items()},
        "last_token_to_end_p50_ms": {
            k: round(statistics.median(v["end_ms"]), 2) for k, v in figures.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["writer", "streams"])
    parser.add_argument("--producers", type=int, default=64)
    parser.add_argument("--sessions", type=int, default=60_000)
    parser.add_argument("--tokens", type=int, default=16, help="token events of a session")
    parser.add_argument("--samples", type=int, default=0, help="memory readings of a session")
    parser.add_argument("--folder", type=Path, help="where the log is made (default: a new one)")
    parser.add_argument("--turns", type=int, default=40, help="turns of eight answers each way")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="store-bench-") as folder:
        path = Path(folder) / "log" / "workbench.duckdb"
        if given.part == "writer":
            figures = measure_writer(
                path,
                producers=given.producers,
                sessions=given.sessions,
                tokens=given.tokens,
                samples=given.samples,
            )
        else:
            logs.configure("ERROR")
            figures = asyncio.run(measure_streams(path, turns=given.turns, streams=8, tokens=64))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
