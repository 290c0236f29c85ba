"""Who may speak to the server: every combination of address, origin and key."""

from __future__ import annotations

import base64
import hmac

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from workbench.api.security import Guard, check_address, is_loopback, matches
from workbench.errors import WorkbenchError
from workbench.settings import Settings


async def status(settings: Settings, path: str = "/", **headers: str) -> int:
    async def hello(request: object) -> PlainTextResponse:
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/", hello), Route("/health/live", hello)])
    guarded = Guard(app, settings, token="the-token")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded)) as client:
        url = f"http://{headers.pop('host', '127.0.0.1:7860')}{path}"
        return (await client.get(url, headers=headers)).status_code


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return settings.model_copy(update={"workbench_api_key": "grüße", "workbench_host": "0.0.0.0"})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"host": "localhost:7860"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_without_a_key(settings: Settings, headers: dict[str, str], expected: int) -> None:
    assert await status(settings, **headers) == expected


async def test_two_lengths_of_a_body_are_one_too_many(settings: Settings) -> None:
    both = {"content-length": "3", "transfer-encoding": "chunked"}
    assert await status(settings, **both) == 400
    del both["content-length"]
    assert await status(settings, **both) == 200


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"any:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer the-token"}, 200),
        ({"authorization": basic("grüße")}, 200),
        ({"authorization": basic("wrong")}, 401),
        ({"authorization": "Basic !!!"}, 401),
        ({"x-api-key": "the-token"}, 200),
        ({"x-api-key": "the-token", "host": "box.example"}, 200),
        # A browser sends a remembered password for any page: the origin must be ours.
        ({"authorization": basic("grüße"), "origin": "https://evil.example"}, 403),
    ],
)
async def test_with_a_key(keyed: Settings, headers: dict[str, str], expected: int) -> None:
    assert await status(keyed, **headers) == expected


def test_every_key_is_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes must not tell which of them was right, or how nearly."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr("workbench.api.security.hmac.compare_digest", counted)
    assert matches([b"right", b"wrong"], ("right", "other"))
    assert len(compared) == 4
    assert not matches([], ("right",))


async def test_liveness_needs_no_key(keyed: Settings) -> None:
    assert await status(keyed, "/health/live") == 200


def test_only_loopback_needs_no_key(settings: Settings, keyed: Settings) -> None:
    check_address(settings)
    check_address(keyed)
    with pytest.raises(WorkbenchError, match="WORKBENCH_API_KEY"):
        check_address(settings.model_copy(update={"workbench_host": "192.168.1.5"}))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("10.0.0.1", False),
        ("example.com", False),
        ("", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
