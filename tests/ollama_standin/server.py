"""The endpoints: which path and method does what, and what happens when a client goes away."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from http import HTTPMethod

from starlette.types import Message, Receive, Scope, Send

from .catalog import Library
from .errors import ApiError, model_required, not_implemented, pull_first
from .faults import HTML_PAGE, CutConnection, Faults
from .inference import Inference
from .pull import pull
from .requests import parse_chat, parse_generate, parse_named
from .residency import Residency
from .wire import Answer

VERSION = "0.33.0-rc2"
_TEXT = "text/plain; charset=utf-8"
_UNRECORDED = ("/v1/", "/api/blobs/", "/api/create", "/api/push")

Handler = Callable[[bytes, Answer], Awaitable[None]]


class Server:
    """The ASGI application."""

    def __init__(
        self, library: Library, residency: Residency, inference: Inference, faults: Faults
    ) -> None:
        self._library = library
        self._residency = residency
        self._inference = inference
        self._faults = faults
        # The order of methods is the order in which the real server's Allow header lists them.
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"HEAD": self._root, "GET": self._root},
            "/api/version": {"HEAD": self._version, "GET": self._version},
            "/api/tags": {"HEAD": self._tags, "GET": self._tags},
            "/api/ps": {"GET": self._ps},
            "/api/status": {"GET": self._status},
            "/api/show": {"POST": self._show},
            "/api/chat": {"POST": self._chat},
            "/api/generate": {"POST": self._generate},
            "/api/pull": {"POST": self._pull},
            "/api/copy": {"POST": self._copy},
            "/api/delete": {"DELETE": self._delete},
            "/api/embed": {"POST": self._embed},
            "/api/embeddings": {"POST": self._embeddings},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; stop all work for it when its client goes away."""
        body = b""
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        answer = Answer(send, self._faults, head=scope["method"] == HTTPMethod.HEAD)
        work = asyncio.create_task(self._respond(scope["path"], scope["method"], body, answer))
        gone = asyncio.create_task(_disconnected(receive))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, gone):
            task.cancel()
        await asyncio.wait({work, gone})
        if not work.cancelled() and (problem := work.exception()) is not None:
            if not isinstance(problem, CutConnection):
                traceback.print_exception(problem)
            raise problem

    async def _respond(self, path: str, method: str, body: bytes, answer: Answer) -> None:
        if self._faults.html:
            await answer.whole(HTML_PAGE, "text/html", 502)
            return
        methods = self._routes.get(path)
        try:
            if methods is None:
                await self._no_route(path, method, answer)
            elif method not in methods:
                allow = (("Allow", ", ".join(methods)),)
                await answer.whole("405 method not allowed", "text/plain", 405, allow)
            else:
                await methods[method](body, answer)
        except ApiError as problem:
            await answer.json({"error": problem.text}, problem.status)

    async def _no_route(self, path: str, method: str, answer: Answer) -> None:
        if path.startswith(_UNRECORDED):
            raise not_implemented(path)
        target = path.rstrip("/")
        if path.endswith("/") and method in self._routes.get(target, ()):
            location = (("Location", target),)
            if method == HTTPMethod.GET:
                page = f'<a href="{target}">Moved Permanently</a>.\n\n'
                await answer.whole(page, "text/html; charset=utf-8", 301, location)
            else:
                await answer.whole("", None, 307, location)
            return
        await answer.whole("404 page not found", "text/plain", 404)

    async def _root(self, _body: bytes, answer: Answer) -> None:
        await answer.whole("Ollama is running", _TEXT)

    async def _version(self, _body: bytes, answer: Answer) -> None:
        await answer.json({"version": VERSION})

    async def _status(self, _body: bytes, answer: Answer) -> None:
        await answer.json({"cloud": {"disabled": True, "source": "env"}})

    async def _tags(self, _body: bytes, answer: Answer) -> None:
        await answer.json({"models": self._library.tags()})

    async def _ps(self, _body: bytes, answer: Answer) -> None:
        await answer.json({"models": self._residency.listing()})

    async def _show(self, body: bytes, answer: Answer) -> None:
        request = parse_named(body, "ShowRequest")
        if not request.wanted:
            raise model_required()
        await answer.json(self._library.find(request.wanted).show())

    async def _chat(self, body: bytes, answer: Answer) -> None:
        await self._inference.chat(parse_chat(body), answer)

    async def _generate(self, body: bytes, answer: Answer) -> None:
        await self._inference.generate(parse_generate(body), answer)

    async def _pull(self, body: bytes, answer: Answer) -> None:
        await pull(parse_named(body, "PullRequest"), answer)

    async def _copy(self, body: bytes, answer: Answer) -> None:
        request = parse_named(body, "CopyRequest")
        self._library.copy(request.source, request.destination)
        await answer.whole("", None)

    async def _delete(self, body: bytes, answer: Answer) -> None:
        request = parse_named(body, "DeleteRequest")
        if not request.wanted:
            raise model_required()
        self._library.delete(request.wanted)
        await answer.whole("", None)

    async def _embed(self, body: bytes, answer: Answer) -> None:
        request = parse_named(body, "EmbedRequest")
        try:
            model = self._library.find(request.model)
        except ApiError:
            raise pull_first(request.model) from None
        await self._inference.embed(request.model, model, request.input, answer, 501)

    async def _embeddings(self, body: bytes, answer: Answer) -> None:
        request = parse_named(body, "EmbeddingRequest")
        model = self._library.find(request.model)
        await self._inference.embed(request.model, model, "", answer, 500)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
