"""What HTTP costs: the same call to the engine in this process, and to a server, in turns.

    python -m benchmarks.api_overhead [--rounds 10] [--tokens 64] [--model ID ...]

Both are stamped where the caller gets them: from the call to the first token, and from the first
token to the last. The server is a process of its own with an engine of its own; while one works
the other is idle, in random order, after a pause: what the answer before left to do (its row, a
last look at memory) would else make the way that comes next in the same process seem slower.
Prints a Markdown table of medians and of the ratios round by round (HTTP over
engine), then one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from tests.live import LiveServer
from workbench.engine import Engine, build
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ChatRequest, Message, Options, TokenEvent

PROMPT = "Turn {n}: write a long story about a lighthouse keeper and the sea."
WAYS = ("engine", "/api/v1/stream-message", "/v1/chat/completions")
SETTLE_S = 0.5
Seen = tuple[float, float]
"""Seconds to the first token, tokens a second after it."""


def figures(began: float, stamps: list[float], tokens: int) -> Seen:
    """From the moments at which text came, and how many tokens it was."""
    return stamps[0] - began, (tokens - 1) / (stamps[-1] - stamps[0])


def direct(engine: Engine, tokens: int) -> Callable[[str, str], Awaitable[Seen]]:
    """The engine in this process."""

    async def ask(model: str, prompt: str) -> Seen:
        options = Options(max_tokens=tokens, temperature=0.0)
        request = ChatRequest(model, (Message("user", prompt),), options, source="bench")
        began, stamps, total = time.perf_counter(), [], 0
        async for event in engine.stream(request):
            if isinstance(event, TokenEvent):
                total += event.n_tokens
                if event.text:
                    stamps.append(time.perf_counter())
        return figures(began, stamps, total)

    return ask


def over_http(http: httpx.AsyncClient, path: str, tokens: int) -> Callable[..., Awaitable[Seen]]:
    """A server, by server-sent events."""

    async def events(body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with http.stream("POST", path, json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    async def openai(model: str, prompt: str) -> Seen:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, stamps, total = time.perf_counter(), [], 0
        async for chunk in events(body):
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                stamps.append(time.perf_counter())
            total = (chunk["usage"] or {}).get("completion_tokens", total)
        return figures(began, stamps, total)

    async def own(model: str, prompt: str) -> Seen:
        options = {"max_tokens": tokens, "temperature": 0}
        began, stamps, total = time.perf_counter(), [], 0
        async for event in events({"model": model, "message": prompt, "options": options}):
            if event["type"] == "token":
                total += event["n_tokens"]
                if event["text"]:
                    stamps.append(time.perf_counter())
        return figures(began, stamps, total)

    return openai if path.startswith("/v1") else own


async def measure(
    url: str, folder: Path, models: list[str], rounds: int, tokens: int
) -> dict[str, dict[str, list[Seen]]]:
    """All figures, by model and way, in turns."""
    settings = load_settings(workbench_db=folder / "direct.duckdb", workbench_offline=True)
    engine = build(settings, Store.open(settings.workbench_db))
    seen: dict[str, dict[str, list[Seen]]] = {model: {way: [] for way in WAYS} for model in models}
    async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as http:
        ways = {way: over_http(http, way, tokens) for way in WAYS[1:]}
        ways["engine"] = direct(engine, tokens)
        try:
            for model in models:
                for way in WAYS:
                    await ways[way](model, PROMPT.format(n=0))  # loads and warms up
                for n in range(1, rounds + 1):
                    for way in random.sample(WAYS, len(WAYS)):
                        await asyncio.sleep(SETTLE_S)
                        seen[model][way].append(await ways[way](model, PROMPT.format(n=n)))
        finally:
            await engine.close()
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", action="append", help="model ids; default: scripted and demo")
    arguments = parser.parse_args()
    models = arguments.model or ["scripted/steady", "SmolLM2-135M-Instruct"]
    home = str(load_settings().hf_model_path)
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder), HF_MODEL_PATH=home) as server,
    ):
        seen = asyncio.run(
            measure(server.url, Path(folder), models, arguments.rounds, arguments.tokens)
        )
    print("| model | way | TTFT ms | ratio | tokens/s | ratio |")
    print("|---|---|---|---|---|---|")
    for model, ways in seen.items():
        for way, values in ways.items():
            cells = []
            for index, factor in ((0, 1e3), (1, 1.0)):
                median = statistics.median(value[index] for value in values)
                pairs = zip(values, ways["engine"], strict=True)
                ratio = statistics.median(a[index] / b[index] for a, b in pairs)
                cells += [f"{median * factor:.1f}", f"{ratio:.3f}"]
            print(f"| {model} | {way} | {' | '.join(cells)} |")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
