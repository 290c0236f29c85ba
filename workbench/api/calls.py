"""What a client may ask for, checked once for every face and turned into the engine's request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.types import ChatRequest, Message, Options, Timeouts, TimingMode, new_id


class Body(BaseModel):
    """A JSON object of which every field is known: a misspelt one is refused, never dropped."""

    model_config = ConfigDict(extra="forbid")


class HistoryMessage(Body):
    """One earlier message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Call(Body):
    """What every generating request has in common; only ``message`` is required."""

    message: str
    history: list[HistoryMessage] = Field(default_factory=list)
    conversation_id: str | None = None
    system: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    timing_mode: TimingMode = TimingMode.CONCURRENT
    fallback: str | None = None
    timeouts: dict[str, float | None] = Field(default_factory=dict)

    def request(self, model: str, correlation_id: str, **more: Any) -> ChatRequest:
        """The engine's request for one model."""
        messages = [Message(item.role, item.content) for item in self.history]
        if self.system:
            messages.insert(0, Message("system", self.system))
        return ChatRequest(
            model=model,
            messages=(*messages, Message("user", self.message)),
            options=Options.from_mapping(self.options),
            timing_mode=self.timing_mode,
            fallback=self.fallback,
            timeouts=Timeouts.from_mapping(self.timeouts),
            conversation_id=self.conversation_id or new_id("con"),
            correlation_id=correlation_id,
            source="api",
            **more,
        )


class StreamMessage(Call):
    """One model answers."""

    model: str


class Compare(Call):
    """Several models answer the same message."""

    models: list[str] = Field(min_length=1, max_length=16)
