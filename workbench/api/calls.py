"""What a client may ask for, checked once for every face and turned into the engine's request."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.errors import invalid
from workbench.types import (
    ChatRequest,
    Image,
    Message,
    Options,
    Priority,
    Timeouts,
    TimingMode,
    new_id,
)


class Body(BaseModel):
    """A JSON object of which every field is known: a misspelt one is refused, never dropped."""

    model_config = ConfigDict(extra="forbid")


class Terms(Body):
    """How a call is to be run, whatever is asked."""

    conversation_id: str | None = None
    timing_mode: TimingMode = TimingMode.CONCURRENT
    priority: Priority = Priority.INTERACTIVE
    fallback: str | None = None
    timeouts: dict[str, float | None] = Field(default_factory=dict)

    def chat_request(
        self,
        model: str,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        *,
        correlation_id: str,
        source: str,
        **more: Any,
    ) -> ChatRequest:
        """The engine's request for one model.

        Args:
            model: model id or a bare name.
            messages: the whole history, the new message last.
            options: sampling options by name; an unknown one is an error.
            correlation_id: of the HTTP request.
            source: which face it came from.
            more: further fields of the request.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for options, timeouts or messages that are wrong in
                themselves.
        """
        return ChatRequest(
            model=model,
            messages=tuple(messages),
            options=Options.from_mapping(options),
            timing_mode=self.timing_mode,
            priority=self.priority,
            fallback=self.fallback,
            timeouts=Timeouts.from_mapping(self.timeouts),
            conversation_id=self.conversation_id or new_id("con"),
            correlation_id=correlation_id,
            source=source,
            **more,
        )


def read_image(address: str) -> Image:
    """A picture from a ``data:`` address in base64. What it is, its bytes say, not the address.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    head, found, data = address.partition(";base64,")
    if not (found and head.startswith("data:")):
        raise invalid(
            "A picture is not given as a data address.",
            fix="Send it as data:image/png;base64,...: nothing is fetched for clients.",
        )
    try:
        file = base64.b64decode(data, validate=True)
    except ValueError:
        file = b""
    return Image.of(file)


class HistoryMessage(Body):
    """One earlier message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Call(Terms):
    """What every generating request has in common; only ``message`` is required.

    ``images`` are shown beside the message: PNG or JPEG files as ``data:image/png;base64,...``.
    """

    message: str
    images: list[str] = Field(default_factory=list, max_length=16)
    history: list[HistoryMessage] = Field(default_factory=list)
    system: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def request(
        self, model: str, correlation_id: str, *, source: str = "api", **more: Any
    ) -> ChatRequest:
        """The engine's request for one model."""
        messages = [Message(item.role, item.content) for item in self.history]
        if self.system:
            messages.insert(0, Message("system", self.system))
        images = tuple(read_image(address) for address in self.images)
        messages.append(Message("user", self.message, images=images))
        return self.chat_request(
            model, messages, self.options, correlation_id=correlation_id, source=source, **more
        )


class Generate(Call):
    """One model answers."""

    model: str


class StreamMessage(Generate):
    """One model answers; with ``detach`` the work survives the loss of its reader for a while."""

    detach: bool = False


class Compare(Call):
    """Several models answer the same message; ``detach`` as for one."""

    detach: bool = False
    models: list[str] = Field(min_length=1, max_length=16)
