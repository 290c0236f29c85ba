"""Any server that speaks OpenAI's API, behind the protocol of a provider.

One object a registered endpoint: vLLM (also over many machines), SGLang, TGI, llama-server,
``transformers serve``, another workbench. What is in its memory is its own business: nothing is
loaded or unloaded from here, and nothing of it counts in this machine's budget.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from workbench import hops, logs
from workbench.endpoints import Endpoint, Server
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.inspection import Inspection
from workbench.providers import openai_wire as wire
from workbench.providers.base import CancellationToken, ResidentModel, Weightless
from workbench.providers.lines import Line, read_apart
from workbench.providers.openai_dialects import recognised
from workbench.providers.openai_errors import MalformedAnswer, closed_unanswered, plain, seam
from workbench.providers.processes import Listener, is_loopback
from workbench.providers.scoped import scoped
from workbench.providers.server_figures import ServerFigures, Tell
from workbench.types import ChatRequest, ModelInfo, ProviderEvent, ProviderWarning

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

_CONNECT_S: Final = 2.0
"""An address where nothing answers must not hold up a page."""
_READ_S: Final = 5.0
"""Longest wait for the answers that need no model work, such as the list of models."""
_IDLE_S: Final = 2.0
"""An unused connection is kept for so long. Many servers close theirs after five seconds: a request
sent at that moment would be lost, and the client's default is the same five."""
_ALONE: Final[Mapping[str, str]] = {"Connection": "close"}
"""Of requests for lists: a server that fails at one may close the connection after its answer, and
the next request must not be the one that finds out."""
_FRESH_S: Final = 60.0
"""A listing is believed for so long before a request asks again."""


