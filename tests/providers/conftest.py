"""The Ollama stand-in, and providers that talk to it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ollama_standin.fixture import StandIn
from tests.providers.ollama_support import MODEL
from workbench.providers.ollama import OllamaProvider
from workbench.settings import load_settings

_ROOT = Path(__file__).resolve().parents[2]
_DEMO = "data/models/huggingface/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The weights behind the stand-in's models."""
    path = Path(os.environ.get("WORKBENCH_TEST_GGUF") or _ROOT / _DEMO)
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `make demo`, or set WORKBENCH_TEST_GGUF")
    return path


@pytest.fixture(scope="session")
def standin(gguf: Path) -> Iterator[StandIn]:
    """One server for the tests that do not break it."""
    with StandIn(gguf) as server:
        yield server


@pytest.fixture
async def connect_ollama() -> AsyncIterator[Callable[..., OllamaProvider]]:
    """Make providers that are closed after the test."""
    made: list[OllamaProvider] = []

    def make(url: str, **settings: Any) -> OllamaProvider:
        made.append(OllamaProvider(load_settings(ollama_host=url, **settings)))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def ollama_provider(
    standin: StandIn, connect_ollama: Callable[..., OllamaProvider]
) -> OllamaProvider:
    """A provider of the shared server, which may have the model in memory from another test."""
    return connect_ollama(standin.url)


@pytest.fixture
async def empty_ollama(standin: StandIn, ollama_provider: OllamaProvider) -> OllamaProvider:
    """The same while nothing is in memory."""
    await ollama_provider.unload(MODEL)
    standin.wait_for_runners(0)
    return ollama_provider
