"""Where files lie is nobody's business but the server's own user's.

Errors and worker output name folders, which helps whoever runs the server. To others (who hold the
API key, not the server file's token) the folders' names are replaced, in whatever answer they are:
by words that are plain text in HTML too, as the page's updates are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.api.security import credentials, matches
from workbench.discovery import database
from workbench.folders import data_folder
from workbench.settings import Settings

_TEXT: Final = ("application/json", "application/problem+json", "text/event-stream", "text/plain")


class Redaction:
    """ASGI middleware; without an API key, when all clients are this machine's, it does nothing.

    Args:
        app: whose answers are read.
        settings: the folders and the key.
        token: of the server file; who sends it is told everything.
    """

    def __init__(self, app: ASGIApp, settings: Settings, token: str) -> None:
        self._app = app
        self._token = token
        self._places = places(settings) if settings.workbench_api_key is not None else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and clean its answer."""
        if scope["type"] != "http" or not self._places or self._owner(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def clean(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "").partition(";")[0]
                if kind in _TEXT:
                    start = message
                    return
            elif message["type"] == "http.response.body" and start is not None:
                body = self._without_places(message.get("body", b""))
                message = {**message, "body": body}
                if start["type"] == "http.response.start":
                    headers = MutableHeaders(scope=start)
                    if not message.get("more_body", False) and scope["method"] != "HEAD":
                        headers["Content-Length"] = str(len(body))
                    elif "content-length" in headers and scope["method"] != "HEAD":
                        del headers["content-length"]
                    await send(start)
                    start = {"type": "started"}
            await send(message)

        await self._app(scope, receive, clean)

    def _owner(self, scope: Scope) -> bool:
        return matches(credentials(Headers(scope=scope)), (self._token,))

    def _without_places(self, body: bytes) -> bytes:
        for place, name in self._places:
            body = body.replace(place, name)
        return body


def places(settings: Settings) -> Sequence[tuple[bytes, bytes]]:
    """Folders as they stand in JSON, each with the name that is shown instead; longest first."""
    named = {
        settings.hf_model_path.expanduser().absolute(): "[models]",
        settings.hf_model_path.expanduser().resolve(): "[models]",
        database(settings).parent: "[data]",
        database(settings).parent.resolve(): "[data]",
        data_folder(): "[data]",
        Path(__file__).resolve().parents[2]: "[workbench]",
        Path(sys.prefix): "[python]",
        Path(sys.base_prefix): "[python]",
        Path.home(): "~",
    }
    if settings.hub_cache is not None:
        named[settings.hub_cache.absolute()] = "[hub cache]"
    found = {
        spelling.encode(): name.encode()
        for path, name in named.items()
        if len(path.parts) > 2  # "/usr" and "/root" say nothing, and would hit other words
        for spelling in (str(path), json.dumps(str(path))[1:-1])
    }
    return sorted(found.items(), key=lambda item: len(item[0]), reverse=True)
