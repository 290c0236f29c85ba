"""What the rotation knows of memory: limits, what is held, what a model will need.

Values and the protocol between the policy, which only reads them, and the book that measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from workbench.memory import MemoryReading
from workbench.providers.base import ResidentModel
from workbench.router import Route

DeviceBytes = Mapping[str, int]
"""Bytes by device: ``host``, ``cuda:0``, ... A device that is missing has none."""

HOST: Final = "host"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model will hold at its peak: the load, and the answers after it.

    ``answering`` is what it will hold once it is loaded, to which every token of context that its
    running requests may come to adds ``token_bytes``. Loading takes more, up to twice as much.
    ``context`` is the most tokens that one request may have. ``source`` is ``files`` (sizes and
    architecture) or ``loads`` (its own measured loads, of which there were ``loads``).
    ``error_share`` is the mean relative error of its last predictions from that source, None before
    there was one.
    """

    bytes: DeviceBytes
    answering: DeviceBytes
    source: Literal["files", "loads"]
    loads: int = 0
    error_share: float | None = None
    token_bytes: DeviceBytes = field(default_factory=dict)
    context: int | None = None

    def peak(self, tokens: int) -> DeviceBytes:
        """At its peak, if its requests together have so many tokens of context at most."""
        devices = {*self.bytes, *self.answering, *self.token_bytes}
        return {
            d: max(
                self.bytes.get(d, 0),
                self.answering.get(d, 0) + self.token_bytes.get(d, 0) * tokens,
            )
            for d in sorted(devices)
        }


class MemoryBook(Protocol):
    """Who holds how much. All but :meth:`prepare` are cheap, never block and never raise.

    The readings come from a thread. On the event loop it calls ``memory_changed`` of the rotation
    when limits have changed or are below what is held, so that the policy can run again.
    """

    def limits(self) -> DeviceBytes:
        """What all models together may hold now; a device that is missing has no limit.

        The setting, or what was free at start less a reserve; lower while other programs take
        memory, and back when they give it back.
        """
        ...

    def held(self) -> Mapping[str, DeviceBytes]:
        """Measured bytes by model id, of all models in memory or on their way.

        Those that somebody else loaded into our Ollama server are among them. Of models that share
        one runner the first has its bytes and the others have an empty mapping.
        """
        ...

    def shared(self, model: str) -> frozenset[str]:
        """The models in the same runner, itself among them: to evict one is to evict all.

        Those that would be in it if they were in memory are among them too.
        """
        ...

    def strangers(self) -> Mapping[str, Route]:
        """Models in memory that the workbench did not load but may evict (a setting)."""
        ...

    async def prepare(self, route: Route, num_ctx: int | None = None) -> None:
        """Read what the first prediction of a model needs; quick when it is known, never raises."""
        ...

    def predict(self, route: Route, num_ctx: int | None = None) -> Prediction:
        """What the model will hold at its peak; no bytes where nothing is known of it.

        That is so before :meth:`prepare`, and for models whose memory is another machine's.
        """
        ...

    def expectation(self, model: str) -> Prediction:
        """What is predicted of a model at its peak; of one in memory, what was before its load.

        The one figure that the page, the command line and REST call its predicted peak.
        """
        ...

    def loading(self, route: Route, num_ctx: int | None = None) -> None:
        """A load begins, on the event loop: what it takes is compared with the prediction."""
        ...

    def loaded(self, route: Route, resident: ResidentModel | None) -> None:
        """It is in memory; None: the load failed, and nothing is learned from it."""
        ...

    def answered(self, model: str, tokens: int) -> None:
        """Its requests have had so many tokens of context together, at most."""
        ...

    def gone(self, model: str) -> None:
        """It was unloaded or its process ended: what it held at its peak is learned."""
        ...

    async def look(self) -> None:
        """Look now: holdings and accounts are of this moment afterwards."""
        ...

    def account(self, model: str, read: MemoryReading | None = None) -> Mapping[str, Any]:
        """What a row of ``model_events`` says of it: predicted and measured bytes, the error.

        ``read`` is the reading that is in the row too: no peak is below it.
        """
        ...
