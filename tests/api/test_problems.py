"""What is wrong with a body is said with a fix."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from workbench.api import handlers
from workbench.api.calls import Generate
from workbench.api.problems import wrong_field
from workbench.engine import Engine
from workbench.providers.scripted import Schedule, ScriptedProvider, Step
from workbench.router import ModelRouter
from workbench.server import create_app
from workbench.settings import Settings
from workbench.store import Store


@pytest.mark.parametrize(
    ("changes", "message", "fix"),
    [
        ({"priority": "urgent"}, "priority: Input should be", "Use 'interactive' or 'benchmark'."),
        ({"mesage": "Hi"}, "mesage: Extra inputs", "See GET /api/docs."),
        ({"message": 3}, "message: Input should be a valid string", "See GET /api/docs."),
    ],
)
def test_a_wrong_field_has_a_fix(changes: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(ValidationError) as found:
        Generate.model_validate({"model": "a/b", "message": "Hi", **changes})
    told = wrong_field(found.value.errors()[0])
    assert told.message.startswith(message)
    assert told.fix == fix
    assert told.details["option"] in told.message


async def _asked(content: bytes, **headers: str) -> dict[str, Any]:
    app = FastAPI()

    @app.post("/ask")
    async def ask(body: Generate) -> None:
        """Nothing."""

    handlers.install(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.post("/ask", content=content, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize(
    ("content", "kind", "message", "fix"),
    [
        (b'{"model": "a/b"}', "", "does not say that it is JSON", "Content-Type: application/json"),
        (b'{"model": "a/b', "text/plain", "does not say", "Content-Type: application/json"),
        (b'{"model": "a/b', "application/json", "at character 10", "one whole JSON object"),
        (b'{"model": "\xff"}', "application/json", "parsing the body", "UTF-8"),
        (b"[" * 100_000, "application/json", "parsing the body", "few brackets"),
    ],
)
async def test_a_body_that_cannot_be_read_has_a_fix(
    content: bytes, kind: str, message: str, fix: str
) -> None:
    told = await _asked(content, **({"Content-Type": kind} if kind else {}))
    assert message in told["message"]
    assert fix in told["fix"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_holds_what_is_no_text_is_an_answer(
    settings: Settings, store: Store, stream: bool
) -> None:
    half = Schedule((Step(0, "so \ud83d it goes"),))
    router = ModelRouter()
    router.register_provider(ScriptedProvider({"half": half}))
    app = create_app(settings, Engine(settings, router, store), page=False)
    asked = {"model": "scripted/half", "messages": [{"role": "user", "content": "Hi"}]}
    with TestClient(app, f"http://127.0.0.1:{settings.workbench_port}") as client:
        answer = client.post("/v1/chat/completions", json={**asked, "stream": stream})
    assert answer.status_code == 200
    assert "it goes" in answer.text
