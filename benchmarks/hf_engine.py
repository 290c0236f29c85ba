"""Our Hugging Face engine over HTTP against its peers, in turns, as ratios.

::

    python -m benchmarks.hf_engine [--quick] [--streams 1 8 32] [--turns 3] [--peers a,b,c,d,e,f]

Peers: (a) plain ``generate``, (b) ``transformers serve``, (c) the same with continuous batching,
(d) llama.cpp on the GGUF file, (e) the workbench, one entry per variant of the model id, (f) the
loop of its worker called directly. One peer process lives at a time; their order is random within
each turn. Where (d) and (e) take part, both runtimes then answer at once. The whole record goes to
a JSON file, the tables to standard output and, dated, to ``benchmarks/RESULTS.md``.

In pieces, where nobody has the machine for an hour: ``--into FILE`` adds a run's cells to those in
the file, ``--only`` chooses a part, and ``--only report`` measures nothing::

    python -m benchmarks.hf_engine --into all.json --only streams --peers b,e --streams 1 --turns 1
    python -m benchmarks.hf_engine --into all.json --only report --results benchmarks/RESULTS.md

Needs the ``bench`` extra: ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks import quality, report
from benchmarks.beside import beside
from benchmarks.figures import Trace, cell_figures
from benchmarks.ours import Ours, Refused, layer_cost
from benchmarks.peers import ROOT, Direct, LlamaCpp, Peer, PeerError, Plain, Serve
from benchmarks.pieces import Differs, merged, quiet
from benchmarks.prompts import QUALITY, prompts
from benchmarks.watch import LagSampler, Surroundings
from benchmarks.weights import gguf_bytes, safetensors_bytes
from workbench import environment, logs
from workbench.settings import load_settings

SINGLE_SETS: Final = 3
"""Repeats at one stream: a single answer is too small a sample, and they cost little."""

WARM_UP_TOKENS: Final = 16
BATCHING_LIMIT_S: Final = 120.0
QUALITY_TOKENS: Final = 48
PARTS: Final = ("streams", "beside", "quality")
PACKAGES: Final = ("httpx", "openai", "xllamacpp")


@dataclass
class Plan:
    """What to run; from the command line."""

    loads: list[int]
    turns: int
    tokens: int
    limit_s: float
    seed: int
    repeats: int
    quality_prompts: list[str]
    quality_tokens: int
    parts: tuple[str, ...] = PARTS
    entries: dict[str, Callable[[], Peer]] = field(default_factory=dict)


class Run:
    """Collects the record of a run.

    Args:
        plan: what to run.
        folder: of the model, for the reference.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self._folder = plan, folder
        self.cells: list[dict[str, Any]] = []
        self.ours: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.failures: list[dict[str, Any]] = []
        self.quality: dict[str, Any] = {}
        self.both: list[dict[str, Any]] = []
        self.titles: dict[str, str] = {}
        self.bandwidth: list[float] = []

    def turns(self) -> None:
        """All turns, then the quality gate."""
        chance = random.Random(self.plan.seed)
        for turn in range(1, self.plan.turns + 1) if self.plan.parts != ("quality",) else ():
            self.bandwidth.append(read_bandwidth())
            order = list(self.plan.entries) if "streams" in self.plan.parts else []
            chance.shuffle(order)
            for key in order:
                if key not in self.skipped:
                    self._entry(key, turn)
            if "beside" in self.plan.parts:
                self._both(turn)
        if self.plan.quality_prompts and any(key.startswith("e:") for key in self.plan.entries):
            self._judge()

    def _entry(self, key: str, turn: int) -> None:
        """One peer through all loads; a peer that fails is noted and the run goes on."""
        say(f"turn {turn}: ({key})")
        loads = list(self.plan.loads)
        try:
            while loads:
                # After a cell that was stopped the peer may still work on what it was asked: it is
                # started anew for the loads that are left.
                loads = self._some_loads(key, turn, loads)
        except Refused as refusal:
            self.skipped[key] = f"the server refuses it: {refusal}"
            say(f"  left out: {refusal}")
        except Exception as error:
            # A benchmark of hours must not be lost to one peer, whatever it does.
            self.failures.append(
                {"key": key, "turn": turn, "error": f"{type(error).__name__}: {error}"}
            )
            say(f"  failed: {error}")
            if not any(cell["key"] == key for cell in self.cells):
                self.skipped[key] = f"it failed before its first figure: {error}"

    def _both(self, turn: int) -> None:
        """Our first variant beside llama.cpp, if both take part."""
        ours = next((key for key in self.plan.entries if key.startswith("e:")), None)
        if ours is None or "d" not in self.plan.entries:
            return
        say(f"turn {turn}: ({ours}) beside (d)")
        try:
            with self.plan.entries[ours]() as mine, self.plan.entries["d"]() as other:
                for peer in (mine, other):
                    asyncio.run(
                        peer.ask(prompts(1, turn, "warm-up"), WARM_UP_TOKENS, BATCHING_LIMIT_S)
                    )
                self.both.append(asyncio.run(beside(mine, other, turn, self.plan.tokens)))
        except Exception as error:  # as for one peer: it is noted and the run goes on
            self.failures.append({"key": "both", "turn": turn, "error": str(error)})
            say(f"  failed: {error}")

    def _some_loads(self, key: str, turn: int, loads: Sequence[int]) -> list[int]:
        """Cells until one is stopped; returns the loads that are left."""
        first = len(loads) == len(self.plan.loads)
        with self.plan.entries[key]() as peer:
            self.titles[key] = peer.title
            item: dict[str, Any] | None = None
            if isinstance(peer, Ours):
                peer.load()  # the first load also waits for the zygote's imports
                if first:
                    load_s = peer.load_times(self.plan.repeats)
                    item = {
                        "key": key,
                        "turn": turn,
                        "start_s": peer.start_s,
                        "load_s": load_s,
                        "cancel_s": [],
                        "layers": {},
                        "worker_memory_peak_bytes": None,
                    }
                    self.ours.append(item)
            traces: dict[int, list[Trace]] = {}
            left: list[int] = []
            for position, load in enumerate(loads):
                cell, traces[load] = asyncio.run(self._cell(peer, key, turn, load))
                self.cells.append(cell)
                if cell["stopped"]:
                    left = list(loads[position + 1 :])
                    break
            if isinstance(peer, Ours) and item is not None:
                self._about_ours(peer, item, traces)
        return left

    def _about_ours(self, peer: Ours, item: dict[str, Any], traces: dict[int, list[Trace]]) -> None:
        everything = [trace for some in traces.values() for trace in some]
        ids = [t.extra["session_id"] for t in everything if "session_id" in t.extra]
        rows = peer.rows(ids) if ids else {}
        item["worker_memory_peak_bytes"] = max(
            (row["memory_peak_bytes"] or 0 for row in rows.values()), default=None
        )
        item["layers"] = {str(load): layer_cost(some, rows) for load, some in traces.items()}
        item["cancel_s"] = peer.cancel_times(
            prompts(1, item["turn"], "cancel")[0], self.plan.repeats
        )

    async def _cell(
        self, peer: Peer, key: str, turn: int, load: int
    ) -> tuple[dict[str, Any], list[Trace]]:
        """Warm up, then measure one load."""
        plan = self.plan
        limit_s = BATCHING_LIMIT_S if peer.batches or load == 1 else plan.limit_s
        # One request at a time is what such a peer does anyway: one stream warms it up.
        warm = prompts(load if peer.batches else 1, turn, f"warm-up{load}")
        await peer.ask(warm, min(WARM_UP_TOKENS, plan.tokens), BATCHING_LIMIT_S)
        sets: list[list[Trace]] = []
        stopped = False
        with Surroundings(peer.pid) as around:
            async with LagSampler() as lag:
                for number in range(min(SINGLE_SETS, plan.repeats) if load == 1 else 1):
                    wanted = prompts(load, turn, f"load{load}-{number}")
                    traces, stopped = await peer.ask(wanted, plan.tokens, limit_s)
                    sets.append(traces)
                    if stopped:
                        break
        traces = [trace for one in sets for trace in one]
        errors = sorted({trace.error for trace in traces if trace.error})
        if errors and not stopped and all(trace.error for trace in traces):
            raise peer.failed(f"every stream failed: {errors[0]}")
        zero = min(trace.sent_ns for trace in traces)
        cell: dict[str, Any] = {
            "key": key,
            "turn": turn,
            "load": load,
            "stopped": stopped,
            "limit_s": limit_s,
            "start_s": peer.start_s,
            "bandwidth_bytes_per_s": self.bandwidth[-1],
            "figures": cell_figures(sets, plan.tokens),
            "surroundings": around.figures,
            "client_lag": lag.figures(),
            "errors": errors,
            "traces": [trace.to_dict(zero) for trace in traces],
        }
        whole = cell["figures"]["whole_tps"]
        mark = f", {report.STOPPED}" if stopped else ""
        say(f"  {load} streams: {whole:.1f} tokens/s{mark}")
        return cell, traces

    def _judge(self) -> None:
        say("quality")
        plan = self.plan
        try:
            # The truth first, alone; then it only scores, while our server is there to be asked.
            with quality.Reference(self._folder) as reference:
                truth = quality.Truth(reference, plan.quality_prompts, plan.quality_tokens)
                self.quality["plain generate, bfloat16"] = truth.plain_bfloat16()
                for key, make in plan.entries.items():
                    if key.startswith("e:") and key not in self.skipped:
                        self._judge_variant(key, make, truth)
        except PeerError as error:
            self.failures.append({"key": "quality", "turn": 0, "error": str(error)})
            say(f"  failed: {error}")

    def _judge_variant(self, key: str, make: Callable[[], Peer], truth: quality.Truth) -> None:
        try:
            with make() as peer:
                assert isinstance(peer, Ours)
                peer.load()
                self.quality[key] = asyncio.run(truth.judge_ours(peer))
        except (PeerError, Refused) as error:
            self.quality[key] = {"passed": False, "misses": [report.first_line(str(error))]}
        verdict = "PASS" if self.quality[key]["passed"] else "FAIL"
        say(f"  {key.removeprefix('e:')}: {verdict} {'; '.join(self.quality[key]['misses'])}")


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def read_bandwidth() -> float:
    """Bytes per second that all cores together read."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bandwidth"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return float(json.loads(done.stdout)["bytes_per_s"])


def machine() -> dict[str, Any]:
    """The environment that the workbench itself stores, with the peers' packages."""
    found = asdict(environment.capture(load_settings()))
    for name in PACKAGES:
        try:
            found["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found["packages"][name] = "absent"
    return found


def variant_ids(model: str, variants: Sequence[str]) -> list[str]:
    """Full model ids; ``?...`` alone stands for the plain id with these load options."""
    return [f"{model}{one}" if one.startswith("?") else one or model for one in variants]


def entries(
    arguments: argparse.Namespace, model_path: Path, loads: Sequence[int]
) -> dict[str, Callable[[], Peer]]:
    """What makes each peer, by its key in the record."""
    folder = model_path / arguments.model
    gguf = arguments.gguf or next(model_path.glob(f"{arguments.model}-GGUF/*.gguf"), None)
    extra = shlex.split(arguments.cb_options)
    found: dict[str, Callable[[], Peer]] = {}
    for letter in arguments.peers.split(","):
        if letter == "a":
            found["a"] = lambda: Plain(folder)
        elif letter == "b":
            found["b"] = lambda: Serve(folder, continuous=False)
        elif letter == "c":
            found["c"] = lambda: Serve(folder, continuous=True, extra=extra)
        elif letter == "d":
            if gguf is None:
                sys.exit("Peer d needs a GGUF file: give --gguf, or leave it out of --peers.")
            found["d"] = lambda: LlamaCpp(gguf, max(loads), arguments.llama_threads)
        elif letter == "e":
            for one in variant_ids(f"huggingface/{arguments.model}", arguments.variants):
                found[f"e:{one}"] = lambda one=one: Ours(one, model_path)  # type: ignore[misc]
        elif letter == "f":
            found["f"] = lambda: Direct(folder)
        else:
            sys.exit(f"There is no peer {letter!r}; choose from a,b,c,d,e,f.")
    return found


def weights(keys: Sequence[str], folder: Path, gguf: Path | None) -> dict[str, float]:
    """Bytes of weights that each peer reads per token."""
    found = {}
    for key in keys:
        if key != "d":
            found[key] = safetensors_bytes(folder, key.partition("?")[2])
        elif gguf is not None:
            found[key] = gguf_bytes(gguf)
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hf_engine", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--streams", type=int, nargs="+", metavar="N", help="default: 1 8 32")
    parser.add_argument("--turns", type=int, help="default: 3")
    parser.add_argument("--tokens", type=int, help="of each answer; default: 64")
    parser.add_argument("--peers", default="a,b,c,d,e,f", help="letters, by commas")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["", "?quantization=int8"],
        metavar="ID",
        help="our model ids; ?... is the plain id with load options, '' the plain id",
    )
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="folder of the model")
    parser.add_argument("--gguf", type=Path, help="default: the file in MODEL-GGUF")
    parser.add_argument("--cb-options", default="", help="further options of peer c, one string")
    parser.add_argument("--llama-threads", type=int, help="of peer d; default: the cores")
    parser.add_argument("--cell-limit", type=float, help="s, for peers that cannot batch (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of peers")
    parser.add_argument("--no-quality", action="store_true", help="leave the quality gate out")
    parser.add_argument("--only", choices=[*PARTS, "report"], help="one part of the run")
    parser.add_argument(
        "--quiet",
        type=float,
        metavar="SHARE",
        help="report no cell during which others took more than this share of the cores",
    )
    parser.add_argument("--into", type=Path, help="JSON record to which this run is added")
    parser.add_argument("--quick", action="store_true", help="a small run of under three minutes")
    parser.add_argument("--json", type=Path, help="default: benchmarks/out/hf_engine-TIME.json")
    parser.add_argument(
        "--results",
        type=Path,
        help="Markdown file to append to; default: for a whole run benchmarks/RESULTS.md",
    )
    return parser.parse_args(argv)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Defaults filled in: the small ones with ``--quick``."""
    quick = arguments.quick
    parts = PARTS if arguments.only is None else (arguments.only,)
    asked = [] if arguments.no_quality or "quality" not in parts else list(QUALITY)
    return Plan(
        loads=sorted(set(arguments.streams or ([1, 8] if quick else [1, 8, 32]))),
        turns=arguments.turns or (1 if quick else 3),
        tokens=arguments.tokens or (24 if quick else 64),
        limit_s=arguments.cell_limit or (10 if quick else 20),
        seed=arguments.seed,
        repeats=1 if quick else 3,
        quality_prompts=asked[:2] if quick else asked,
        quality_tokens=16 if quick else QUALITY_TOKENS,
        parts=parts,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    arguments = parse(argv)
    # Ended by a signal, the peers must be ended too: leave through every context manager.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs.configure("WARNING")
    started = dt.datetime.now().astimezone()
    there = json.loads(arguments.into.read_text()) if _exists(arguments.into) else None
    if arguments.only == "report":
        if there is None:
            sys.exit("There is no record to report: give --into.")
        record = there
    else:
        record = measure(arguments, argv, started)
        if there is not None:
            try:
                record = merged(there, record)
            except Differs as problem:
                sys.exit(f"{arguments.into} is of another kind, what differs: {problem}.")
    record["targets"] = report.targets(record)
    stem = f"hf_engine-{started:%Y%m%d-%H%M%S}.json"
    out = arguments.into or arguments.json or ROOT / "benchmarks/out" / stem
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, default=str) + "\n")
    if arguments.quiet is not None:
        record = quiet(record, arguments.quiet)
        record["targets"] = report.targets(record)
    text = report.markdown(record)
    print(text)
    alone = not (arguments.quick or arguments.into or arguments.only)
    results = arguments.results or (ROOT / "benchmarks/RESULTS.md" if alone else None)
    if results is not None:
        report.append(results, f"Hugging Face engine, {started:%Y-%m-%d %H:%M}", text)
    say(f"The whole record: {out}")


def _exists(path: Path | None) -> bool:
    return path is not None and path.is_file()


def measure(
    arguments: argparse.Namespace, argv: Sequence[str] | None, started: dt.datetime
) -> dict[str, Any]:
    """Run what was asked for; the record, without the targets."""
    begun = time.monotonic()
    model_path = load_settings().hf_model_path
    folder = model_path / arguments.model
    if not (folder / "config.json").is_file():
        sys.exit(f"There is no model at {folder}. Run: workbench models pull demo")
    plan = plan_of(arguments)
    plan.entries = entries(arguments, model_path, plan.loads)
    record: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.hf_engine", *(argv or sys.argv[1:])]),
        "started": started.isoformat(timespec="seconds"),
        "environment": machine(),
        "load_average_before": os.getloadavg()[0],
        "keys": list(plan.entries),
        "loads": plan.loads,
        "turns": plan.turns,
        "tokens": plan.tokens,
        "seed": plan.seed,
    }
    run = Run(plan, folder)
    try:
        run.turns()
    except KeyboardInterrupt:
        say("stopped; what was measured is reported")
    gguf = arguments.gguf or next(model_path.glob(f"{arguments.model}-GGUF/*.gguf"), None)
    return record | {
        "wall_s": time.monotonic() - begun,
        "titles": run.titles,
        "bandwidth_bytes_per_s": run.bandwidth,
        "weight_bytes": weights(list(plan.entries), folder, gguf),
        "cells": run.cells,
        "ours": run.ours,
        "both": run.both,
        "quality": run.quality,
        "skipped": run.skipped,
        "failures": run.failures,
    }


if __name__ == "__main__":
    main()
