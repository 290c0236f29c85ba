"""A large log of an older workbench, brought up to date: how long it takes, and kills meanwhile.

    python -m benchmarks.store_upgrade --sessions 1000000 --samples 4 --kills 20 --folder /tmp

The log is made as for :mod:`benchmarks.store_scale`, then taken back to the version in which names
of Ollama were logged without their tag: half of its sessions and memory samples have such a name.
It is opened as the workbench opens it, with its memory limit; then a copy is opened by a process
that is killed at a random moment of that, and opened again, as often as is asked. After each no row
may be missing, no name be without its tag, and nothing be reported as damaged. JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks.store_scale import generate
from workbench.store import Store
from workbench.store.repair import reports

BEFORE: Final = 10
"""The last version with names without a tag."""

_OLD: Final = (
    """UPDATE stream_sessions SET model = 'ollama/model-' || hash(session_id) % 8
    WHERE seq % 2 = 0""",
    """UPDATE memory_samples SET model = 'ollama/model-' || hash(session_id) % 8
    WHERE hash(session_id) % 2 = 0""",
    f"DELETE FROM schema_migrations WHERE version > {BEFORE}",
)

_COUNTS: Final = """
SELECT (SELECT count(*) FROM stream_sessions) AS sessions,
    (SELECT count(*) FROM memory_samples) AS samples,
    (SELECT count(*) FROM stream_sessions WHERE model LIKE 'ollama/%') AS of_ollama,
    (SELECT count(*) FROM memory_samples WHERE model LIKE 'ollama/%') AS samples_of_ollama
"""

_UNTAGGED: Final = """
SELECT (SELECT count(*) FROM stream_sessions WHERE model LIKE 'ollama/%' AND model NOT LIKE '%:%')
    + (SELECT count(*) FROM memory_samples WHERE model LIKE 'ollama/%' AND model NOT LIKE '%:%')
    AS n
"""

_OPEN: Final = """
import json, resource, sys, time
from pathlib import Path
from workbench.store import Store
print("begins", flush=True)
began, cpu = time.monotonic(), time.process_time()
store = Store.open(Path(sys.argv[1]))
figures = {
    "opened_s": time.monotonic() - began,
    "cpu_s": time.process_time() - cpu,
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
store.close()
print(json.dumps(figures), flush=True)
"""


def make(path: Path, sessions: int, samples: int) -> dict[str, int]:
    """The old log; its counts."""
    generate(path, sessions=sessions, events=2, samples=samples, memory="6GiB")
    with duckdb.connect(str(path), config={"memory_limit": "6GiB"}) as connection:
        for sql in _OLD:
            connection.execute(sql)
    return counts(path, _COUNTS)


def counts(path: Path, sql: str) -> dict[str, int]:
    """One row."""
    with duckdb.connect(str(path), read_only=True) as connection:
        cursor = connection.execute(sql)
        row = cursor.fetchone()
        assert row is not None
        assert cursor.description is not None
        return dict(zip((column[0] for column in cursor.description), row, strict=True))


def look(path: Path, had: dict[str, int]) -> list[str]:
    """What is wrong with a log that was brought up to date."""
    found = counts(path, _COUNTS)
    wrong = [f"{name}: {found[name]} of {n}" for name, n in had.items() if found[name] != n]
    if left := counts(path, _UNTAGGED)["n"]:
        wrong.append(f"{left} names have no tag")
    return wrong + [str(told) for told in reports(path)]


def copy(path: Path, folder: Path) -> Path:
    """The log in a folder of its own, as it is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy2(path, folder / path.name)
    return folder / path.name


def opened(path: Path) -> dict[str, float]:
    """How long opening takes a process of its own, and how much memory."""
    command = [sys.executable, "-c", _OPEN, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def killed(path: Path, after_s: float) -> bool:
    """Open it in a process and kill that so long after it began; False: it had ended before."""
    command = [sys.executable, "-c", _OPEN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_s)
        early = process.poll() is None
        process.send_signal(signal.SIGKILL)
    return early


def measure(old: Path, had: dict[str, int], kills: int, chance: random.Random) -> dict[str, Any]:
    """Open copies of an old log that had so many rows, and kill processes that open it."""
    place = old.parent / "copy"
    path = copy(old, place)
    figures = opened(path)
    result: dict[str, Any] = {
        **had,
        "bytes": old.stat().st_size,
        **figures,
        "opened_again_s": opened(path)["opened_s"],
        "wrong": look(path, had),
        "kills": 0,
        "wrong_after_kills": [],
    }
    print(json.dumps(result), file=sys.stderr, flush=True)
    for number in range(kills):
        path = copy(old, place)
        result["kills"] += killed(path, chance.uniform(0, 1.2 * figures["opened_s"]))
        Store.open(path).close()
        result["wrong_after_kills"] += look(path, had)
        wrong = len(result["wrong_after_kills"])
        print(f"{number + 1} of {kills}, {wrong} wrong", file=sys.stderr, flush=True)
    return result


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=4, help="memory samples a session")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="scratch folder")
    chosen = parser.parse_args()

    scratch = Path(tempfile.mkdtemp(prefix="store-upgrade-", dir=chosen.folder))
    try:
        old = scratch / "old.duckdb"
        had = make(old, chosen.sessions, chosen.samples)
        print(json.dumps(measure(old, had, chosen.kills, random.Random(chosen.seed))))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
