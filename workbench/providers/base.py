"""What a provider is: the adapter between the engine and one runtime.

Adding one is a file with a class of this shape and one registration line in
:func:`workbench.registration.build_router`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from workbench.errors import WorkbenchError
from workbench.inspection import Inspection
from workbench.types import ChatRequest, ModelInfo, ProviderEvent


class CancellationToken:
    """One request's stop signal; it reaches the runtime, not only the reader.

    Set from the event loop's thread. Providers watch it with :meth:`wait` or check ``cancelled``.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: str | None = None
        self.at_ns: int | None = None
        """When it was cancelled, on the clock ``time.monotonic_ns``."""
        self.on_cancel: Callable[[], object] | None = None
        """Called once, when it is."""

    @property
    def cancelled(self) -> bool:
        """True once :meth:`cancel` was called."""
        return self._event.is_set()

    def cancel(self, reason: str) -> None:
        """Ask for the end of the work; the first reason is kept (``user``, ``disconnect``, ...)."""
        if not self._event.is_set():
            self.reason, self.at_ns = reason, time.monotonic_ns()
            self._event.set()
            if self.on_cancel is not None:
                self.on_cancel()

    async def wait(self) -> None:
        """Return when the token is cancelled."""
        await self._event.wait()


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """What is known of a model once it is in memory; copied into every row.

    ``pids`` are the roots of the process trees whose memory is this model's.
    """

    name: str
    digest: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    device: str | None = None
    threads: int | None = None
    context_length: int | None = None
    pids: Sequence[int] = ()
    fresh: bool = False
    """True when this very call to ``load`` brought it in: the request that waited was cold."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model is expected to hold, from its files alone, by device.

    Devices are ``host``, ``cuda:0`` and so on. ``peak_bytes`` has the load in it,
    ``answering_bytes`` is what it will hold afterwards. ``variant`` tells loads apart that take
    different amounts though the model is the same, such as the first one with its quality check.
    """

    peak_bytes: Mapping[str, int]
    answering_bytes: Mapping[str, int]
    variant: str = ""
    token_bytes: Mapping[str, int] = field(default_factory=dict)
    """Keys and values of one token of context; none where the load takes them all at once."""
    context: int | None = None
    """Tokens of context that a request may have at most."""


class Provider(Protocol):
    """Adapter to a runtime. ``model`` is always the name without the provider's prefix.

    All methods raise :class:`workbench.errors.WorkbenchError` and nothing else: foreign
    exceptions are mapped here, at the seam.
    """

    name: str
    """``ollama``, ``huggingface``, ``scripted``, or that of a registered endpoint."""
    counts_against_cache: bool
    """Whether resident models count towards ``HF_MAX_CACHED_MODELS``."""

    shares_cores: bool
    """Whether its models compute on the cores of this machine."""

    stamps_apart: bool
    """Whether tokens get their stamps in another process, which no late event loop here delays."""

    loads: bool
    """Whether models come into memory and leave it as we ask; where not, that is the business of
    whoever runs the server, and being resident only means that no load is waited for."""

    concurrency: int
    """How many generations one model of this runtime runs at once; more wait in our queue."""

    on_death: Callable[[str, WorkbenchError], None] | None
    """Told the model and the reason when a process that held it ended by itself."""

    def canonical(self, model: str) -> str:
        """The one spelling of a name, so that one model is never resident under two.

        Raises ``HF_INVALID_CONFIG`` for a name that says what cannot be.
        """
        ...

    def prewarm(self) -> None:
        """Begin what the first load would have to wait for; returns at once."""
        ...

    async def list_models(self) -> list[ModelInfo]:
        """All models of this runtime, resident or not. An unreachable runtime is an error."""
        ...

    async def show(self, model: str) -> ModelInfo:
        """One model with all that is known of it, or a model-not-found error."""
        ...

    async def check(self, model: str) -> None:
        """Raise what would keep the model from being loaded, as far as a quick look tells."""
        ...

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        """Bring the model into memory; return at once if it is resident already.

        ``num_ctx`` is the context length of the request that waits: where another one means
        another load, it must happen here, so that no load hides in a time to first token.
        """
        ...

    async def unload(self, model: str) -> None:
        """Take the model out of memory; no error if it is not resident."""
        ...

    def kill(self, model: str, pids: Sequence[int]) -> bool:
        """End by force the processes that still hold an unloaded model.

        False where they are not ours to kill.
        """
        ...

    def resident(self, model: str) -> ResidentModel | None:
        """The model if this provider knows it to be in memory; never blocks."""
        ...

    def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """Generate: tokens as they come, then exactly one ``ProviderFinish`` and nothing more.

        Stamps are of ``time.monotonic_ns``, taken where the text arrives: none lies before the
        call, ahead of now, or before the one before it; equal ones came together. Counts are whole
        numbers up to ``MOST_TOKENS``, or None where the runtime does not tell; durations are
        finite and not negative. An option that the runtime cannot heed is refused, or told of with
        a ``ProviderWarning``. :mod:`workbench.providers.guard` ends an answer that breaks a rule.

        After ``cancel`` the stream ends within two tokens, with a ``ProviderFinish`` if the
        runtime still gives its counts and without one otherwise. Closing the iterator stops the
        work too; a ``CancelledError`` is passed on. With ``request.forced`` the tokens are those
        of that text.
        """
        ...

    async def inspect(self, request: ChatRequest, model: str) -> Inspection:
        """What the runtime would make of a request; the model is in memory. Nothing is answered."""
        ...

    def pids(self, model: str) -> Sequence[int]:
        """Roots of the process trees that hold this model now, for memory readings."""
        ...

    def residents(self) -> Sequence[str]:
        """Names of all models known to be in memory or on their way; any thread, never blocks."""
        ...

    def sharing(self, model: str) -> Sequence[str]:
        """Other names that live in the same process whenever both are in memory, as far as known.

        Any thread, never blocks.
        """
        ...

    async def footprint(self, model: str, num_ctx: int | None = None) -> Footprint | None:
        """What the model will hold at its peak; None where nobody knows."""
        ...

    async def trim(self) -> None:
        """Give back memory that is held without need; what generates is not disturbed."""
        ...

    async def refresh(self) -> None:
        """Look again at what is in memory, if others may have changed it.

        Raises why the runtime does not answer.
        """
        ...

    async def close(self) -> None:
        """Stop what this provider started."""
        ...


