"""Whatever fails, whoever reads gets a last event, the row is tried, and the next one is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.conftest import EngineFactory
from tests.test_engine import QUICK, ask, run
from workbench import draft
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.scripted import ScriptedProvider
from workbench.router import ModelRouter
from workbench.side_by_side import side_by_side
from workbench.store import Store
from workbench.types import ChatRequest, DoneEvent, ErrorEvent, ModelInfo, StreamEvent


def fails(*args: object, **named: object) -> Any:
    raise OSError("no space for it")


async def last_of(engine: Engine, request: ChatRequest) -> ErrorEvent:
    async with asyncio.timeout(30):  # where it fails, it would wait for ever
        last = (await run(engine, request))[-1]
    assert isinstance(last, ErrorEvent)
    assert last.error.code is ErrorCode.INTERNAL
    assert "no space for it" in last.error.message
    return last


@pytest.mark.parametrize(
    ("part", "method", "answered", "rows"),
    [
        ("_journal", "begin", False, ["error", "ok"]),
        ("monitor", "unwatch", True, ["error", "ok"]),
        ("store", "log_session", True, ["ok"]),
    ],
)
async def test_a_part_that_fails_leaves_no_reader_waiting(
    make_engine: EngineFactory,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    method: str,
    answered: bool,
    rows: list[str],
) -> None:
    engine = make_engine({"quick": QUICK})
    with monkeypatch.context() as broken:
        broken.setattr(getattr(engine, part), method, fails)
        last = await last_of(engine, ask("quick"))
    assert bool(last.session.text) is answered, "what came is kept"
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)
    logged = store.rows("SELECT status FROM stream_sessions ORDER BY created_at")
    assert [row["status"] for row in logged] == rows


async def test_an_answer_without_figures_is_a_row_without_them(
    make_engine: EngineFactory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, real = make_engine({"quick": QUICK}), draft.with_tokens
    monkeypatch.setattr(
        draft, "with_tokens", lambda row, told: (fails if told else real)(row, told)
    )
    await last_of(engine, ask("quick"))
    (row,) = store.rows("SELECT status, error_code, output_tokens FROM stream_sessions")
    assert row == {"status": "error", "error_code": "INTERNAL", "output_tokens": None}


async def test_a_comparison_goes_on_beside_a_defect(make_engine: EngineFactory) -> None:
    engine = make_engine({"quick": QUICK})

    async def stream(request: ChatRequest) -> AsyncGenerator[StreamEvent, None]:
        if request.model == "scripted/defect":
            fails()
        async for event in engine.stream(request):
            yield event

    last: dict[int, StreamEvent] = {}
    async with asyncio.timeout(30):
        async for index, event in side_by_side(stream, [ask("defect"), ask("quick")]):
            last[index] = event
    assert isinstance(last[0], ErrorEvent)
    assert last[0].error.code is ErrorCode.INTERNAL
    assert isinstance(last[1], DoneEvent)


class Lists(ScriptedProvider):
    """A provider whose list of models is not one."""

    answer: Any = None

    async def list_models(self) -> list[ModelInfo]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "answer",
    [
        KeyError("models"),
        asyncio.CancelledError(),
        None,
        ["a name"],
        [ModelInfo(id="scripted/quick", name="quick", provider="scripted")],
    ],
)
async def test_a_provider_that_cannot_list_its_models_hides_no_others(answer: Any) -> None:
    router = ModelRouter()
    bad = Lists({}, name="bad")
    bad.answer = answer
    router.register_provider(bad)
    router.register_provider(ScriptedProvider({"quick": QUICK}))
    listing = await router.list_models()
    assert [model.id for model in listing.models] == ["scripted/quick"]
    assert listing.problems["bad"].code is ErrorCode.INTERNAL
    assert "provider bad" in listing.problems["bad"].message
    assert (await router.resolve("quick")).model == "scripted/quick"
    with pytest.raises(WorkbenchError, match="bad could not be asked"):
        await router.resolve("nothing")
