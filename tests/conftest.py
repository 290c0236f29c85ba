"""What all tests share: settings, an engine over real parts, the demo model, the stand-in."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.alone import among_others
from workbench.engine import Engine
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.router import ModelRouter
from workbench.settings import Settings, load_settings
from workbench.store import Store
from workbench.ui import stubs

ROOT = Path(__file__).parent.parent
DEMO_FOLDER = ROOT / "data" / "models" / "huggingface"
DEMO_GGUF = DEMO_FOLDER / "SmolLM2-135M-Instruct-GGUF" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_ID = "huggingface/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"

# CI sees the same few examples at every run: what is new there is the code. Others are looked for
# with HYPOTHESIS_PROFILE=long, or --hypothesis-profile=long.
hypothesis.settings.register_profile("short", max_examples=40, derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=2_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

stubs.leave_out()  # some tests import gradio


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # In the background of a shell Ctrl+C is ignored, also by what the tests start and press it for.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of what counts a test's time
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test waits here for its turn."""
    with among_others(item):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that run alone come last: before each of them others would wait, too."""
    alone = {item.path for item in items if item.get_closest_marker("alone")}
    items.sort(key=lambda item: item.path in alone)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's settings, database or Ollama server."""
    for name in list(os.environ):
        if name.startswith(("WORKBENCH_", "HF_", "OLLAMA_")) and "_TEST_" not in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("WORKBENCH_DB", str(tmp_path / "log" / "workbench.duckdb"))
    monkeypatch.setenv("HF_MODEL_PATH", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # the discard port: nothing listens there
    monkeypatch.setenv("WORKBENCH_OFFLINE", "true")
    # Two runtimes that spin on the same cores slow each other down tenfold; tests run side by side.
    monkeypatch.setenv("WORKBENCH_THREADS", "1")


@pytest.fixture
def settings() -> Settings:
    """Settings of the isolated environment."""
    return load_settings(_env_file=None)


@pytest.fixture(scope="session")
def empty_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that nothing was written into; to make one takes longer than most tests."""
    made = tmp_path_factory.mktemp("empty") / "workbench.duckdb"
    Store.open(made).close()
    return made


@pytest.fixture
def store(settings: Settings, empty_log: Path) -> Iterator[Store]:
    """A real DuckDB file."""
    settings.workbench_db.parent.mkdir()
    shutil.copy(empty_log, settings.workbench_db)
    with Store.open(settings.workbench_db) as opened:
        yield opened


EngineFactory = Callable[..., Engine]


@pytest.fixture
async def make_engine(settings: Settings, store: Store) -> AsyncIterator[EngineFactory]:
    """Build engines whose only provider plays the given schedules; closed at the end."""
    built: list[Engine] = []

    def make(schedules: dict[str, Schedule] | None = None, **changes: object) -> Engine:
        router = ModelRouter()
        router.register_provider(ScriptedProvider(schedules) if schedules else ScriptedProvider())
        engine = Engine(settings.model_copy(update=changes), router, store)
        built.append(engine)
        return engine

    yield make
    for engine in built:
        await engine.close()


@pytest.fixture
async def set_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock of the event loop forward: a wait that would end in these seconds ends now.

    So a limit may be far longer than anything takes on a slow machine.
    """
    loop = asyncio.get_running_loop()
    real, by = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + sum(by))
    return by.append


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The model folder with the demo model."""
    if not DEMO_GGUF.is_file():
        pytest.fail("The demo model is missing: run `make demo`.")
    return DEMO_FOLDER


@pytest.fixture(scope="session")
def demo_safetensors(demo_folder: Path) -> str:
    """Model id of the safetensors variant (its folder depends on where it came from)."""
    for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"):
        if (demo_folder / name / "config.json").is_file():
            return f"huggingface/{name}"
    pytest.fail("The demo model is missing: run `make demo`.")
