"""What the log survives: ``python -m benchmarks.store_torture kills|cuts|flips``.

    kills   a process that logs from several threads is killed with SIGKILL at random points, with a
            checkpoint every few transactions; after each kill the same log is opened again
    cuts    a small log is copied while its process is killed; its write-ahead log is then cut at
            every byte
    flips   one random bit is flipped, in turn in the write-ahead log, the database file and the
            spool of a copy

A long run can be made in parts: ``--folder F --part 1/10`` and so on. ``--keep F`` copies every log
before it is opened, and keeps in F those that were mended or took long, to be looked at.

After each the log must open, hold every session that was acknowledged, whole, and number them
without a gap; or the report of the repair must name that something is lost. How far it is goes to
stderr; JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.store_bench import ASKED, make_session
from workbench.store import Store
from workbench.store.database import Durability
from workbench.store.files import spool_of, wal_of
from workbench.store.repair import reports

EAGER: Final = Durability(checkpoint_bytes=64 * 2**10)
"""A checkpoint every few transactions, so that kills hit many of them."""

LAZY: Final = Durability(checkpoint_bytes=2**40, checkpoint_s=3600)

LONG_CPU_S: Final = 1.0
"""An opening that takes more processor time is told, and kept."""

_TORN: Final = """
SELECT count(*) AS n FROM stream_sessions s
LEFT JOIN token_streams t USING (session_id)
LEFT JOIN messages m ON m.session_id = s.session_id AND m.role = 'assistant'
WHERE t.session_id IS NULL OR m.session_id IS NULL OR len(t.t_ns) <> s.output_tokens
"""


@dataclass(slots=True)
class Tally:
    """What was found over all attempts."""

    attempts: int = 0
    acknowledged: int = 0
    lost: int = 0
    lost_but_named: int = 0
    torn: int = 0
    gaps: int = 0
    refused_to_start: int = 0
    repairs: int = 0
    opened_s: list[float] = field(default_factory=list)
    opened_cpu_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Openings that mended something or took long."""

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        opened, cpu = sorted(self.opened_s), sorted(self.opened_cpu_s)
        return {
            "attempts": self.attempts,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "lost_but_named": self.lost_but_named,
            "torn": self.torn,
            "gaps": self.gaps,
            "refused_to_start": self.refused_to_start,
            "repairs": self.repairs,
            "opened_p50_s": round(opened[len(opened) // 2], 3) if opened else None,
            "opened_max_s": round(opened[-1], 3) if opened else None,
            "opened_cpu_p50_s": round(cpu[len(cpu) // 2], 3) if cpu else None,
            "opened_cpu_max_s": round(cpu[-1], 3) if cpu else None,
            "problems": self.problems[:10],
            "mended_or_long": self.kept[:10],
        }


def child(path: str, eager: bool, threads: int, once: bool) -> None:
    """Log until killed, printing the id of every session once it is acknowledged.

    The eager one makes checkpoints all the time, the other none, and waits for the database too.
    Each thread logs one session or goes on for ever.
    """
    from threading import Thread

    store = Store.open(path, durability=EAGER if eager else LAZY)
    if once:  # the views are out of the way, so that the write-ahead log is that of a session
        assert store._database is not None
        store._database.checkpoint()
    os.write(1, b"open\n")

    def produce(seed: int) -> None:
        chance = random.Random(seed + os.getpid())
        while True:
            session = make_session(chance, 2 if once else chance.randrange(1, 40))
            receipt = store.log_session(session, ASKED)
            (receipt if eager else receipt.stored).result()
            os.write(1, f"{session.session_id}\n".encode())
            if once:
                return

    for seed in range(threads):
        Thread(target=produce, args=[seed], daemon=True).start()
    time.sleep(3600)


def run_and_kill(
    path: Path,
    alive_s: float,
    *,
    at_least: int = 0,
    eager: bool = True,
    threads: int = 4,
    once: bool = False,
) -> set[str]:
    """Start a process that logs, kill it; the ids that it said were acknowledged."""
    code = "import sys; from benchmarks.store_torture import child; "
    code += f"child(sys.argv[1], {eager}, {threads}, {once})"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    # Under "python -c" DuckDB draws a progress bar when the machine is slow.
    first = next((line for line in process.stdout if line == b"open\n"), b"")
    early = b"".join(process.stdout.readline() for _ in range(at_least))
    time.sleep(alive_s)
    process.send_signal(signal.SIGKILL)
    rest = (early + process.stdout.read()).decode().splitlines(keepends=True)
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    if first != b"open\n":
        raise RuntimeError(f"the log did not open: {first!r} {told}")
    return {line.strip() for line in rest if line.startswith("ses_") and line.endswith("\n")}


def look(
    path: Path, acknowledged: set[str], tally: Tally, what: str, *, keep: Path | None = None
) -> None:
    """Open the log and compare; ``keep`` is where it goes as it was, if that was not as usual."""
    tally.attempts += 1
    if tally.attempts % 50 == 0:
        figures = tally.figures()
        print(json.dumps({"at": what, **figures}), file=sys.stderr, flush=True)
    tally.acknowledged += len(acknowledged)
    told_before = len(reports(path))
    found = keep / what.replace(" ", "-") if keep else None
    if found:
        shutil.copytree(path.parent, found, dirs_exist_ok=True)
    began, began_cpu = time.perf_counter(), time.process_time()
    try:
        store = Store.open(path, durability=EAGER)
    except Exception as error:
        tally.refused_to_start += 1
        tally.problems.append(f"{what}: {error}")
        return
    tally.opened_s.append(time.perf_counter() - began)
    tally.opened_cpu_s.append(time.process_time() - began_cpu)
    with store:
        repairs = store.repairs[told_before:]
        tally.repairs += bool(repairs)
        if repairs or tally.opened_cpu_s[-1] > LONG_CPU_S:
            case = {
                "at": what,
                "told": [error.message for error in repairs],
                "opened_s": round(tally.opened_s[-1], 3),
                "opened_cpu_s": round(tally.opened_cpu_s[-1], 3),
                "log": str(found) if found else None,
            }
            tally.kept.append(case)
            print(json.dumps(case), file=sys.stderr, flush=True)
        elif found:
            shutil.rmtree(found)
        rows = store.rows("SELECT seq, session_id FROM stream_sessions ORDER BY seq")
        torn = store.rows(_TORN)[0]["n"]
    lost = acknowledged - {row["session_id"] for row in rows}
    gap = [row["seq"] for row in rows] != list(range(1, len(rows) + 1))
    named = any(error.details["lost"] for error in store.repairs)
    if lost and named:
        tally.lost_but_named += len(lost)
    elif lost:
        tally.lost += len(lost)
        told = [error.message for error in repairs]
        tally.problems.append(f"{what}: lost {len(lost)}, unnamed; repairs: {told}")
    if torn and not named:
        tally.torn += torn
        tally.problems.append(f"{what}: {torn} torn")
    if gap and not named:
        tally.gaps += 1
        tally.problems.append(f"{what}: a gap in seq")


def kills(folder: Path, count: int, seed: int, *, keep: Path | None = None) -> Tally:
    """Kill the writer ``count`` times over one log."""
    tally, chance = Tally(), random.Random(seed)
    path = folder / "log" / "workbench.duckdb"
    known: set[str] = set()
    for attempt in range(count):
        known |= run_and_kill(path, chance.uniform(0, 0.3))
        look(path, known, tally, f"kill {attempt}", keep=keep)
        if len(known) > 20_000:  # a new log now and then keeps the run short
            shutil.rmtree(path.parent)
            known = set()
    return tally


def prepared(
    folder: Path, sessions: int, *, threads: int = 4, once: bool = False
) -> tuple[Path, set[str]]:
    """A log with rows in the database file, in the write-ahead log and in the spool."""
    path = folder / "origin" / "workbench.duckdb"
    told = folder / "acknowledged"
    if told.exists():
        return path, set(told.read_text().split())
    known: set[str] = set()
    chance = random.Random(1)
    with Store.open(path) as store:
        for _ in range(1 if once else 40):  # an entry of the write-ahead log grows with the file
            session = make_session(chance, 8)
            store.log_session(session, ASKED).result()
            known.add(session.session_id)
    known |= run_and_kill(path, 0, at_least=sessions, eager=False, threads=threads, once=once)
    told.write_text("\n".join(sorted(known)))
    return path, known


def copy_log(origin: Path, folder: Path) -> Path:
    """A copy of a log that nobody holds."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(origin.parent, folder)
    return folder / origin.name


def cuts(folder: Path, count: int | None, seed: int, part: slice = slice(None)) -> Tally:
    """Cut the write-ahead log at every byte, or at ``count`` random ones."""
    tally, chance = Tally(), random.Random(seed)
    origin, known = (
        prepared(folder, 1, threads=1, once=True) if count is None else (prepared(folder, 60))
    )
    size = wal_of(origin).stat().st_size
    places = range(size) if count is None else sorted(chance.sample(range(size), count))
    for place in places[part]:
        path = copy_log(origin, folder / "cut")
        os.truncate(wal_of(path), place)
        look(path, known, tally, f"cut at {place} of {size}")
    return tally


def flips(folder: Path, count: int, seed: int, part: slice = slice(None)) -> Tally:
    """Flip one bit of the write-ahead log, the database file or the spool."""
    tally, chance = Tally(), random.Random(seed)
    origin, known = prepared(folder, 60)
    for attempt in range(count)[part]:
        path = copy_log(origin, folder / "flip")
        spools = sorted(spool_of(path).glob("spool-*.ndjson"))
        victim = [wal_of(path), path, chance.choice(spools)][attempt % 3]
        data = bytearray(victim.read_bytes())
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(data)
        look(path, known, tally, f"bit {bit} of {victim.name}")
    return tally


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one kind."""
    from workbench import logs

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["kills", "cuts", "flips"])
    parser.add_argument("--count", type=int, help="default: 1000; cuts: at every byte")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="keep the log that is harmed here, for runs in parts"
    )
    parser.add_argument(
        "--keep", type=Path, help="kills: keep here, as they were, logs that were mended or slow"
    )
    parser.add_argument("--part", default="1/1", help="of the attempts: 2/7 makes every seventh")
    given = parser.parse_args(arguments)
    logs.configure("CRITICAL")
    number, parts = map(int, given.part.split("/"))
    part = slice(number - 1, None, parts)
    with tempfile.TemporaryDirectory(prefix="store-torture-") as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if given.kind == "kills":
            attempts = (given.count or 1000) // parts
            tally = kills(folder, attempts, given.seed + number, keep=given.keep)
        elif given.kind == "cuts":
            tally = cuts(folder, given.count, given.seed, part)
        else:
            tally = flips(folder, given.count or 1000, given.seed + number, part)
    print(json.dumps({"kind": given.kind, **tally.figures()}, indent=2))


if __name__ == "__main__":
    main()
