"""What an Ollama model takes: expected from its server's words, measured of its runner."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.ollama_standin.fixture import StandIn
from tests.providers.ollama_support import MODEL
from workbench.errors import ErrorCode, WorkbenchError
from workbench.ledger import Ledger
from workbench.providers.base import Footprint
from workbench.providers.ollama import OllamaProvider
from workbench.router import Route
from workbench.settings import load_settings

pytestmark = pytest.mark.model
measures = pytest.mark.alone  # a file mapped by two processes counts half for each


@measures
async def test_expected_is_near_what_the_runner_takes(
    empty_ollama: OllamaProvider, standin: StandIn
) -> None:
    ledger = Ledger(load_settings(), {"ollama": empty_ollama})
    route = Route(empty_ollama, MODEL)
    await ledger.prepare(route, 4096)
    expected = ledger.predict(route, 4096).bytes["host"]
    ledger.loading(route, 4096)
    ledger.loaded(route, await empty_ollama.load(MODEL, keep_alive_s=60, num_ctx=4096))
    ledger._take(ledger._census.look())
    measured = ledger.held()[route.model]["host"]
    # The cache for 4,096 tokens is reserved by the load and held only where it has been written.
    assert 0.5 * expected < measured < 1.1 * expected
    ledger.close()


@measures
async def test_models_loaded_by_others_are_found_and_known_as_theirs(
    empty_ollama: OllamaProvider, standin: StandIn
) -> None:
    ledger = Ledger(load_settings(workbench_evict_others=True), {"ollama": empty_ollama})
    body = {"model": MODEL, "messages": [], "stream": False, "keep_alive": 60}
    async with httpx.AsyncClient(base_url=standin.url, trust_env=False, timeout=60) as other:
        await other.post("/api/chat", json=body)
    await empty_ollama.refresh()
    assert empty_ollama.residents() == [MODEL]
    ledger._take(ledger._census.look())
    assert ledger.held()[f"ollama/{MODEL}"]["host"] > 100e6
    assert [route.name for route in ledger.strangers().values()] == [MODEL]
    await empty_ollama.unload(MODEL)
    await empty_ollama.refresh()
    assert empty_ollama.residents() == []
    ledger.close()


async def test_a_server_elsewhere_takes_nothing_here(
    connect_ollama: Callable[..., OllamaProvider],
) -> None:
    far = connect_ollama("http://192.0.2.1:11434")  # an address for documentation: never reached
    assert await far.footprint(MODEL) == Footprint({}, {})
    assert far.pids(MODEL) == ()


async def test_an_absent_server_says_nothing(
    connect_ollama: Callable[..., OllamaProvider],
) -> None:
    absent = connect_ollama("http://127.0.0.1:9")
    assert await absent.footprint(MODEL) is None
    with pytest.raises(WorkbenchError, match=ErrorCode.OLLAMA_UNREACHABLE):
        await absent.refresh()
    assert absent.residents() == []


async def test_names_of_one_file_share_its_runner_from_the_first_look(
    empty_ollama: OllamaProvider, standin: StandIn
) -> None:
    twin = "Twin:1B"
    async with httpx.AsyncClient(base_url=standin.url, trust_env=False, timeout=60) as other:
        await other.post("/api/copy", json={"source": MODEL, "destination": twin})
    ledger = Ledger(load_settings(), {"ollama": empty_ollama})
    try:
        await empty_ollama.refresh()
        assert twin in empty_ollama.sharing(MODEL), "as it was written"
        assert {f"ollama/{MODEL}", f"ollama/{twin}"} <= ledger.shared(f"ollama/{twin}"), "listed"
        for name in (MODEL, twin):
            await ledger.prepare(Route(empty_ollama, name))
        assert {f"ollama/{MODEL}", f"ollama/{twin}"} <= ledger.shared(f"ollama/{twin}")
        await empty_ollama.load(MODEL, keep_alive_s=60)
        assert empty_ollama.resident(twin) is not None, "before it was ever asked for by this name"
        assert not (await empty_ollama.load(twin, keep_alive_s=60)).fresh
        await empty_ollama.unload(MODEL)
        assert empty_ollama.resident(twin) is None, "it has left with it"
    finally:
        ledger.close()
        async with httpx.AsyncClient(base_url=standin.url, trust_env=False) as other:
            await other.request("DELETE", "/api/delete", json={"model": twin})
