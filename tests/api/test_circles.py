"""Workbenches that are registered with each other, and with themselves, ask in no circle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import LiveServer
from tests.providers.ollama_support import Wire, http, wire
from tests.providers.openai_support import MODEL

KEY = "of-both"


def registered(**urls: str) -> str:
    """These servers, as the setting names them."""
    found = [{"name": name, "base_url": f"{url}/v1", "api_key": KEY} for name, url in urls.items()]
    return json.dumps(found)


def names(server: LiveServer, **headers: str) -> set[str]:
    with server.client() as client:
        answer = client.get("/v1/models", headers=headers).raise_for_status().json()
    return {entry["id"] for entry in answer["data"]}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[LiveServer, LiveServer, Wire]]:
    """Two that know each other and themselves, and a server that only the second one knows."""

    def reply(path: str, body: dict[str, Any]) -> bytes:
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        return http(json.dumps(listed), "200 OK", "Content-Type: application/json")

    async with wire(reply) as box:
        folders = [tmp_path / "first", tmp_path / "second"]
        for folder in folders:
            folder.mkdir()
        # Looked at once, at the first request, and never again while the test counts.
        quiet = {"WORKBENCH_API_KEY": KEY, "WORKBENCH_RUNTIME_WATCH_S": "3600"}
        first, second = (LiveServer(folder, **quiet) for folder in folders)
        first.environment["OPENAI_COMPAT_ENDPOINTS"] = registered(me=first.url, other=second.url)
        second.environment["OPENAI_COMPAT_ENDPOINTS"] = registered(
            other=first.url, me=second.url, box=box.url
        )
        await asyncio.to_thread(first.__enter__)
        try:
            await asyncio.to_thread(second.__enter__)
            try:
                yield first, second, box
            finally:
                await asyncio.to_thread(second.__exit__, None, None, None)
        finally:
            await asyncio.to_thread(first.__exit__, None, None, None)


async def test_each_shows_the_others_own_models_and_nobody_asks_in_circles(
    pair: tuple[LiveServer, LiveServer, Wire],
) -> None:
    first, second, box = pair
    for _ in range(3):  # from the second time on each knows what the other is
        told = await asyncio.to_thread(names, first)
        assert {"scripted/steady", "me/scripted/steady", "other/scripted/steady"} <= told
        assert f"other/box/{MODEL}" in told  # a server of the other that is no workbench
        round_about = ("me/me/", "me/other/", "other/me/", "other/other/")
        assert not [one for one in told if one.startswith(round_about)]
    # One each time, and what both looked at when they started.
    assert len(box.paths) < 10
    assert "other/scripted/steady" in await asyncio.to_thread(names, second)

    for hops, asks_on in (("1", True), ("no number", True), ("2", False), ("999", False)):
        told = await asyncio.to_thread(names, second, **{"X-Workbench-Hops": hops})
        assert "scripted/steady" in told
        assert not [one for one in told if one.startswith(("me/", "other/"))]
        assert (f"box/{MODEL}" in told) == asks_on
