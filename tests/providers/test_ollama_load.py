"""A load through the engine whose connection breaks off: it is asked for again, and is one load."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest

from tests.ollama_standin.fixture import StandIn
from tests.providers.ollama_support import MODEL
from tests.reliability.gate import Fault, Gate, Wire
from workbench.engine import Engine
from workbench.providers.ollama import OllamaProvider
from workbench.router import ModelRouter
from workbench.settings import Settings
from workbench.store import Store

pytestmark = pytest.mark.model


@pytest.fixture
async def gate(standin: StandIn) -> AsyncIterator[Gate]:
    opened = Gate(urlsplit(standin.url).port or 0)
    await opened.open()
    yield opened
    await opened.shut()


async def test_a_load_whose_connection_breaks_off_is_one_load(
    empty_ollama: OllamaProvider,
    gate: Gate,
    connect_ollama: Callable[..., OllamaProvider],
    settings: Settings,
    store: Store,
) -> None:
    async def reset(wire: Wire) -> None:
        wire.reset()

    router = ModelRouter()
    router.register_provider(connect_ollama(gate.url))
    engine = Engine(settings, router, store)
    with gate.armed(gate.loads, MODEL, Fault(reset, times=1)) as fault:
        loaded = await engine.load(f"ollama/{MODEL}")
    assert fault.met == 1
    store.flush()
    (row,) = store.rows("FROM model_events")
    assert (row["event"], row["ok"]) == ("load", True)
    # The whole wait, the broken try included, and no more than the caller's.
    assert 0.05 < row["duration_s"] <= loaded["duration_s"]
    assert engine.book.held()[f"ollama/{MODEL}"]
    await engine.close()
