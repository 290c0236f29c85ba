"""What the workbench costs and gains against its peers, on this machine, now.

Two pairs, each in turns (A B A B ...), so that a machine that drifts drifts for both:

* Hugging Face through the workbench against plain ``transformers.generate``;
* Ollama through the workbench against the plain ``ollama`` client (when a server answers at
  ``OLLAMA_HOST``).

Prints a Markdown table of medians and of the ratios pair by pair, then one line of JSON. Ratios
are what to quote: absolute figures belong to one machine and one hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import Workbench
from workbench.errors import WorkbenchError

PROMPT = "Turn {n}: write a long story about a lighthouse keeper and the sea."
FIGURES = ("ttft_s", "decode_tps")
Measure = Callable[[str], dict[str, Any]]


def through_workbench(wb: Workbench, model: str, max_tokens: int) -> Measure:
    """One answer over the engine."""

    def measure(prompt: str) -> dict[str, Any]:
        session = wb.chat(model, prompt, max_tokens=max_tokens, temperature=0, source="bench")
        return {name: session.metrics[name] for name in FIGURES} | {"tokens": session.output_tokens}

    return measure


def plain_transformers(peer: subprocess.Popen[str], max_tokens: int) -> Measure:
    """One answer of the plain peer process."""

    def measure(prompt: str) -> dict[str, Any]:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write(json.dumps({"prompt": prompt, "max_tokens": max_tokens}) + "\n")
        peer.stdin.flush()
        return dict(json.loads(peer.stdout.readline()))

    return measure


def plain_ollama(host: str, model: str, max_tokens: int) -> Measure:
    """One answer of the plain client, with the options that the workbench sends."""
    import ollama

    client = ollama.Client(host=host, trust_env=False)

    def measure(prompt: str) -> dict[str, Any]:
        started = time.monotonic()
        stamps: list[float] = []
        for line in client.chat(
            model,
            [{"role": "user", "content": prompt}],
            stream=True,
            options={
                "temperature": 0,
                "top_p": 0.9,
                "top_k": 50,
                "repeat_penalty": 1.0,
                "num_predict": max_tokens,
            },
        ):
            stamps.append(time.monotonic())
            counts = line
        assert counts.eval_count is not None  # the last line has it
        return {
            "ttft_s": stamps[0] - started,
            "decode_tps": (counts.eval_count - 1) / (stamps[-1] - stamps[0]),
            "tokens": counts.eval_count,
        }

    return measure


def in_turns(a: Measure, b: Measure, turns: int) -> dict[str, Any]:
    """Run both ``turns`` times alternately, after one warm-up each that is no turn."""
    for measure in (a, b):
        measure(PROMPT.format(n=0))
    pairs = []
    for n in range(1, turns + 1):
        order = (a, b) if n % 2 else (b, a)
        results = {id(measure): measure(PROMPT.format(n=n)) for measure in order}
        pairs.append((results[id(a)], results[id(b)]))
    table: dict[str, Any] = {}
    for name in FIGURES:
        ratios = sorted(ours[name] / theirs[name] for ours, theirs in pairs)
        table[name] = {
            "workbench": statistics.median(ours[name] for ours, _ in pairs),
            "peer": statistics.median(theirs[name] for _, theirs in pairs),
            "ratio": statistics.median(ratios),
            "ratio_min": ratios[0],
            "ratio_max": ratios[-1],
        }
    return table


def main() -> None:
    """Measure what is there and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wb = stack.enter_context(Workbench(remote=False, workbench_db=folder / "bench.duckdb"))
        settings = wb.settings
        models, problems = wb.list_models()
        usable = [model for model in models if model.status in ("available", "resident")]
        local = next((m for m in usable if m.format == "safetensors"), None)
        if local is None:
            sys.exit("There is no safetensors model. Run: workbench models pull demo")
        peer = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.plain_generate",
                str(settings.hf_model_path / local.name),
                str(settings.threads),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert peer.stdout is not None
        peer.stdout.readline()
        results[f"{local.id} / plain generate"] = in_turns(
            through_workbench(wb, local.id, arguments.max_tokens),
            plain_transformers(peer, arguments.max_tokens),
            arguments.turns,
        )
        peer.terminate()
        peer.wait()
        remote = next((m for m in usable if m.provider == "ollama"), None)
        if remote is not None:
            results[f"{remote.id} / plain client"] = in_turns(
                through_workbench(wb, remote.id, arguments.max_tokens),
                plain_ollama(settings.ollama_host, remote.name, arguments.max_tokens),
                arguments.turns,
            )
        elif isinstance(problem := problems.get("ollama"), WorkbenchError):
            print(f"Ollama is left out: {problem.message}")
    print("| pair | figure | workbench | peer | ratio | range |")
    print("|---|---|---|---|---|---|")
    for pair, table in results.items():
        for name, row in table.items():
            print(
                f"| {pair} | {name} | {row['workbench']:.4g} | {row['peer']:.4g} "
                f"| {row['ratio']:.3f} | {row['ratio_min']:.3f} to {row['ratio_max']:.3f} |"
            )
    print(json.dumps({"turns": arguments.turns, "results": results}))


if __name__ == "__main__":
    main()
