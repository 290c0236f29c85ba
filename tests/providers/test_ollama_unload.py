"""An Ollama model's unload through the engine: its runner's memory is what must come back."""

from __future__ import annotations

import psutil
import pytest

from tests.ollama_standin.fixture import StandIn
from tests.providers.ollama_support import MODEL
from workbench.engine import Engine
from workbench.providers.ollama import OllamaProvider
from workbench.router import ModelRouter
from workbench.settings import Settings
from workbench.store import Store


async def test_unload_gives_back_what_the_runner_held(
    empty_ollama: OllamaProvider, standin: StandIn, settings: Settings, store: Store
) -> None:
    router = ModelRouter()
    router.register_provider(empty_ollama)
    engine = Engine(settings, router, store)
    await engine.load(f"ollama/{MODEL}")
    (pid,) = standin.runner_pids()
    held = psutil.Process(pid).memory_full_info().uss
    await engine.unload(f"ollama/{MODEL}")
    assert standin.runner_pids() == []
    store.flush()
    (row,) = store.rows("FROM model_events WHERE event = 'unload'")
    assert (row["model"], row["ok"], row["leak"]) == (f"ollama/{MODEL}", True, False)
    assert row["expected_bytes"] == pytest.approx(held, rel=0.05)
    assert row["recovered_bytes"] == row["expected_bytes"]
    await engine.close()
