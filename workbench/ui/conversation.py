"""What was said in a pane: what is shown of it, and what the next request sends.

A pane's history belongs to the model that wrote it. When another model is chosen the turns stay on
the page, below them a line says that the conversation starts anew, and nothing of the old turns is
sent: no model is ever given another model's words as its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench import figures
from workbench.live import LiveAnswer
from workbench.types import Image, Message, Status, new_id
from workbench.ui.markdown import harmless

SHOWN_CHARS = 20_000
"""Of a longer message of the user the page shows this much; the model is sent all of it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and what became of it."""

    conversation_id: str
    model: str
    """The model that was asked (a fallback answers in its name)."""
    prompt: str
    answer: str = ""
    reasoning: str = ""
    status: Status = Status.OK
    note: str = ""
    """How it ended when not well, in plain words."""
    images: tuple[Image, ...] = ()
    """What the user showed with the question."""
    author: str = ""
    """The model whose words these are, where the user carried them over to this one."""


def turn_of(live: LiveAnswer) -> Turn:
    """What the pane's history keeps of an answer."""
    session = live.session
    note = ""
    if session is not None and session.status is not Status.OK:
        note = f"{session.status} {live.error.code}" if live.error else str(session.status)
    return Turn(
        conversation_id=live.conversation_id,
        model=live.model,
        prompt=live.prompt,
        answer=live.answer,
        reasoning=live.reasoning,
        status=session.status if session else Status.ACTIVE,
        note=note,
        images=live.images,
    )


def continued(turns: Sequence[Turn], model: str | None) -> Sequence[Turn]:
    """The turns at the end that were held with this model: those the next request goes on from."""
    start = len(turns)
    while start and turns[start - 1].model == model:
        start -= 1
    return turns[start:]


def conversation_id(turns: Sequence[Turn], model: str) -> str:
    """The conversation that a new turn with this model belongs to."""
    same = continued(turns, model)
    return same[-1].conversation_id if same else new_id("con")


def adopted(turns: Sequence[Turn], source: str, model: str) -> tuple[Turn, ...]:
    """The turns that were held with ``source``, for another model to go on from.

    Only the user may do this, and the page says whose words they are.
    """
    conversation = new_id("con")
    return tuple(
        replace(turn, conversation_id=conversation, model=model, author=turn.author or turn.model)
        for turn in continued(turns, source)
    )


def to_send(
    turns: Sequence[Turn],
    model: str,
    system: str,
    prompt: str,
    images: tuple[Image, ...] = (),
) -> tuple[Message, ...]:
    """The messages of the next request.

    A partial answer (stopped, failed or timed out midway) is sent as what the assistant said: the
    reader saw it and will refer to it. A turn without any answer is left out, its question too:
    chat templates want the roles to alternate, and two questions in a row would make the model
    answer the failed one. Reasoning is never sent back: models are trained without it.
    """
    messages = [Message("system", system)] if system.strip() else []
    for turn in continued(turns, model):
        if turn.answer.strip():
            asked = Message("user", turn.prompt, images=turn.images)
            messages += [asked, Message("assistant", turn.answer)]
    return (*messages, Message("user", prompt, images=images))


def to_show(
    turns: Sequence[Turn], model: str | None, *, live: bool = False, told: bool = False
) -> list[dict[str, Any]]:
    """The messages in the form in which the chat component gets them over the wire.

    Args:
        turns: of the pane, the running one last.
        model: chosen in the pane now.
        live: whether the last turn is still being written.
        told: whether a notice beside it says how the last turn ended.
    """
    shown: list[dict[str, Any]] = []
    for position, turn in enumerate(turns):
        if position and turns[position - 1].model != turn.model:
            shown.append(_boundary(turn.model))
        running = live and position == len(turns) - 1
        shown.append(_message("user", harmless(_cut(turn.prompt))))
        if turn.images:
            sizes = ", ".join(figures.size(image.size_bytes) for image in turn.images)
            shown.append(_message("user", f"`with {_counted(turn.images)}: {sizes}`"))
        if turn.reasoning:
            status = "pending" if running and not turn.answer else "done"
            folded = {"title": "thinking", "status": status}
            shown.append(_message("assistant", harmless(turn.reasoning), folded))
        if turn.answer:
            shown.append(_message("assistant", harmless(turn.answer)))
        if turn.author and turn.author != turn.model:
            shown.append(_message("assistant", f"`written by {turn.author}; carried over by you`"))
        if turn.note and not running and not (told and position == len(turns) - 1):
            shown.append(_message("assistant", f"`{turn.note}`"))
    if turns and turns[-1].model != model and not live:
        shown.append(_boundary(model))
    return shown


def _message(role: str, text: str, metadata: dict[str, str] | None = None) -> dict[str, Any]:
    content = [{"text": text, "type": "text"}]
    return {"role": role, "metadata": metadata, "content": content, "options": None}


def _boundary(model: str | None) -> dict[str, Any]:
    words = f"now {model}" if model else "no model chosen"
    return _message("assistant", f"`new conversation: {words}; the above is not sent`")


def _counted(images: Sequence[Image]) -> str:
    return f"{len(images)} images" if len(images) > 1 else "an image"


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARS:
        return text
    return f"{text[:SHOWN_CHARS]}\n\n… {len(text) - SHOWN_CHARS:,} more characters were sent"
