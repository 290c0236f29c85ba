"""The server under contract: the stand-in, or a real one when an environment variable names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ollama_standin.fixture import StandIn

_ROOT = Path(__file__).resolve().parents[2]
_DEMO_MODEL = "data/models/huggingface/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"
_TIMEOUT = httpx.Timeout(60.0)


@dataclass(frozen=True)
class Target:
    """Where requests go; ``stand_in`` is None for a real server, whose processes stay untouched."""

    url: str
    model: str
    stand_in: StandIn | None

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **{"timeout": _TIMEOUT, **options})

    def owned(self) -> StandIn:
        """The stand-in, for tests that kill or measure processes."""
        if self.stand_in is None:
            pytest.skip("needs a server whose processes the test may touch")
        return self.stand_in


@pytest.fixture(scope="session")
def gguf() -> Path:
    path = Path(os.environ.get("WORKBENCH_TEST_GGUF") or _ROOT / _DEMO_MODEL)
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `make demo`, or set WORKBENCH_TEST_GGUF")
    return path


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    model = os.environ.get("WORKBENCH_TEST_OLLAMA_MODEL", "smollm2:135m")
    real = os.environ.get("WORKBENCH_TEST_OLLAMA_HOST")
    if real:
        yield Target(real, model, None)
        return
    with StandIn(request.getfixturevalue("gguf"), "--models", model) as stand_in:
        yield Target(stand_in.url, model, stand_in)


@pytest.fixture
def client(target: Target) -> Iterator[httpx.Client]:
    with target.client() as client:
        yield client