class Weightless:
    """What a provider answers about memory if its models take none that is ours to manage.

    A model is "in memory" from the first request for it until it is unloaded. A subclass has a
    ``name`` and says which models there are (``list_models``, ``show``) and what they answer
    (``stream``); what its runtime can tell besides, it overrides.
    """

    name: str
    counts_against_cache: bool = False
    shares_cores: bool = False
    stamps_apart: bool = False
    loads: bool = True
    concurrency: int = 1
    on_death: Callable[[str, WorkbenchError], None] | None = None

    def __init__(self) -> None:
        self._resident: dict[str, ResidentModel] = {}

    def canonical(self, model: str) -> str:
        """As it is."""
        return model

    def prewarm(self) -> None:
        """Nothing to prepare."""

    async def show(self, model: str) -> ModelInfo:
        """To be overridden: one model, or a model-not-found error."""
        raise NotImplementedError

    async def check(self, model: str) -> None:
        """Whether there is such a model."""
        await self.show(model)

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        """Remember that it was asked for."""
        if (loaded := self._resident.get(model)) is not None:
            return loaded
        told = await self.show(model)
        loaded = ResidentModel(model, told.digest, told.dtype, told.quantization, device="none")
        self._resident[model] = loaded
        return replace(loaded, fresh=True)

    async def unload(self, model: str) -> None:
        """Forget it."""
        self._resident.pop(model, None)

    def kill(self, model: str, pids: Sequence[int]) -> bool:
        """Nothing that holds a model is ours."""
        return False

    def resident(self, model: str) -> ResidentModel | None:
        """As remembered."""
        return self._resident.get(model)

    def residents(self) -> Sequence[str]:
        """Those that were asked for."""
        return list(self._resident)

    def pids(self, model: str) -> Sequence[int]:
        """No process that could be measured."""
        return ()

    def sharing(self, model: str) -> Sequence[str]:
        """Each is alone."""
        return ()

    async def footprint(self, model: str, num_ctx: int | None = None) -> Footprint | None:
        """No memory worth counting."""
        return Footprint({}, {})

    async def trim(self) -> None:
        """Nothing to give back."""

    async def refresh(self) -> None:
        """Nobody else has a hand in it."""

    async def inspect(self, request: ChatRequest, model: str) -> Inspection:
        """Nothing is told of how the prompt is read."""
        await self.check(model)
        why = f"{self.name} does not tell"
        return Inspection(
            f"{self.name}/{model}",
            untold={"rendered": why, "token_ids": why, "stop": why},
            runtime=self.name,
        )

    async def close(self) -> None:
        """Forget all."""
        self._resident.clear()


@runtime_checkable
class TellsFigures(Protocol):
    """A provider whose server has figures of its own, which are logged beside ours."""

    on_figures: Callable[[str, Mapping[str, Any]], None] | None
    """Told the model and what its server counted since it was last told."""