class OpenAICompatProvider(Weightless):
    """One endpoint. Use it from one event loop; :meth:`pids` and :meth:`resident` from any thread.

    Args:
        endpoint: as registered.
    """

    loads = False

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self.name = endpoint.name
        self.shares_cores = endpoint.local
        self.concurrency = endpoint.concurrency
        self._endpoint = endpoint
        self._key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else None
        logs.hide(self._key)
        self._client: AsyncOpenAI | None = None
        self._listener = Listener(endpoint.base_url if endpoint.local else None)
        self._server: Server = "openai" if endpoint.server == "auto" else endpoint.server
        self._is_workbench = self._server == "workbench"
        self._known: dict[str, ModelInfo] = {}
        self._listed_at = float("-inf")
        self._has_list = True
        self._figures = ServerFigures(endpoint, self._page_of_metrics)

    @property
    def on_figures(self) -> Tell | None:
        """Told what the server says of itself after answers; see :mod:`server_figures`."""
        return self._figures.on_figures

    @on_figures.setter
    def on_figures(self, callback: Tell | None) -> None:
        self._figures.on_figures = callback

    # -- models ------------------------------------------------------------------------------------

    async def list_models(self) -> list[ModelInfo]:
        """What the server lists, and the names that were registered with it.

        For another workbench, nothing of a third: of two that are registered with each other, each
        would ask the other for as long as anybody waits. Whether a server is one its first list
        tells, which is asked for with one more hop, where no server is asked any further.
        """
        asking = hops.count()
        if asking > 1 or (asking and self._is_workbench):
            return []
        await self._list()
        if asking and self._is_workbench:
            return []
        return [info for name, info in self._known.items() if info.name == name]

    async def show(self, model: str) -> ModelInfo:
        """One model as the server lists it.

        Raises:
            WorkbenchError: ``ENDPOINT_MODEL_NOT_FOUND`` and the errors of an absent server.
        """
        await self._list()
        return self._listed(model)

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        """Whether it may be asked for; whether it is in memory is the server's business."""
        if self.resident(model) is None or time.monotonic() - self._listed_at > _FRESH_S:
            await self._list()
        info = self._listed(model)
        await self._figures.begin(info.name, self._names(info))
        return self._ready(info)

    async def unload(self, model: str) -> None:
        """Refused: the server holds its models until whoever runs it stops it."""
        raise invalid(
            f"{self.name} at {self._endpoint.base_url} decides itself what it has in memory.",
            fix="Stop or unload it there.",
        )

    def resident(self, model: str) -> ResidentModel | None:
        """The model if the server listed it when last asked."""
        info = self._known.get(model)
        return self._ready(info) if info is not None else None

    def pids(self, model: str) -> Sequence[int]:
        """The process that listens there if the endpoint is ``local``, else none can be known."""
        return self._listener.pids()

    def residents(self) -> Sequence[str]:
        """None: what others hold counts as their memory, not as our models'."""
        return ()

    async def refresh(self) -> None:
        """List again; the errors of an absent server."""
        await self._list()

    async def close(self) -> None:
        """Close the connections."""
        await self._figures.close()
        if self._client is not None:
            await self._client.close()

    # -- generation --------------------------------------------------------------------------------

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """Chat, or continue a raw prompt; see the protocol.

        After ``cancel`` the connection is closed and nothing more comes, not even a finish. Counts
        that the server does not tell are None. Stamps are those of arrival here.
        """
        if request.forced:
            raise invalid(
                f"{self.name} cannot be made to give a certain answer.",
                fix="Choose a model of Hugging Face or Ollama.",
            )
        path, body, warnings = wire.request_body(request, model, seed, self._server, self._endpoint)
        for warning in warnings:
            yield warning
        extra = self._endpoint.extra_body
        details = {"server": self._server, **({"extra_body": dict(extra)} if extra else {})}
        answer = wire.Answer(raw=request.raw, details=details)
        chunks = read_apart(self._lines(path, body), cancel, lambda chunk: answer.complete)
        try:
            with seam("stream", self._endpoint, model, listed=self._has_list):
                async with aclosing(chunks):
                    async for t_ns, chunk in chunks:
                        for event in answer.take(chunk, t_ns):
                            yield event
                if cancel.cancelled:
                    return
                if request.options.logprobs and not answer.has_logprobs:
                    yield _no_logprobs(self.name)
                for event in answer.finish():
                    yield event
        finally:
            self._figures.answered(model, request.session_id)

    async def inspect(self, request: ChatRequest, model: str) -> Inspection:
        """What the list of models says; how a prompt is rendered no such API tells."""
        info = await self.show(model)
        why = "its API does not tell"
        return Inspection(
            info.id,
            parameters=info.parameters,
            digest=info.digest,
            context_length=info.context_length,
            runtime=f"{self._server} at {self._endpoint.base_url}",
            untold={
                "rendered": why,
                "token_ids": why,
                "template": why,
                "sampler": why,
                "stop": why,
            },
        )

    # -- plumbing ----------------------------------------------------------------------------------

    async def _list(self) -> None:
        """Ask for the models; what is known of them follows."""
        try:
            with seam("list_models", self._endpoint):
                entries = wire.entries_of(await self._get("/models"))
        except WorkbenchError as error:
            status = error.details.get("status", 0)
            self._has_list = status != 404
            # A server without a list still has what was registered: some have none (404), that of
            # `transformers serve` fails (500) where there is no cache of the hub.
            listless = status >= 400 and status not in (401, 403, 429, 503)
            if not (self._endpoint.models and listless):
                self._known = {}
                raise
            entries = []
        else:
            self._has_list = True
        seen = recognised(entries)
        self._is_workbench = "workbench" in (seen, self._endpoint.server)
        if self._endpoint.server == "auto":
            self._server = seen
        listed = {entry["id"] for entry in entries}
        entries += [{"id": name} for name in self._endpoint.models if name not in listed]
        known: dict[str, ModelInfo] = {}
        for entry in entries:
            info = wire.model_info(self._endpoint, self._server, entry)
            for name in (info.name, *_aliases(entry)):
                known.setdefault(name, info)
        self._known, self._listed_at = known, time.monotonic()

    def _listed(self, model: str) -> ModelInfo:
        info = self._known.get(model)
        if info is not None:
            return info
        names = ", ".join(list(dict.fromkeys(info.id for info in self._known.values()))[:5])
        raise WorkbenchError(
            ErrorCode.ENDPOINT_MODEL_NOT_FOUND,
            f"{self.name} at {self._endpoint.base_url} lists no model {model!r}.",
            fix=f"It lists {names or 'none'}; others can be named in models of "
            "OPENAI_COMPAT_ENDPOINTS.",
            operation="resolve",
            provider=self.name,
        )

    def _names(self, info: ModelInfo) -> frozenset[str]:
        """What its metrics may call a model."""
        root = info.details.get("root")
        known = {name for name, one in self._known.items() if one is info}
        return frozenset({info.name, *known, *([root] if isinstance(root, str) else [])})

    def _ready(self, info: ModelInfo) -> ResidentModel:
        return ResidentModel(
            name=info.name,
            digest=info.digest,
            dtype=info.dtype,
            quantization=info.quantization,
            context_length=info.context_length,
            pids=self._listener.pids(),
            details={"server": self._server, "served_at": self._endpoint.base_url},
        )

    async def _lines(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
        """Each event with the monotonic ns at which it arrived; leaving closes the connection."""
        from openai import APIConnectionError, AsyncStream

        client = await self._connect()

        async def send() -> AsyncStream[object]:
            return await client.post(
                path, cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
            )

        try:
            stream = await send()
        except APIConnectionError as error:
            # llama.cpp's server promises to keep a connection and closes it after a stream: the
            # request that meets this was not read.
            if not closed_unanswered(error):
                raise
            stream = await send()
        try:
            kind = stream.response.headers.get("content-type", "")
            if "text/event-stream" not in kind:
                said = plain((await stream.response.aread()).decode(errors="replace"))
                start = " ".join(said[:200].split())
                raise MalformedAnswer(f"it sent {kind or 'no content type'}: {start}")
            async for chunk in stream:
                t_ns = time.monotonic_ns()
                if not isinstance(chunk, dict):
                    raise MalformedAnswer(str(chunk)[:200])
                yield t_ns, chunk
        finally:
            await stream.close()

    async def _get(self, path: str) -> object:
        client = await self._connect()
        # Another workbench that waits for this has no more patience with us than we have.
        patience_s = _READ_S / (1 + hops.count())
        headers = {**_ALONE, hops.HEADER: str(hops.count() + 1)}
        options: Any = {"timeout": _timeout(patience_s), "headers": headers}
        return await scoped(client.get(path, cast_to=object, options=options))

    async def _page_of_metrics(self, url: str) -> str:
        """The key goes nowhere but to the server that it is for."""
        from openai import Omit

        client = await self._connect()
        theirs = _origin(url) != _origin(self._endpoint.base_url)
        headers: dict[str, Any] = {**_ALONE, **({"Authorization": Omit()} if theirs else {})}
        with seam("metrics", self._endpoint):
            options: Any = {"timeout": _timeout(_READ_S), "headers": headers}
            return await scoped(client.get(url, cast_to=str, options=options))

    async def _connect(self) -> AsyncOpenAI:
        if self._client is None:
            # In a thread: the client's import takes half a second, once.
            client = await asyncio.to_thread(_make_client, self._endpoint, self._key)
            self._client = self._client or client
        return self._client


def _make_client(endpoint: Endpoint, key: str | None) -> AsyncOpenAI:
    import httpx2
    from openai import AsyncOpenAI, DefaultAsyncHttpx2Client, Omit

    # The environment's are for OpenAI, not for whoever answers here.
    headers: dict[str, Any] = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
    return AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=key or "none",  # it insists on one
        default_headers=headers,
        max_retries=0,  # what is tried again is the engine's decision, and seen
        http_client=DefaultAsyncHttpx2Client(
            follow_redirects=False,  # it would hand prompts to a stranger
            trust_env=not is_loopback(endpoint.base_url),
            limits=httpx2.Limits(keepalive_expiry=_IDLE_S),
            # No read limit: the engine knows how long each phase may take and cancels.
            timeout=_timeout(None),
        ),
        timeout=_timeout(None),
    )


def _timeout(read_s: float | None) -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(read_s, connect=_CONNECT_S)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _aliases(entry: Mapping[str, Any]) -> list[str]:
    """Other names that the server takes."""
    given = entry.get("aliases")
    return [one for one in given if isinstance(one, str)] if isinstance(given, list) else []


def _no_logprobs(name: str) -> ProviderWarning:
    return ProviderWarning(
        "NO_LOGPROBS", f"{name} was asked for the probabilities of tokens and gave none."
    )
