"""A comparison from the log, as the Compare tab has it: panes, answers, options, histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.live import LiveAnswer
from workbench.setups import SHARED_OPTIONS
from workbench.store.recall import Recalled
from workbench.types import (
    Channel,
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    LoadingEvent,
    Message,
    PromptEvent,
    SessionEvent,
    StreamEvent,
    StreamSession,
    TokenEvent,
    WarningEvent,
)
from workbench.ui import asking
from workbench.ui.asking import SOURCE, Plan
from workbench.ui.composer import Ask
from workbench.ui.conversation import Turn, adopted
from workbench.ui.pane import COUNT


def reopened(recalled: Sequence[Recalled]) -> Plan:
    """The run that these sessions were, ended: nothing of it is asked again.

    Args:
        recalled: of one comparison, at least one. Of sessions of one conversation the last counts:
            the others failed and had a fallback, or were asked again.
    """
    panes = _by_pane(recalled)
    models = _models({number: one.session.tried_first for number, one in panes.items()})
    return Plan(
        ask=_ask(panes),
        shown=tuple(panes),
        models=models,
        earlier={number: _turns(panes[number]) if number in panes else () for number in models},
        requests={number: _request(one) for number, one in panes.items()},
        answers={number: replayed(one) for number, one in panes.items()},
    )


def asked_of_others(recalled: Sequence[Recalled], wanted: Sequence[str]) -> Plan:
    """The same question, under the same options and after the same history, to other models.

    The history is that of the first pane; where another model wrote it, the page says so.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, no model was named.
    """
    panes = _by_pane(recalled)
    first = panes[1]
    models = _models(dict(enumerate(wanted[:COUNT], start=1)))
    written = _turns(first)
    source = first.session.tried_first
    turns = {
        number: ()
        if model is None
        else (written if model == source else adopted(written, source, model))
        for number, model in models.items()
    }
    ask = _ask({1: first})
    shown = [number for number, model in models.items() if model] or [1]
    return asking.plan(ask, shown, models, turns)


def replayed(one: Recalled) -> LiveAnswer:
    """The answer as it stood in its pane at its end, from what the log has of it."""
    session = one.session
    live = LiveAnswer(
        model=session.tried_first,
        prompt=one.prompt,
        conversation_id=session.conversation_id,
        asked=session.stamps.queued,
    )
    for event in _events(session):
        live.take(event)
    return live


def _events(session: StreamSession) -> list[StreamEvent]:
    stamps, ids = session.stamps, session.session_id
    waited = stamps.slot if stamps.slot is not None else stamps.end
    events: list[StreamEvent] = [
        SessionEvent(
            ids,
            session.conversation_id,
            session.correlation_id,
            session.model,
            session.provider,
            session.requested_model,
            session.seed,
            stamps.queued,
        )
    ]
    if stamps.load_ns:
        events.append(LoadingEvent(ids, "", max(waited - stamps.load_ns, stamps.queued)))
    if stamps.sent is not None:
        events.append(PromptEvent(ids, stamps.sent))
    said: list[tuple[str, Channel, int | None]] = [
        (session.reasoning, "reasoning", stamps.first_any),
        (session.text, "content", stamps.first_content or stamps.first_any),
    ]
    for text, channel, at in said:
        if text and at is not None:
            events.append(TokenEvent(ids, 0, text, 1, channel, at))
    events += [
        WarningEvent(ids, warning.code, warning.message, stamps.end) for warning in session.warnings
    ]
    if session.error is not None:
        events.append(ErrorEvent(ids, session.error, session, stamps.end))
    else:
        events.append(DoneEvent(ids, session, stamps.end))
    return events


def _by_pane(recalled: Sequence[Recalled]) -> dict[int, Recalled]:
    latest = {one.session.conversation_id: one for one in recalled}
    in_order = sorted(latest.values(), key=_place)
    return dict(enumerate(in_order[:COUNT], start=1))


def _place(one: Recalled) -> tuple[int, int]:
    """As the panes stood; without that, as they were asked."""
    place = one.session.details.get("place")
    return place if isinstance(place, int) else COUNT + 1, one.session.stamps.queued


def _models(chosen: Mapping[int, str]) -> dict[int, str | None]:
    return {number: chosen.get(number) for number in range(1, COUNT + 1)}


def _ask(panes: Mapping[int, Recalled]) -> Ask:
    """The composer as it was; options in which a pane differs from the first are its own."""
    first = panes[1]
    base = first.session.options
    shared = base.to_dict()
    own = {}
    for number, one in panes.items():
        options = one.session.options.to_dict()
        if differing := {n: options[n] for n in SHARED_OPTIONS if options[n] != shared[n]}:
            own[number] = differing
    return Ask(first.prompt, first.system, first.session.timing_mode, base, own)


def _request(one: Recalled) -> ChatRequest:
    session = one.session
    return ChatRequest(
        model=session.tried_first,
        messages=(*one.given, Message("user", one.prompt)),
        options=session.options,
        timing_mode=session.timing_mode,
        session_id=session.session_id,
        conversation_id=session.conversation_id,
        comparison_id=session.comparison_id,
        source=SOURCE,
    )


def _turns(one: Recalled) -> tuple[Turn, ...]:
    """The history before the question, as turns that were held with the pane's model."""
    turns: list[Turn] = []
    for message in one.given:
        if message.role == "user":
            turns.append(
                Turn(one.session.conversation_id, one.session.tried_first, message.content)
            )
        elif message.role == "assistant" and turns:
            last = turns[-1]
            turns[-1] = Turn(last.conversation_id, last.model, last.prompt, message.content)
    return tuple(turns)
