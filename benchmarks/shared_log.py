"""Several workbenches share one log: all write at once, one reads, one is killed.

    python -m benchmarks.shared_log --seconds 60

Starts the server that has the shared log. Writers, each a process with a log of its own, log
sessions there and share them; whatever the server has acknowledged is printed by the writer and
must be in the shared log, once, under the writer's name. A reader attaches over Quack with the
token, as from another machine, and copies the leaderboard meanwhile; its counts must never fall.
One writer is killed when it has had something acknowledged, and started again on its log, at the
end of which every session of every log must be in the shared one. Prints JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench import Workbench
from workbench.settings import load_settings
from workbench.store import Store

ROOT = Path(__file__).parent.parent
WRITERS = 3
BATCH = 5
KEY = "a-key-that-the-team-has"
TOKEN = "a-token-for-those-who-read"
DONE = "done"
"""The file that tells the reader that all writers have ended."""


def writer(folder: Path, until: float) -> None:
    """Measure, share, and print what was acknowledged, a line a time."""
    from tests.store.conftest import make_session
    from workbench.sharing import SharedLog
    from workbench.types import Message

    settings = load_settings()
    with Store.open(settings.workbench_db) as store:
        shared = SharedLog(store, settings)
        stop = threading.Event()
        while True:
            ids = []
            for _ in range(BATCH):
                session = make_session(source="clients")
                store.log_session(session, [Message("user", "hi")])
                ids.append(session.session_id)
            shared.push(lambda *_: None, stop)
            print(json.dumps(ids), flush=True)
            if time.time() > until:
                return


def reader(folder: Path, _: float) -> None:
    """Copy the team's leaderboard and count, as somebody on another machine does."""
    import duckdb

    from workbench.store.extension import load_quack

    place = json.loads((folder / "server.json").read_text())["log"]
    seen = copies = 0
    with duckdb.connect() as other:
        load_quack(other, offline=True)
        other.execute(f"ATTACH '{place['uri']}' AS wb (TOKEN '{place['token']}', DISABLE_SSL true)")
        last = False
        while not last:
            last = (folder / DONE).exists()  # one more look after the last writer
            other.execute("CREATE OR REPLACE TABLE board AS FROM wb.team_leaderboard")
            found = other.execute("SELECT coalesce(sum(sessions), 0) FROM board").fetchone()
            assert found is not None
            if found[0] < seen:
                raise AssertionError(f"the count fell from {seen} to {found[0]}")
            seen, copies = int(found[0]), copies + 1
    print(json.dumps({"copies": copies, "seen": seen}))


ROLES = {"writer": writer, "reader": reader}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The server that has the shared log; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = environment(folder, WORKBENCH_API_KEY=KEY, WORKBENCH_LOG_TOKEN=TOKEN)
    own |= {"WORKBENCH_PORT": str(port), "WORKBENCH_DB": str(folder / "shared.duckdb")}
    command = [sys.executable, str(ROOT / "app.py")]
    with (
        (folder / "server.log").open("w+") as log,
        subprocess.Popen(
            command, env=own, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            if "Workbench is at" not in process.stdout.readline():
                raise SystemExit((folder / "server.log").read_text())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Nothing of the user's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "HF_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "WORKBENCH_OFFLINE": "true",
        "WORKBENCH_RATE_LIMIT": "0",
        "OLLAMA_HOST": "127.0.0.1:9",
        **more,
    }


def start(role: str, folder: Path, seconds: float, **more: str) -> subprocess.Popen[str]:
    """One of the processes; it stops by itself after so many seconds."""
    command = [sys.executable, "-m", "benchmarks.shared_log", "--role", role]
    return subprocess.Popen(
        [*command, "--folder", str(folder), "--seconds", str(seconds)],
        env=environment(folder, **more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(seconds: float) -> dict[str, Any]:
    """Do it on a server of its own."""
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as url:
        return share(Path(name), "shared.duckdb", url, KEY, seconds)


def share(folder: Path, log: str, url: str, key: str, seconds: float) -> dict[str, Any]:
    """Write, read, kill and compare.

    Args:
        folder: of the server's log.
        log: its name there.
        url: of the server.
        key: that the writers show.
        seconds: of writing; each writes at least once.
    """

    def write(number: int, seconds: float) -> subprocess.Popen[str]:
        return start(
            "writer",
            folder,
            seconds,
            WORKBENCH_DB=str(folder / f"own-{number}" / "workbench.duckdb"),
            WORKBENCH_WRITER_ID=f"writer-{number}",
            WORKBENCH_SHARED_LOG=url,
            WORKBENCH_SHARED_LOG_KEY=key,
        )

    writers = [write(number, seconds) for number in range(WRITERS)]
    reading = start("reader", folder, seconds)
    first = writers[0]
    assert first.stdout is not None
    lines = [first.stdout.readline()]  # acknowledged, and more is on its way
    first.send_signal(signal.SIGKILL)
    with first:
        lines += first.stdout.readlines()
    again = write(0, 0)
    problems = []
    printed = {0: lines}
    for number, process in [*enumerate(writers[1:], 1), (WRITERS, again), (-1, reading)]:
        if process is reading:
            (folder / DONE).touch()
        out, err = process.communicate(timeout=seconds + 120)
        printed[number] = out.splitlines()
        if process.returncode:
            problems.append(err[-2000:])
    return judge(folder, folder / log, printed, problems)


def judge(
    folder: Path, log: Path, printed: dict[int, list[str]], problems: list[str]
) -> dict[str, Any]:
    """Whether the shared log has what was acknowledged, and in the end everything."""
    with Workbench(remote=True, workbench_db=log) as wb:
        rows = wb.sql(
            "SELECT session_id, writer_id, len(t_ns) AS tokens FROM stream_sessions "
            "LEFT JOIN token_streams USING (session_id) WHERE writer_id IS NOT NULL"
        )
        board = wb.sql(
            "SELECT writer_id, sum(sessions) AS sessions FROM team_leaderboard "
            "WHERE writer_id IS NOT NULL GROUP BY 1"
        )
    stored = dict(zip(rows.session_id, rows.writer_id, strict=True))
    lost = acknowledged = 0
    own = {}
    for number in range(WRITERS):
        for line in printed[number]:
            if line.endswith(("]", "]\n")):  # the killed one may have ended within a line
                ids = json.loads(line)
                acknowledged += len(ids)
                lost += sum(stored.get(one) != f"writer-{number}" for one in ids)
        with Store.open_readonly(folder / f"own-{number}" / "workbench.duckdb") as store:
            ids = {row["session_id"] for row in store.rows("SELECT session_id FROM latencies")}
        own[f"writer-{number}"] = len(ids)
        lost += sum(stored.get(one) != f"writer-{number}" for one in ids)
    told = dict(zip(board.writer_id, board.sessions.map(int), strict=True))
    seen = json.loads(printed[-1][-1]) if printed[-1] else {"seen": None}
    right = told == own and seen["seen"] >= len(stored) == len(rows) == rows.tokens.count()
    return {
        "ok": right and not lost and not problems,
        "acknowledged": acknowledged,
        "lost": lost,
        "leaderboard": told,
        "own logs": own,
        "reader": seen,
        "problems": problems,
    }


def main() -> None:
    """Run as the whole, or as one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.role:
        ROLES[given.role](given.folder, time.time() + given.seconds)
        return
    result = run(given.seconds)
    print(json.dumps(result, indent=1))
    if not result["ok"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
