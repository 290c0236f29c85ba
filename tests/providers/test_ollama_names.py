"""One model of Ollama is one model in the log, by whatever name and whatever became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.ollama_standin.fixture import StandIn
from workbench.admission import rejected
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.ollama import OllamaProvider
from workbench.rescue import Rescue
from workbench.router import ModelRouter, Route
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ChatRequest, DoneEvent, ErrorEvent, Message, Options, StreamSession
from workbench.ways import Ways


async def ask(log: Path, url: str, *models: str) -> list[StreamSession]:
    """Ask each on a server there, into the log."""
    settings = load_settings(_env_file=None, ollama_host=url)
    router = ModelRouter()
    router.register_provider(OllamaProvider(settings))
    engine, found = Engine(settings, router, Store.open(log)), []
    try:
        for model in models:
            request = ChatRequest(model, (Message("user", "Hi"),), Options(max_tokens=3))
            async with asyncio.timeout(120):
                *_, last = [event async for event in engine.stream(request)]
            assert isinstance(last, DoneEvent | ErrorEvent)
            found.append(last.session)
    finally:
        await engine.close()  # and the log with it
    return found


def outcomes(sessions: list[StreamSession]) -> list[str]:
    return [session.error.code if session.error else "ok" for session in sessions]


async def test_failures_count_in_the_row_of_their_model(gguf: Path, tmp_path: Path) -> None:
    log = tmp_path / "names.duckdb"
    with StandIn(gguf, "--models", "only2:latest") as server:
        found = await ask(log, server.url, "ollama/only2", "only2", "ollama/other")
        assert outcomes(found) == ["ok", "ok", "OLLAMA_MODEL_NOT_FOUND"]
    found = await ask(log, server.url, "ollama/only2", "ollama/only2:latest")  # it is gone
    assert outcomes(found) == ["OLLAMA_UNREACHABLE"] * 2
    with Store.open_readonly(log) as store:
        boards = [store.rows(f"FROM {of}_leaderboard ORDER BY model") for of in ("model", "team")]
        rates = store.rows("SELECT model, errors, sessions FROM error_rates ORDER BY model")
        asked = store.rows("SELECT requested_model AS name FROM stream_sessions ORDER BY seq")
    for rows in boards:
        assert [(row["model"], row["quantization"], row["device"]) for row in rows] == [
            ("ollama/only2:latest", "Q4_1", "cpu"),
            ("ollama/other:latest", None, None),
        ], "only who never answered has no form"
        assert [(row["sessions"], row["sessions_ok"]) for row in rows] == [(4, 2), (1, 0)]
    assert rates == [
        {"model": "ollama/only2:latest", "errors": 2, "sessions": 4},
        {"model": "ollama/other:latest", "errors": 1, "sessions": 1},
    ]
    assert [row["name"] for row in asked][:2] == ["ollama/only2", "only2"], "as it was asked"


def test_a_fallback_is_found_by_either_name() -> None:
    settings = load_settings(_env_file=None, workbench_fallbacks="ollama/x=scripted/steady")
    router = ModelRouter()
    router.register_provider(OllamaProvider(settings))
    rescue = Rescue(settings, router, Ways(router).to_answer)
    request = ChatRequest("ollama/x", (Message("user", "Hi"),))
    error = WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, "nobody there")
    for model, helped in (("ollama/x:latest", True), ("ollama/y:latest", False)):
        failed = rejected(replace(request, model=model), error)
        route = Route(router.providers["ollama"], model.partition("/")[2])
        assert rescue.possible(request, route, failed) is helped
