"""One real server with all runtimes: scripted, the Ollama stand-in, a tiny Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import DEMO_GGUF
from tests.hf.test_tools import CALL
from tests.hf.tiny import save_caller, save_model
from tests.live import LiveServer
from tests.ollama_standin.fixture import StandIn

OLLAMA = "ollama/smollm2:135m"
OLLAMA_TOOLS = "ollama/caller:135m"
TINY = "huggingface/tiny"
CALLER = "huggingface/caller"

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Shared by all tests of this folder that do not stop it."""
    if not DEMO_GGUF.is_file():
        pytest.fail("The demo model is missing: run `make demo`.")
    folder = tmp_path_factory.mktemp("api")
    save_model(folder / "models" / "tiny")
    save_caller(folder / "models" / "caller", ["Let me see.", "<tool_call>", *CALL, "</tool_call>"])
    names = "smollm2:135m,caller:135m"
    with (
        StandIn(DEMO_GGUF, "--models", names, "--tools", "caller:135m") as ollama,
        LiveServer(
            folder,
            OLLAMA_HOST=ollama.url,
            HF_MODEL_PATH=str(folder / "models"),
            WORKBENCH_THREADS="1",
        ) as running,
    ):
        yield running
