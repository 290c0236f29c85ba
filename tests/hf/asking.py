"""Ask a provider and collect what it yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workbench.providers.base import CancellationToken
from workbench.providers.huggingface import HuggingFaceProvider
from workbench.types import (
    ChatRequest,
    Message,
    Options,
    ProviderFinish,
    ProviderToken,
    ProviderWarning,
)


@dataclass
class Answer:
    """Everything one stream yielded."""

    tokens: list[ProviderToken] = field(default_factory=list)
    warnings: list[ProviderWarning] = field(default_factory=list)
    finishes: list[ProviderFinish] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def finish(self) -> ProviderFinish:
        assert len(self.finishes) == 1, "a stream ends with exactly one finish"
        return self.finishes[0]


def request(model: str, prompt: str = "Hello", **options: Any) -> ChatRequest:
    """A greedy request unless the options say otherwise."""
    return ChatRequest(
        f"huggingface/{model}",
        (Message("user", prompt),),
        Options(**{"temperature": 0.0, "max_tokens": 24, **options}),
    )


async def ask(
    provider: HuggingFaceProvider,
    model: str,
    prompt: str = "Hello",
    *,
    seed: int = 1,
    into: Answer | None = None,
    **options: Any,
) -> Answer:
    """One whole answer; ``into`` keeps what came before a failure."""
    answer = into if into is not None else Answer()
    chat = request(model, prompt, **options)
    async for event in provider.stream(chat, model, seed, CancellationToken()):
        if isinstance(event, ProviderToken):
            answer.tokens.append(event)
        elif isinstance(event, ProviderWarning):
            answer.warnings.append(event)
        else:
            answer.finishes.append(event)
    return answer
