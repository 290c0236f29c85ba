"""A log of millions of sessions: how big it gets, and how long the page's queries take on it.

    python -m benchmarks.store_scale --sessions 1000000 --events 100 --folder /tmp

The log is made by SQL in the scratch folder, with rows as wide as real ones (prompts and answers,
options and figures as JSON, memory samples), then opened as the workbench opens it, with its memory
limit, and asked what the page and the analysis ask. The first answer (nothing in memory) and the
median of the rest are printed as Markdown, then as one line of JSON. The log is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench import analysis
from workbench.store import Store
from workbench.store.search import Wanted, facets, search

BATCH = 122_880
"""Sessions of one transaction of the generator: one row group, which is written but once."""

ORIGINALS = 8 * BATCH
"""So many sessions are made; a longer log has copies of them, with other ids and later times."""

# Every draw is a hash of the session's number, so that the log is the same each time.
_SESSIONS = """
INSERT INTO stream_sessions BY NAME
WITH drawn AS (
    SELECT i, md5(i::VARCHAR) AS id, hash(i) % 1000 / 1000 AS u, hash(i, 1) % 1000 / 1000 AS v,
        hash(i, 2) % 8 AS m, 1000000000000 + i * 3000000000 AS queued_ns,
        8 + hash(i, 3) % 4000 AS prompt_tokens,
        CASE WHEN m < 5 THEN 'huggingface/org/model-' || m ELSE 'ollama/model:' || m END AS model,
        1 + $events * (0.5 + u) AS n, 5000000 + 150000 * prompt_tokens * (1 + v) AS ttft_ns,
        (8000000 + 4000000 * m) * (0.8 + 0.4 * u) AS gap_ns, hash(i, 4) % 100 AS fate
    FROM range($low, $high) r(i)
), stamped AS (
    SELECT *, (queued_ns + 1000000 + 5000000 * u)::BIGINT AS sent_ns,
        (sent_ns + ttft_ns)::BIGINT AS first_any_ns,
        (first_any_ns + (n::INTEGER - 1) * gap_ns)::BIGINT AS last_ns
    FROM drawn
)
SELECT i + 1 AS seq, 'ses_' || id[:20] AS session_id, 'con_' || id[5:24] AS conversation_id,
    'cor_' || id[9:28] AS correlation_id, 'cmp_' || md5((i // 2)::VARCHAR)[:20] AS comparison_id,
    'env_0123456789abcdef0123' AS environment_id,
    TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_milliseconds(i * 3000) AS created_at,
    'python' AS source, model AS requested_model, model, split_part(model, '/', 1) AS provider,
    'sha256:' || md5(model) AS digest, 'bfloat16' AS dtype, 'cpu' AS device, 2 AS threads,
    fate = 1 AS cold,
    '{"max_tokens": 512, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "seed": null, "stop": [],
    "repetition_penalty": 1.0, "num_ctx": null, "logprobs": 0}' AS options,
    hash(i, 5) % 2147483647 AS seed,
    CASE i % 3 WHEN 0 THEN 'concurrent' ELSE 'isolated' END AS timing_mode,
    CASE WHEN fate < 2 THEN 'error' WHEN fate = 2 THEN 'cancelled' ELSE 'ok' END AS status,
    'stop' AS finish_reason, CASE WHEN fate < 2 THEN 'HF_GENERATION_FAILED' END AS error_code,
    '[]' AS warnings, queued_ns, sent_ns AS slot_ns, sent_ns, first_any_ns,
    first_any_ns AS first_content_ns, last_ns, last_ns + 1000000 AS end_ns, 0 AS load_ns,
    CASE i % 3 WHEN 0 THEN (last_ns - sent_ns) // 2 ELSE 0 END AS overlap_ns,
    prompt_tokens, n::INTEGER AS output_tokens, n::INTEGER AS streamed_tokens,
    'runtime' AS count_source, n::INTEGER * 4 AS text_chars, 0 AS reasoning_chars,
    (600000000 + 1000000 * u)::BIGINT AS mem_before_bytes,
    (655000000 + 10000000 * v)::BIGINT AS mem_peak_bytes,
    to_json({ttft_s: ttft_ns / 1e9, tpot_s: gap_ns / 1e9, itl_p50_s: gap_ns / 1e9,
        e2e_s: (last_ns - sent_ns) / 1e9, queue_s: (sent_ns - queued_ns) / 1e9, load_s: 0,
        retry_s: 0, dispatch_s: 0.0002, think_s: 0, finish_s: 0.001,
        wall_s: (last_ns - queued_ns) / 1e9, decode_tps: 1e9 / gap_ns,
        chars_per_s: 4e9 / gap_ns}) AS metrics,
    '{"engine": "batch", "kv_bytes": 123456}' AS details
FROM stamped
"""

_EVENTS = """
INSERT INTO token_streams
SELECT session_id,
    list_transform(range(output_tokens), lambda k: first_any_ns
        + k * ((last_ns - first_any_ns) // greatest(output_tokens - 1, 1))
        + (k * 7919 + seed) * 104729 % 200000),
    repeat([1], output_tokens),
    list_transform(range(output_tokens), lambda k: (1 + (k * 7919 + seed) % 8)::INTEGER),
    repeat(['content'], output_tokens)
FROM stream_sessions WHERE seq > $low AND seq <= $high
"""

_REST = (
    """
    INSERT INTO conversations
    SELECT conversation_id, created_at, 'python', 'What is the answer to question '
        || hash(seq) % 2000 FROM stream_sessions WHERE seq > $low AND seq <= $high
    """,
    """
    INSERT INTO messages BY NAME
    SELECT 'msg_' || md5(seq::VARCHAR || role)[:20] AS message_id, conversation_id, session_id,
        position, role, created_at, CASE role
            WHEN 'user' THEN 'What is the answer to question ' || hash(seq) % 2000 || '? '
                || repeat('Think about it. ', 8)
            ELSE left(repeat(md5(seq::VARCHAR), 16), text_chars) END AS content
    FROM stream_sessions, (VALUES (0, 'user'), (1, 'assistant')) w(position, role)
    WHERE seq > $low AND seq <= $high ORDER BY seq, position
    """,
    """
    INSERT INTO memory_samples BY NAME
    SELECT session_id, created_at, sent_ns + k * 200000000 AS t_ns, 'worker' AS scope, model,
        4242 AS pid, (mem_before_bytes + k * 1000000 + hash(seq, k) % 4096 * 4096)::BIGINT
            AS pss_bytes,
        mem_peak_bytes AS rss_bytes, 0 AS gpu_bytes, 15000000000 AS host_available_bytes
    FROM stream_sessions, range($samples) r(k) WHERE seq > $low AND seq <= $high ORDER BY seq, k
    """,
    """
    INSERT INTO errors BY NAME
    SELECT 'err_' || session_id[5:] AS error_id, created_at, error_code AS code,
        'It failed.' AS message, model, session_id, '{}' AS details
    FROM stream_sessions WHERE error_code IS NOT NULL AND seq > $low AND seq <= $high
    """,
)


def _copy(table: str, where: str, *ids: str, changes: str = "") -> str:
    """A statement that adds rows of a table once more, with other ids."""
    new = [f"{name}[:4] || md5({name} || $shift)[:20] AS {name}" for name in ids]
    return f"INSERT INTO {table} SELECT * REPLACE ({changes}{', '.join(new)}) FROM {table} {where}"


_ONE, _TWO, _SAMPLES = (
    f"WHERE rowid >= $low * {rows} AND rowid < $high * {rows}" for rows in (1, 2, "$samples")
)
_LATER = "created_at + to_seconds(3 * $shift) AS created_at, "

# Rows are in the order of their sessions, so many to each; only few sessions have errors.
_COPIES = (
    _copy(
        "stream_sessions",
        _ONE,
        "session_id",
        "conversation_id",
        "comparison_id",
        changes=f"{_LATER} seq + $shift AS seq, ",
    ),
    _copy("token_streams", _ONE, "session_id"),
    _copy("conversations", _ONE, "conversation_id", changes=_LATER),
    _copy("messages", _TWO, "message_id", "session_id", "conversation_id", changes=_LATER),
    _copy("memory_samples", _SAMPLES, "session_id", changes=_LATER),
    _copy(
        "errors",
        "WHERE session_id IN (SELECT session_id FROM stream_sessions "
        "WHERE seq > $low AND seq <= $high AND error_code IS NOT NULL)",
        "error_id",
        "session_id",
        changes=_LATER,
    ),
)


@dataclass(frozen=True, slots=True)
class Timed:
    """One query: the first time, the median of the others, how many rows it gave."""

    name: str
    first_s: float
    again_s: float
    rows: int


def generate(path: Path, *, sessions: int, events: int, samples: int, memory: str) -> float:
    """Make a log of so many sessions, or add what it lacks; returns the seconds it took."""
    began = time.monotonic()
    Store.open(path).close()
    with duckdb.connect(str(path), config={"memory_limit": memory}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        row = connection.execute("SELECT count(*) FROM stream_sessions").fetchone()
        low = row[0] if row else 0
        while low < sessions:
            # A batch does not reach over the end of what it is a copy of.
            high = min(low + BATCH, sessions, low - low % ORIGINALS + ORIGINALS)
            connection.execute("BEGIN TRANSACTION")
            for statement, values in _batch(low, high, events, samples):
                connection.execute(statement, values)
            connection.execute("COMMIT")
            print(f"{high:,} sessions after {time.monotonic() - began:.0f} s", flush=True)
            low = high
    return time.monotonic() - began


def _batch(low: int, high: int, events: int, samples: int) -> Iterator[tuple[str, dict[str, int]]]:
    """The statements that make these sessions, with their values."""
    values = {"low": low, "high": high, "events": events, "samples": samples}
    statements: Sequence[str] = (_SESSIONS, _EVENTS, *_REST)
    if shift := low // ORIGINALS * ORIGINALS:
        values |= {"low": low - shift, "high": high - shift, "shift": shift}
        statements = _COPIES
    for statement in statements:
        yield statement, {name: v for name, v in values.items() if f"${name}" in statement}


def queries(store: Store, session_id: str) -> dict[str, Callable[[], Any]]:
    """What the page and the analysis ask."""
    read = store.query
    return {
        "leaderboard": lambda: read("FROM model_leaderboard"),
        "latency percentiles": lambda: analysis.latency_percentiles(read),
        "history: newest page": lambda: find(store, Wanted()),
        "history: a page from the middle": lambda: find(store, Wanted(), cursor=_middle(store)),
        "history: one model's failures": lambda: find(
            store, Wanted({"model": "ollama/model:5", "status": "error"})
        ),
        "history: a common word": lambda: find(store, Wanted(words="question")),
        "history: a rare question": lambda: find(store, Wanted(words='"question 1234?"')),
        "history: a word that is nowhere": lambda: find(store, Wanted(words="zebrafish")),
        "history: an id": lambda: find(store, Wanted(words=session_id)),
        "history: what to filter by": lambda: facets(store)["model"],
        "token gaps of a session": lambda: analysis.token_gaps(read, session_id),
        "memory of a session": lambda: analysis.memory_timeline(read, session_id),
        "phases of a session": lambda: analysis.phase_spans(read, session_id),
        "error rates": lambda: analysis.error_rates(read),
        "load costs": lambda: analysis.load_costs(read),
        "token efficiency": lambda: analysis.token_efficiency(read),
        "TTFT by prompt length": lambda: analysis.ttft_by_prompt(read),
        "cost of contention": lambda: analysis.contention_cost(read),
        "two models compared": lambda: analysis.model_differences(
            read, ["huggingface/org/model-0", "ollama/model:5"]
        ),
    }


def find(store: Store, wanted: Wanted, cursor: str | None = None) -> list[dict[str, Any]]:
    """A page of the History tab; words are looked for until they are found, however long."""
    return search(store, wanted, cursor=cursor, within_s=600).rows


def _middle(store: Store) -> str:
    (row,) = store.rows("SELECT max(seq) // 2 AS seq FROM stream_sessions")
    return str(row["seq"])


def measure(path: Path, *, repeats: int, only: str) -> list[Timed]:
    """Ask everything, each query once cold within the process and then again."""
    found = []
    with Store.open(path) as store:
        (chosen,) = store.rows(
            "SELECT session_id FROM stream_sessions WHERE status = 'ok' ORDER BY seq DESC "
            "LIMIT 1 OFFSET 1000"
        )
        for name, ask in queries(store, chosen["session_id"]).items():
            if only not in name:
                continue
            times = []
            for _ in range(repeats + 1):
                began = time.monotonic()
                rows = len(ask())
                times.append(time.monotonic() - began)
            again = statistics.median(times[1:]) if repeats else times[0]
            found.append(Timed(name, times[0], again, rows))
            print(f"| {name} | {times[0]:.3f} | {again:.3f} | {rows:,} |", flush=True)
    return found


def sizes(path: Path) -> dict[str, int]:
    """Bytes of each table in the file, from its blocks."""
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = [
            row[0]
            for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        ]
        found = {}
        for table in tables:
            row = connection.execute(
                "SELECT count(DISTINCT block_id) FROM pragma_storage_info(?) WHERE block_id >= 0",
                [table],
            ).fetchone()
            if row and row[0]:
                found[table] = row[0] * 262_144
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument(
        "--events", type=int, default=100, help="token events a session, on average"
    )
    parser.add_argument("--samples", type=int, default=4, help="memory samples a session")
    parser.add_argument(
        "--folder", type=Path, default=None, help="scratch folder; its content goes"
    )
    parser.add_argument("--memory", default="6GiB", help="memory limit of the generator")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", default="", help="only queries with this in their name; - for none"
    )
    parser.add_argument(
        "--log",
        type=Path,
        default=None,
        help="use this log and keep it; what it lacks of --sessions is added",
    )
    chosen = parser.parse_args()

    scratch = Path(tempfile.mkdtemp(prefix="store-scale-", dir=chosen.folder))
    path = chosen.log or scratch / "scale.duckdb"
    try:
        took = generate(
            path,
            sessions=chosen.sessions,
            events=chosen.events,
            samples=chosen.samples,
            memory=chosen.memory,
        )
        if chosen.only == "-":
            return
        size = path.stat().st_size
        began = time.monotonic()
        with Store.open(path) as store:
            opened_s = time.monotonic() - began
            counts = store.rows(
                "SELECT count(*) AS sessions, sum(streamed_tokens)::BIGINT AS events "
                "FROM stream_sessions"
            )[0]
        millions = counts["sessions"] / 1e6
        print(
            f"\n{counts['sessions']:,} sessions, {counts['events']:,} token events: "
            f"{size / 1e9:.2f} GB, {size / 1e9 / millions:.2f} GB a million sessions; "
            f"made in {took:.0f} s, opened in {opened_s:.2f} s\n"
        )
        print("| query | first s | again s | rows |\n|---|---|---|---|")
        timed = measure(path, repeats=chosen.repeats, only=chosen.only)
        print(
            json.dumps(
                {
                    **counts,
                    "bytes": size,
                    "bytes_by_table": sizes(path),
                    "opened_s": opened_s,
                    "queries": {t.name: [t.first_s, t.again_s] for t in timed},
                }
            )
        )
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
