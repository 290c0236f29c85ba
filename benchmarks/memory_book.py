"""The memory book measured: predictions, cost, what trimming gives back, memory that others take.

Run: ``python -m benchmarks.memory_book [--loads 5] [--only predictions]``. It needs the demo model
and uses an engine of its own in this process, and beside it the Ollama server of the tests, with
real llama.cpp. Tables go to standard output as Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.conftest import DEMO_FOLDER, DEMO_GGUF
from tests.ollama_standin.fixture import StandIn
from workbench.engine import Engine, build
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ChatRequest, Message, Options

PROMPT: Final = "Write a long story about the sea and a lighthouse. " * 60
BALLAST: Final = """
import sys
held = bytearray(b"x") * int(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""
MB: Final = 10**6


@asynccontextmanager
async def engine(folder: Path, ollama_url: str, **changes: Any) -> AsyncIterator[Engine]:
    """An engine over a copy of the demo models, so that their first load is a first one."""
    models = folder / "models"
    if not models.exists():
        for source in DEMO_FOLDER.iterdir():
            if source.is_dir() and not source.name.startswith("."):
                shutil.copytree(source, models / source.name)
    settings = load_settings(
        _env_file=None,
        hf_model_path=models,
        hf_hub_cache=folder / "none",
        workbench_db=folder / "log.duckdb",
        ollama_host=ollama_url,
        hf_model_timeout_ms=120_000,
        **changes,
    )
    made = build(settings, Store.open(settings.workbench_db))
    made.prewarm()
    await asyncio.sleep(6)  # the imports that workers are forked from
    try:
        yield made
    finally:
        await made.close()


async def names(made: Engine) -> list[str]:
    """The demo model in both forms, and through Ollama."""
    listed = [info for info in (await made.list_models()).models if info.provider != "scripted"]
    own = sorted(info.id for info in listed if info.provider == "huggingface")
    return [*own, "ollama/smollm2:135m"]


async def answer(made: Engine, model: str, max_tokens: int = 32) -> None:
    """One answer to a long prompt."""
    request = ChatRequest(model, (Message("user", PROMPT),), Options(max_tokens=max_tokens))
    async for _ in made.stream(request):
        pass


async def predictions(made: Engine, loads: int) -> None:
    """Load each model some times, and compare what was predicted with what was measured."""
    print("| model | load | predicted (MB) | from | measured peak (MB) | off | answering (MB) |")
    print("|---|---|---|---|---|---|---|")
    for model in await names(made):
        for _ in range(loads):
            await answer(made, model)
            await asyncio.sleep(1.5)
            await made.unload(model)
        made.store.flush()
        rows = made.store.rows(
            "SELECT CAST(details -> 'memory' AS VARCHAR) AS m FROM model_events "
            "WHERE model = $model AND event = 'unload' ORDER BY created_at",
            {"model": model},
        )
        for number, row in enumerate(rows, start=1):
            told = json.loads(row["m"])
            print(
                f"| {model.rpartition('/')[2]} | {number} | "
                f"{sum(told['predicted_bytes'].values()) / MB:.0f} | {told['source']}"
                f"{' (with check)' if told['variant'] else ''} | "
                f"{sum(told['peak_bytes'].values()) / MB:.0f} | "
                f"{100 * (told['error_share'] or 0):.1f} % | "
                f"{sum(told['answering_bytes'].values()) / MB:.0f} |"
            )


async def cost(made: Engine, seconds: float) -> None:
    """CPU time of this process at rest: with nothing in memory, then with three idle models."""
    own = psutil.Process()

    async def share() -> float:
        await asyncio.sleep(3)
        before, began = sum(own.cpu_times()[:2]), time.monotonic()
        await asyncio.sleep(seconds)
        return (sum(own.cpu_times()[:2]) - before) / (time.monotonic() - began)

    empty = await share()
    for model in await names(made):
        await answer(made, model)
    full = await share()
    print("| in memory | share of a core |\n|---|---|")
    print(f"| nothing | {100 * empty:.2f} % |\n| three idle models | {100 * full:.2f} % |")


async def trimming(made: Engine) -> None:
    """What idle workers give back when they are asked to."""
    model = (await names(made))[0]
    await answer(made, model)
    await _until(lambda: made.book.held().get(model, {}).get("host", 0) > 0)
    await asyncio.sleep(3)
    before = made.book.held()[model]["host"]
    began = time.monotonic()
    await made.upkeep.give_back()
    await _until(lambda: made.book.held()[model]["host"] < before - 5 * MB, 10)
    after = made.book.held()[model]["host"]
    print("| worker | before (MB) | after (MB) | after (s) |\n|---|---|---|---|")
    print(f"| {model} | {before / MB:.0f} | {after / MB:.0f} | {time.monotonic() - began:.1f} |")


async def others(made: Engine) -> None:
    """Another program takes memory, then gives it back."""
    model = (await names(made))[0]
    await answer(made, model)
    await _until(lambda: made.book.held().get(model, {}).get("host", 0) > 0)
    await asyncio.sleep(2)
    limit, held = made.book.limits()["host"], made.book.held()[model]["host"]
    take = limit - held // 2
    began = time.monotonic()
    ballast = subprocess.Popen(  # noqa: ASYNC220 (nothing else waits)
        [sys.executable, "-c", BALLAST, str(take)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert ballast.stdout is not None
    await asyncio.to_thread(ballast.stdout.readline)
    taken_s = time.monotonic() - began
    await _until(lambda: not made.book.held().get(model), 30)
    evicted_s = time.monotonic() - began
    lowest = made.book.limits()["host"]
    ballast.communicate()
    began = time.monotonic()
    await _until(lambda: made.book.limits()["host"] > 0.9 * limit, 30)
    print("| step | value |\n|---|---|")
    print(f"| limit before, held by the model (MB) | {limit / MB:.0f}, {held / MB:.0f} |")
    print(f"| taken by another program (MB) in (s) | {take / MB:.0f}, {taken_s:.1f} |")
    print(f"| idle model evicted after (s) | {evicted_s:.1f} |")
    print(f"| limit then (MB) | {lowest / MB:.0f} |")
    print(f"| limit is back after it ended (s) | {time.monotonic() - began:.1f} |")


async def _until(condition: Callable[[], Any], patience_s: float = 60) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 (what it watches has no event)
            await asyncio.sleep(0.05)


async def run(chosen: argparse.Namespace) -> None:
    """All parts, or the one that was asked for."""
    parts: dict[str, tuple[dict[str, Any], Callable[[Engine], Any]]] = {
        "predictions": ({}, lambda made: predictions(made, chosen.loads)),
        "cost": ({}, lambda made: cost(made, chosen.seconds)),
        "trimming": ({}, trimming),
        "others": ({"narrow": True}, others),
    }
    with tempfile.TemporaryDirectory() as folder, StandIn(DEMO_GGUF) as ollama:
        for name, (how, part) in parts.items():
            if chosen.only not in (None, name):
                continue
            changes: dict[str, Any] = {}
            if how.get("narrow"):
                # A budget of 2.5 GB, so that little memory is a shortage.
                changes["workbench_memory_reserve"] = psutil.virtual_memory().available - 25 * 10**8
            async with engine(Path(folder), ollama.url, **changes) as made:
                print(f"\n**{name}** ({os.cpu_count()} cores)\n")
                await part(made)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--only", choices=["predictions", "cost", "trimming", "others"])
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
