"""Who is told what an engine has done: metrics and traces, without the engine knowing of them."""

from __future__ import annotations

from typing import Protocol

from workbench.errors import WorkbenchError
from workbench.store import ModelEvent
from workbench.types import ChatRequest, StreamSession


class Observer(Protocol):
    """Told in the event loop's thread; must be quick. What it raises is logged and goes no further.

    A session is told in the context of its request, so that a trace finds what it belongs to.
    """

    def session_ended(self, session: StreamSession, request: ChatRequest) -> None:
        """A model call has ended, however it did; ``session`` is its row."""
        ...

    def request_refused(self, request: ChatRequest, error: WorkbenchError) -> None:
        """A request was wrong in itself and became no session."""
        ...

    def model_event(self, event: ModelEvent) -> None:
        """A model was loaded, unloaded, evicted, or its process died."""
        ...
