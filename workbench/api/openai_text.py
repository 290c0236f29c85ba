"""What a client of OpenAI's older operation may ask for: a text that is continued as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import Field

from workbench.api.openai_calls import Completion, unsupported
from workbench.types import ChatRequest, Message

DEFAULT_TOKENS: Final = 16
"""Tokens of an answer unless the client says otherwise, as OpenAI has it."""


class TextCompletion(Completion):
    """The body of ``POST /v1/completions``: no chat template is put around ``prompt``.

    ``logprobs`` is the number of alternatives told for each token, 0 for the token alone. ``echo``
    repeats the prompt before its continuation.
    """

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{name: neutral for name, neutral in Completion.REFUSED.items() if name != "echo"},
        "suffix": ("",),
        "messages": ([],),
        "tools": ([],),
        "prompt_logprobs": (0, False),
        "return_token_ids": (False,),
    }

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def text(self) -> str:
        """The prompt.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``: it is several, or tokens.
        """
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise unsupported(
                "prompt",
                "A prompt of token ids is not supported: each model has its own.",
                "Send the prompt as text.",
            )
        if len(prompts) != 1:
            raise unsupported(
                "prompt",
                f"{len(prompts)} prompts in one request are not supported.",
                "Send one prompt in each request (LangChain: batch_size=1); each answer then has "
                "figures of its own.",
            )
        return str(prompts[0])

    def request(self, correlation_id: str) -> ChatRequest:
        """The engine's request.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for what is wrong in itself or cannot be served.
        """
        self._refuse()
        return self._terms().chat_request(
            self.model,
            [Message("user", self.text)],
            self._options(),
            correlation_id=correlation_id,
            source="openai",
            raw=True,
        )

    def _options(self) -> dict[str, Any]:
        return {
            **super()._options(),
            "max_tokens": DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens,
            # One alternative at least, or a runtime gives no probabilities at all.
            "logprobs": None if self.logprobs is None else max(1, self.logprobs),
        }

    def _refuse(self) -> None:
        super()._refuse()
        if self.echo and self.logprobs is not None:
            raise unsupported(
                "echo",
                "echo together with logprobs is not supported: the runtimes do not tell the "
                "probabilities of a prompt.",
                "Use one of them.",
            )
