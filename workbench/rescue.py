"""Who answers in place of a model that failed: another host of it, else its fallback."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from workbench import recovery
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hosts import family
from workbench.router import ModelRouter, Route
from workbench.settings import Settings
from workbench.types import ChatRequest, ErrorEvent, StreamSession, WarningEvent


class Rescue:
    """Looks for somebody else, as long as nothing of an answer was shown.

    Args:
        settings: of the process, with the fallbacks.
        router: knows the hosts.
        resolve: the way to a model that can take the request; raises :class:`WorkbenchError`.
    """

    def __init__(
        self,
        settings: Settings,
        router: ModelRouter,
        resolve: Callable[[ChatRequest, str], Awaitable[Route]],
    ) -> None:
        self._router = router
        self._fallbacks = {
            router.canonical(model): other for model, other in settings.workbench_fallbacks.items()
        }
        self._resolve = resolve

    def possible(self, request: ChatRequest, route: Route, event: ErrorEvent) -> bool:
        """Whether somebody else might answer: nothing was shown, and it is worth a try."""
        if event.session.streamed_tokens:
            return False
        moves = route.chosen and recovery.may_move(event.error)
        return moves or self._fallback(request, event) is not None

    def _fallback(self, request: ChatRequest, event: ErrorEvent) -> str | None:
        """The model that answers in place of one that failed, if any; not in place of another."""
        if event.session.fallback_from is not None and not self._moved(event.session):
            return None
        if not recovery.may_fall_back(event.error):
            return None
        asked = event.session.tried_first
        name = f"{family(asked)}/{asked.partition('/')[2]}"  # whichever host it is
        return request.fallback or self._fallbacks.get(asked) or self._fallbacks.get(name)

    def _moved(self, session: StreamSession) -> bool:
        """Whether a session is of the model that was asked for, on another host."""
        asked, answers = session.tried_first, session.model
        same = family(asked) == family(answers)
        return same and asked.partition("/")[2] == answers.partition("/")[2]

    async def find(
        self, request: ChatRequest, route: Route, failed: ErrorEvent, failed_hosts: Sequence[str]
    ) -> tuple[Route | None, WarningEvent | None]:
        """Who answers now, and what the reader is told: another host, else the fallback."""
        error = failed.error
        if error.code is ErrorCode.OLLAMA_UNREACHABLE:
            self._router.lost(route.provider.name, error)
        other, code = None, "REROUTED"
        if route.chosen and recovery.may_move(error):
            other = await self._router.another(route, failed_hosts)
        fallback = self._fallback(request, failed) if other is None else None
        if fallback is not None:
            code = "FALLBACK"
            try:
                other = await self._resolve(request, fallback)
            except WorkbenchError as problem:
                words = f"The fallback {fallback} is no help: {problem}"
                return None, _warning(failed, "NO_FALLBACK", words)
        if other is None or other.model == route.model:
            return None, None
        words = f"{route.model} failed ({error.code}); {other.model} answers."
        return other, _warning(failed, code, words)


def _warning(failed: ErrorEvent, code: str, message: str) -> WarningEvent:
    return WarningEvent(failed.session_id, code, message, time.monotonic_ns())
