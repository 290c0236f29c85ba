"""Answers by plain calls: one, or several side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.client.following import Following
from workbench.client.sessions import Likelihoods, sessions_frame
from workbench.errors import ErrorCode, WorkbenchError, unfinished
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    Options,
    Priority,
    StreamEvent,
    StreamSession,
    Timeouts,
    TimingMode,
    new_id,
)

if TYPE_CHECKING:
    import pandas as pd

E = TypeVar("E", bound=StrEnum)


class AnswerCalls(Following):
    """The part of :class:`workbench.client.Workbench` that asks models."""

    def stream(
        self,
        model: str,
        prompt: str,
        *,
        history: Sequence[Message] = (),
        system: str | None = None,
        conversation_id: str | None = None,
        fallback: str | None = None,
        timeouts: Timeouts | None = None,
        priority: Priority = Priority.INTERACTIVE,
        source: str = "python",
        **options: Any,
    ) -> Generator[StreamEvent, None, None]:
        """Events of one answer as they come; the last is a ``DoneEvent`` or an ``ErrorEvent``.

        Leaving the loop stops the model.

        Args:
            model: model id or a bare name.
            prompt: the user's message.
            history: earlier messages.
            system: system prompt, put before the history.
            conversation_id: to log several turns as one conversation.
            fallback: model to ask if this one fails before its first token.
            timeouts: longest waits per phase.
            priority: ``benchmark`` lets ``interactive`` requests go first.
            source: which face asks; logged.
            options: sampling options (:class:`workbench.types.Options`).

        Raises:
            WorkbenchError: for a request that is wrong in itself.
        """
        request = ChatRequest(
            model=model,
            messages=_messages(prompt, history, system),
            options=Options.from_mapping(options),
            fallback=fallback,
            timeouts=timeouts or Timeouts(),
            priority=_priority(priority),
            conversation_id=conversation_id or new_id("con"),
            source=source,
        )
        with contextlib.closing(self._transport.stream([request])) as events:
            for _, event in events:
                if isinstance(event, ErrorEvent) and event.session.status == "rejected":
                    raise event.error
                yield event

    def chat(self, model: str, prompt: str, **arguments: Any) -> StreamSession:
        """One whole answer with its figures; arguments as for :meth:`stream`.

        With ``logprobs`` its ``details["logprobs"]`` has an entry a token, which the log has not.

        Raises:
            WorkbenchError: if the answer failed.
        """
        likely = Likelihoods()
        for event in self.stream(model, prompt, **arguments):
            likely.watch(event)
            if isinstance(event, ErrorEvent):
                raise event.error
            if isinstance(event, DoneEvent):
                return likely.added(event.session)
        raise unfinished("chat")

    def compare_events(
        self,
        models: Sequence[str],
        prompt: str,
        *,
        mode: str = "concurrent",
        history: Sequence[Message] = (),
        system: str | None = None,
        fallback: str | None = None,
        timeouts: Timeouts | None = None,
        priority: Priority = Priority.INTERACTIVE,
        source: str = "python",
        **options: Any,
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        """Events of several answers, each with the index of its model; see :meth:`compare`."""
        comparison_id = new_id("cmp")
        chosen = Options.from_mapping(options)
        requests = [
            ChatRequest(
                model=model,
                messages=_messages(prompt, history, system),
                options=chosen,
                timing_mode=_mode(mode),
                fallback=fallback,
                timeouts=timeouts or Timeouts(),
                priority=_priority(priority),
                comparison_id=comparison_id,
                source=source,
            )
            for model in models
        ]
        if not requests:
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                "There is nothing to compare.",
                fix="Name one or more models.",
                operation="compare",
            )
        return self._transport.stream(requests)

    def compare(
        self, models: Sequence[str], prompt: str, *, show: bool | None = None, **arguments: Any
    ) -> pd.DataFrame:
        """Ask several models the same thing; one row per model, failed ones included.

        Args:
            models: model ids.
            prompt: the user's message.
            show: True shows the answers side by side while they stream; None does so in a
                notebook.
            arguments: ``mode`` (``concurrent``, ``isolated``, ``interleaved``), ``history``,
                ``system``, ``fallback``, ``timeouts``, ``priority`` and the sampling options.

        Returns:
            Columns ``model, status, text``, the figures of :data:`FIGURES`, tokens, and the ids
            under which everything is in the log; with ``logprobs`` a column of that name, a list
            with an entry a token, which the log has not.
        """
        from workbench.display import LiveComparison, in_notebook

        live = LiveComparison(list(models)) if (in_notebook() if show is None else show) else None
        sessions: dict[int, StreamSession] = {}
        likely = Likelihoods()
        with contextlib.closing(self.compare_events(models, prompt, **arguments)) as events:
            for index, event in events:
                likely.watch(event)
                if isinstance(event, DoneEvent | ErrorEvent):
                    sessions[index] = likely.added(event.session)
                if live is not None:
                    live.update(index, event)
        return sessions_frame([sessions[index] for index in sorted(sessions)])

    def cancel(self, session_id: str) -> bool:
        """Stop a running stream from elsewhere; False when there is none of that id."""
        return self._transport.cancel(session_id)


def _messages(prompt: str, history: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    first = (Message("system", system),) if system else ()
    return (*first, *history, Message("user", prompt))


def _mode(name: str) -> TimingMode:
    return _one_of(TimingMode, name, "timing mode")


def _priority(name: str) -> Priority:
    return _one_of(Priority, name, "priority")


def _one_of(kind: type[E], name: str, what: str) -> E:
    try:
        return kind(name)
    except ValueError:
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"The {what} {name!r} is unknown.",
            fix=f"Use one of {', '.join(kind)}.",
            operation="validate",
        ) from None
