"""Ollama behind the :class:`~workbench.providers.base.Provider` protocol.

What cannot be known through its API: a server older than the ``truncate`` field cuts a long prompt
without a word, and no figure proves it (how many tokens the whole prompt has, only its tokenizer
could tell). Names that share one file of weights share one runner, and Ollama lists only the first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.inspection import Inspection
from workbench.memory import devices
from workbench.model_ids import tagged
from workbench.providers import ollama_wire as wire
from workbench.providers.base import CancellationToken, Footprint, ResidentModel
from workbench.providers.ollama_errors import Server, broke_off, map_error, seam
from workbench.providers.ollama_known import Entry, KnownModels, ends_at
from workbench.providers.ollama_lines import answer_lines
from workbench.providers.ollama_pids import RunnerFinder
from workbench.providers.ollama_probe import OllamaProbe, inspection
from workbench.providers.processes import is_loopback
from workbench.settings import Settings
from workbench.types import ChatRequest, ModelInfo, ProviderEvent

if TYPE_CHECKING:
    from workbench.providers.ollama_client import OllamaClient

_log = logs.get(__name__)

T = TypeVar("T")
_Entries = Mapping[str, Entry]

_UNLOAD_S: Final = 30.0
_GONE_S: Final = 5.0
_LIST_AGAIN_S: Final = 0.05
_LOAD_STAY_S: Final = 60.0
_TRIES: Final = 2
_AGAIN_S: Final = (0.05, 0.2)
"""Until then other connections that the server has closed are known to be closed, too."""
_AFTER_BREAK_S: Final = 2.0
"""How long a server whose stream broke may take to say what it still has."""

# After these the model may be gone from memory, whatever was known of it before.
_LOST: Final = frozenset(
    {
        ErrorCode.OLLAMA_UNREACHABLE,
        ErrorCode.OLLAMA_MODEL_NOT_FOUND,
        ErrorCode.OLLAMA_GENERATION_FAILED,
        ErrorCode.OLLAMA_STREAM_BROKEN,
    }
)


class OllamaProvider:
    """One Ollama server. Use it from one event loop.

    :meth:`pids` and :meth:`resident` may be called from any thread.

    Args:
        settings: of the process.
        name: prefix of its model ids, one of ``settings.ollama_servers``.
    """

    counts_against_cache = False
    stamps_apart: bool = False
    loads = True
    concurrency = 1  # Ollama's default; with OLLAMA_NUM_PARALLEL it may do more, but does not tell

    def __init__(self, settings: Settings, name: str = "ollama") -> None:
        self.name = name
        self.on_death: Callable[[str, WorkbenchError], None] | None = None
        self._settings = settings
        self._server = Server.of(settings, name)
        self.shares_cores = is_loopback(self._server.url)
        self._client: OllamaClient | None = None
        self._runners = RunnerFinder(self._server.url)
        self._known = KnownModels()

    # -- models ------------------------------------------------------------------------------------

    def canonical(self, model: str) -> str:
        """With its tag, as it is listed."""
        return tagged(model)

    def prewarm(self) -> None:
        """Nothing to prepare: the server is its own process."""

    async def list_models(self) -> list[ModelInfo]:
        """All models on the server's disk, and those deleted from it but still in memory."""
        with self._guard("list_models"):
            tags, running = await self._tags_and_ps()
            listed = [
                self._info(wire.name_of(tag), tag, self._known.entry(key, tag, running))
                for key, tag in tags.items()
            ]
            deleted = [
                self._info(wire.name_of(entry), {}, entry)
                for key, entry in running.items()
                if key not in tags
            ]
            return listed + deleted

    async def show(self, model: str) -> ModelInfo:
        """Everything Ollama tells about one model, its template and parameters in ``details``.

        Raises:
            WorkbenchError: ``OLLAMA_MODEL_NOT_FOUND`` and the errors of an absent server.
        """
        with self._guard("show", model):
            key = wire.canonical(model)
            shown = await self._call("POST", "/api/show", {"model": model})
            tags, running = await self._tags_and_ps()
            tag = tags.get(key, {})
            self._known.described(key, tag.get("digest"), shown)
            return self._info(model, tag, self._known.entry(key, tag, running), shown)

    async def check(self, model: str) -> None:
        """Raise ``OLLAMA_MODEL_NOT_FOUND``, or why the server does not answer."""
        with self._guard("load", model):
            await self._call("POST", "/api/show", {"model": model})

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        """Bring the model into memory, or renew its stay.

        Cancelling the call makes Ollama give the load up.

        Args:
            model: Ollama's name.
            num_ctx: context length; another one than it has makes Ollama load the model again,
                here and not inside the request that follows. None is the server's default.
            keep_alive_s: idle seconds before Ollama unloads it; negative: never. With 0 it stays
                long enough to be used: Ollama takes 0 in a load for "unload".
        """
        with self._guard("load", model):
            key = wire.canonical(model)
            stay = keep_alive_s or self._settings.workbench_keep_alive_s or _LOAD_STAY_S
            tags, running = await self._tags_and_ps()
            tag = tags.get(key, {})
            digest = tag.get("digest")
            shown = await self._describe(key, model, tag)
            before = self._known.entry(key, tag, running)
            pids = await self._find_runner(key)
            with self._known.loading(key):
                chat = _empty_chat(model, stay, num_ctx)
                await self._call("POST", "/api/chat", chat, read_s=None)
            until = ends_at(stay)
            loaded = wire.models_by_name(await self._call("GET", "/api/ps"))
            entry = self._known.entry(key, tag, loaded)
            new_pids = await self._find_runner(key)
            # Ollama goes on listing a model whose runner was killed, so a new process counts too;
            # that of another machine is not seen, but a new context length tells.
            fresh = before is None or new_pids != pids or wire.context_changed(before, entry)
            resident = wire.resident_model(model, digest, entry, shown, new_pids, fresh=fresh)
            self._known.loaded(key, resident, until)
            return resident

    async def unload(self, model: str) -> None:
        """Take the model out of memory and wait (5 s at most) until its process has ended.

        Ollama lets running answers finish first. A model that its server still lists afterwards
        stays known as resident.
        """
        key = wire.canonical(model)
        pids = await self._find_runner(key) if self._known.blob(key) else ()
        try:
            with self._guard("unload", model):
                await self._call("POST", "/api/chat", _empty_chat(model, 0), read_s=_UNLOAD_S)
        except WorkbenchError as error:
            # A model that was deleted while in memory has no name left to unload it by.
            if error.code is not ErrorCode.OLLAMA_MODEL_NOT_FOUND or await self._listed(key):
                raise
        self._known.forget(key)
        await asyncio.to_thread(self._runners.wait_gone, pids, _GONE_S)
        deadline = time.monotonic() + _GONE_S
        with suppress(WorkbenchError):  # a server that is gone holds no model
            while await self._listed(key):
                if time.monotonic() > deadline:
                    await self._tags_and_ps()
                    break
                await asyncio.sleep(_LIST_AGAIN_S)

    def kill(self, model: str, pids: Sequence[int]) -> bool:
        """A runner belongs to its server and may be answering somebody else."""
        return False

    def resident(self, model: str) -> ResidentModel | None:
        """The model if it was in memory when last heard of and its stay has not run out.

        That is so too if it was another name of its weights that had brought it in.
        """
        return self._known.resident(model)

    def pids(self, model: str) -> Sequence[int]:
        """The model's runner process if the server is on this machine, else empty.

        Cheap enough for a sampler. Before the first load or show of a model its weights are
        unknown, so then the answer is the only runner there is, if there is one only.
        """
        return self._runners.find(self._known.blob(wire.canonical(model)))

    def residents(self) -> Sequence[str]:
        """Those its server listed when last asked, whoever loaded them, and those on their way."""
        return self._known.residents()

    def sharing(self, model: str) -> Sequence[str]:
        """Names of the same file of weights, of those that were listed, described or in memory."""
        return self._known.sharing(wire.canonical(model))

    async def footprint(self, model: str, num_ctx: int | None = None) -> Footprint | None:
        """From what its server says of the files; nothing for a server on another machine.

        With a GPU that the driver tells of, all of it is expected there.
        """
        if not is_loopback(self._server.url):
            return Footprint({}, {})
        try:
            with self._guard("show", model):
                key = wire.canonical(model)
                tags, running = await self._tags_and_ps()
                shown = await self._describe(key, model, tags.get(key, {}))
        except WorkbenchError:
            return None
        entry = self._known.entry(key, tags.get(key, {}), running)
        size = wire.peak_bytes(tags.get(key, {}), shown, num_ctx, entry)
        if size is None:
            return None
        gpus = {name: memory for name, memory in devices().items() if name != "host"}
        device = max(gpus, key=lambda name: gpus[name].available_bytes, default="host")
        return Footprint({device: size}, {device: size})

    async def trim(self) -> None:
        """Its runners have nothing to give back but themselves."""

    async def refresh(self) -> None:
        """Ask the server what is in memory; the errors of an absent server."""
        with self._guard("list_models"):
            tags, running = await self._tags_and_ps()
            for key, entry in running.items():
                # By its weights its runner is found; one that was deleted has no description.
                with suppress(WorkbenchError), self._guard("show"):
                    if not self._known.is_described(key):
                        await self._describe(key, wire.name_of(entry), tags.get(key, {}))

    async def close(self) -> None:
        """Close the connections; models stay as long as their keep_alive says."""
        if self._client is not None:
            await self._client.aclose()

    # -- generation --------------------------------------------------------------------------------

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """Chat, or continue a raw prompt; see the protocol.

        After ``cancel`` nothing more comes, not even a finish.

        The prompt is first sent with the demand not to cut it. If it does not fit, that is an
        error for ``overflow="error"``; else a
        ``PROMPT_TRUNCATED`` warning comes first, and it is sent again to be cut. The finish then
        has in ``details`` ``refused_requests`` 1, ``retry_ns`` (how long the refusal took; it is
        part of the time to first token) and ``uncut_prompt_tokens``; its ``prompt_tokens`` is what
        the model saw.
        """
        with self._guard("stream", model):
            stay = request.keep_alive_s
            if stay is None:
                stay = self._settings.workbench_keep_alive_s
            if request.raw:
                path, body = "/api/generate", wire.generate_body(request, model, seed, stay)
            else:
                path, body = "/api/chat", wire.chat_body(request, model, seed, stay)
            key = wire.canonical(model)
            with self._known.answering(key, stay):
                try:
                    if request.forced:
                        probe = OllamaProbe(self._call_once, body)  # its time is measured
                        events = probe.score(request.forced, request.options.logprobs, cancel)
                    else:
                        events = self._events(path, body, cancel, request.options.overflow)
                    async with aclosing(events):
                        async for event in events:
                            yield event
                except Exception as error:
                    problem = map_error(error, "stream", self._server, model)
                    if problem.code is ErrorCode.OLLAMA_STREAM_BROKEN:
                        await self._after_break(key, problem)
                    raise

    async def inspect(self, request: ChatRequest, model: str) -> Inspection:
        """What the server tells of its own; see :mod:`ollama_probe` for how."""
        with self._guard("show", model):
            body = wire.chat_body(request, model, 0, self._settings.workbench_keep_alive_s)
            key = wire.canonical(model)
            tags, running = await self._tags_and_ps()
            tag = tags.get(key, {})
            shown = await self._describe(key, model, tag)
            probe = OllamaProbe(self._call, body)
            rendered, cut = await self._whole(probe.rendered())
            ids = None
            if rendered is not None and cut is None:
                ids, cut = await self._whole(probe.token_ids(rendered))
            version = (await self._call("GET", "/api/version")).get("version")
            entry = self._known.entry(key, tag, running)
            digest = tag.get("digest")
            known = (f"{self.name}/{model}", body, shown, entry, rendered, ids, cut)
            return inspection(*known, digest, version)

    async def _whole(self, asked: Awaitable[T]) -> tuple[T | None, tuple[int, int] | None]:
        """What was asked for, or the tokens of prompt and context if it does not fit."""
        from ollama import ResponseError

        try:
            return await asked, None
        except ResponseError as error:
            warning = wire.cut_warning(error)
            if warning is None:
                raise
            return None, (warning.details["uncut_prompt_tokens"], warning.details["num_ctx"])

    async def _events(
        self, path: str, body: Mapping[str, Any], cancel: CancellationToken, overflow: str
    ) -> AsyncGenerator[ProviderEvent, None]:
        client = await self._connect()
        from ollama import ResponseError

        sent_ns = time.monotonic_ns()
        try:
            uncut = {**body, "truncate": False}
            async with aclosing(answer_lines(client, path, uncut, cancel)) as lines:
                async for t_ns, line in lines:
                    for event in wire.events(line, t_ns, {}):
                        yield event
            return
        except ResponseError as error:
            warning = wire.cut_warning(error)
            if warning is None:
                raise
            if overflow == "error":
                raise invalid(
                    f"The prompt has {warning.details['uncut_prompt_tokens']} tokens, but the "
                    f"context only {warning.details['num_ctx']}.",
                    fix="Shorten the prompt or the history, raise num_ctx, or allow overflow "
                    "truncate.",
                    **warning.details,
                ) from None
        details = {
            **warning.details,
            "refused_requests": 1,
            "retry_ns": time.monotonic_ns() - sent_ns,
        }
        yield warning
        async with aclosing(answer_lines(client, path, body, cancel)) as lines:
            async for t_ns, line in lines:
                for event in wire.events(line, t_ns, details):
                    yield event

    # -- plumbing ----------------------------------------------------------------------------------

    def _info(self, *told: Any) -> ModelInfo:
        """One model under this host's name."""
        info = wire.model_info(*told)
        return replace(info, id=f"{self.name}/{info.name}", provider=self.name)

    @contextmanager
    def _guard(self, operation: str, model: str | None = None) -> Iterator[None]:
        """Map foreign exceptions; forget a resident model where the failure may have ended it."""
        if model is not None and not model.strip():
            raise invalid("The model has no name.", fix="Choose one of `ollama list`.")
        try:
            with seam(operation, self._server, model):
                yield
        except WorkbenchError as error:
            error.provider = self.name
            if error.code is ErrorCode.OLLAMA_UNREACHABLE:
                self._server_gone(error)
            elif model is not None and error.code in _LOST:
                self._known.forget(wire.canonical(model))
            raise

    async def _after_break(self, key: str, error: WorkbenchError) -> None:
        """A stream broke: with a server that died, or began anew meanwhile, its models did too."""
        try:
            running = await self._call("GET", "/api/ps", read_s=_AFTER_BREAK_S)
        except Exception as problem:
            if map_error(problem, "ps", self._server).code is ErrorCode.OLLAMA_UNREACHABLE:
                self._server_gone(error)
            return
        known = self._known.in_memory(key)
        if known is not None and self._known.entry(key, {}, wire.models_by_name(running)) is None:
            self._known.forget(key)
            if self.on_death is not None:
                self.on_death(known.name, error)

    def _server_gone(self, error: WorkbenchError) -> None:
        """Its models have gone with it."""
        for name in self._known.forget_all():
            if self.on_death is not None:
                self.on_death(name, error)

    async def _connect(self) -> OllamaClient:
        if self._client is None:
            # In a thread: the client's import takes a third of a second, once.
            client = await asyncio.to_thread(_make_client, self._server.url)
            self._client = self._client or client
        return self._client

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        **limits: float | None,
    ) -> dict[str, Any]:
        """Ask, and once more if the connection breaks off; loads and unloads bear it as well.

        A kept connection may be closed by its server in the moment in which it is used again.
        """
        import tenacity

        client = await self._connect()
        again = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_random(*_AGAIN_S),
            # Not when it was us who hung up.
            retry=tenacity.retry_if_exception(lambda e: broke_off(e) and not client.closed),
            before_sleep=lambda state: _log.warning(
                "asked_again", server=self._server.url, path=path
            ),
            reraise=True,
        )
        return await again(self._call_once, method, path, body, **limits)

    async def _call_once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        **limits: float | None,
    ) -> dict[str, Any]:
        client = await self._connect()
        return await client.call(method, path, body, **limits)

    async def _tags_and_ps(self) -> tuple[_Entries, _Entries]:
        """Models on disk and in memory by canonical name; what is known as resident follows."""
        tags = wire.models_by_name(await self._call("GET", "/api/tags"))
        running = wire.models_by_name(await self._call("GET", "/api/ps"))
        self._known.listed(tags, running)
        return tags, running

    async def _describe(self, key: str, model: str, tag: Entry) -> Entry:
        """What ``/api/show`` says, asked once for each digest."""
        digest = tag.get("digest")
        shown = self._known.description(key, digest)
        if shown is None:
            shown = await self._call("POST", "/api/show", {"model": model})
            self._known.described(key, digest, shown)
        return shown

    async def _find_runner(self, key: str) -> Sequence[int]:
        # In a thread, because finding a new process looks at all processes of the machine.
        return await asyncio.to_thread(self._runners.find, self._known.blob(key), now=True)

    async def _listed(self, key: str) -> bool:
        with self._guard("unload"):
            return key in wire.models_by_name(await self._call("GET", "/api/ps"))


def _make_client(url: str) -> OllamaClient:
    from workbench.providers.ollama_client import OllamaClient

    return OllamaClient(url)


def _empty_chat(model: str, keep_alive_s: float, num_ctx: int | None = None) -> dict[str, Any]:
    """Load, or with 0 seconds unload."""
    stay = wire.keep_alive(keep_alive_s)
    options = {"options": {"num_ctx": num_ctx}} if num_ctx is not None else {}
    return {"model": model, "messages": [], "stream": False, "keep_alive": stay, **options}
