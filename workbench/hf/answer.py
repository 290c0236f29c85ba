"""One request while the model answers it: its tokens, its text, its messages to the server."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import torch

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.fitting import first_line
from workbench.hf.loading import LoadedModel, is_out_of_memory
from workbench.hf.prompting import make_prompt
from workbench.hf.protocol import Called, Finished, Generate, Message, Token, Warned
from workbench.hf.sampling import Sampler, log_probabilities
from workbench.hf.text import (
    AnswerText,
    ChannelFilter,
    ThinkFilter,
    cleans_up,
    forced_ids,
    token_bytes,
)
from workbench.hf.tools import ToolFilter, tool_filter
from workbench.types import Channel, Options

Send = Callable[[Message], None]


class Answer:
    """From a request to its last message.

    Args:
        loaded: the model.
        request: what to answer.
        send: takes the messages for the server.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for what this model cannot do.
    """

    def __init__(self, loaded: LoadedModel, request: Generate, send: Send) -> None:
        self.number = request.request_id
        self.threads = request.threads
        """The most that its passes may use."""
        self.passes: Counter[int] = Counter()
        """How many of its passes had how many threads."""
        self._started = time.monotonic_ns()
        self._loaded = loaded
        self._options = Options.from_mapping(request.options)
        self._send = send
        tokenizer = loaded.tokenizer
        prompt = make_prompt(
            tokenizer,
            request.messages,
            self._options,
            loaded.context_length,
            request.tools,
            raw=request.raw,
        )
        for warning in prompt.warnings:
            send(Warned(self.number, warning.code, warning.message, warning.details))
        self._prompt = prompt
        self.ids = prompt.ids
        self.evaluated = 0
        """How many of ``ids`` the model has seen."""
        forced = deque(forced_ids(tokenizer, request.forced)) if request.forced else None
        most = self._options.max_tokens if forced is None else len(forced)
        self.max_new = min(most, prompt.limit - len(prompt.ids))
        self.sampler = Sampler(
            self._options,
            request.seed,
            prompt.ids,
            loaded.grammar(self._options.response_format),
            forced,
        )
        self.last_token: int | None = None
        self.count = 0
        self._n_prompt = len(prompt.ids)
        self._admitted_ns = self._first_ns = self._last_ns = 0
        self._finish_reason = "stop"
        self._end_token: int | None = None
        self._warned = False
        self._tools: ToolFilter | None = None
        think: ChannelFilter | None = None
        if request.tools:
            think = self._tools = tool_filter(tokenizer, loaded.model, prompt.text, request.tools)
        elif loaded.thinks and not request.raw:
            think = ThinkFilter(prompt.text.rstrip().endswith(ThinkFilter.OPEN))
        self._text = AnswerText(
            lambda ids: str(
                tokenizer.decode(
                    ids,
                    # Some families mark a call with special tokens.
                    skip_special_tokens=not request.tools,
                    clean_up_tokenization_spaces=False,
                )
            ),
            tokenizer.clean_up_tokenization if cleans_up(tokenizer) else None,
            self._options.stop,
            think,
        )
        self._tokenized_ns = time.monotonic_ns()

    @property
    def tokens_at_most(self) -> int:
        """Cells of the cache that this request may come to need."""
        return self._n_prompt + self.max_new

    def admit(self) -> None:
        """Note that the evaluation of the prompt begins."""
        self._admitted_ns = time.monotonic_ns()

    def accept(self, token_id: int, logits: torch.Tensor, now: int) -> bool:
        """Take the next token and send it.

        Args:
            token_id: as chosen.
            logits: it was chosen from, of shape (vocabulary,).
            now: when it was there, monotonic nanoseconds.

        Returns:
            True if it was the last one; :meth:`finish` is due then.
        """
        self.count += 1
        self.last_token = token_id
        self._last_ns = now
        if self.count == 1:
            self._first_ns = now
        at_end = token_id in self._loaded.eos_ids
        # The end token's text is no part of the answer, special or not.
        pieces = [] if at_end else self._text.push(token_id)
        stopped = self._text.stop_string is not None
        full = self.count >= self.max_new
        if at_end:
            self._end_token = token_id
        elif full and not stopped:
            self._finish_reason = "length"
        last = at_end or stopped or full
        if last:
            pieces += self._text.finish()
        logprobs = [self._logprob(token_id, logits)] if self._options.logprobs else []
        self._send_pieces(pieces, now, logprobs)
        self._send_calls(now)
        return last

    def finish(self, *, cancelled: bool) -> None:
        """Send the last message."""
        if cancelled:
            self._send_held_back()
        ended = time.monotonic_ns()
        first = self._first_ns or ended
        admitted = self._admitted_ns or ended
        details: dict[str, Any] = {
            "rendered_prompt_sha256": hashlib.sha256(self._prompt.text.encode()).hexdigest(),
            "context_limit": self._prompt.limit,
            "max_new_tokens": self.max_new,
            "threads": max(self.passes, key=self.passes.__getitem__, default=self.threads),
            "cancelled": cancelled,
            "cache_tokens": self._loaded.runner.cells,
        }
        if self._text.stop_string is not None:
            details["stop_string"] = self._text.stop_string
        elif self._end_token is not None:
            details["end_token_id"] = self._end_token
        self._send(
            Finished(
                request_id=self.number,
                finish_reason=self._finish_reason,
                cancelled=cancelled,
                prompt_tokens=self._n_prompt,
                output_tokens=self.count,
                runtime_ns={
                    "tokenize": self._tokenized_ns - self._started,
                    "wait": admitted - self._tokenized_ns,
                    "prefill": first - admitted,
                    "decode": max(self._last_ns - first, 0),
                    "total": ended - self._started,
                },
                details=details,
            )
        )

    def fail(self, error: BaseException) -> WorkbenchError:
        """Send text that was held back; returns the error in its typed form."""
        self._send_held_back()
        return generation_error(error, self._loaded.device, self.count)

    def _send_held_back(self) -> None:
        for channel, text in self._text.finish():
            self._send(Token(self.number, text, time.monotonic_ns(), 0, channel=channel))

    def _send_pieces(
        self, pieces: list[tuple[Channel, str]], now: int, logprobs: list[dict[str, Any]]
    ) -> None:
        """One message for the token, whatever text it settled; more if it changed the channel."""
        channel, text = pieces[0] if pieces else (self._text.channel, "")
        self._send(Token(self.number, text, now, 1, logprobs, channel))
        for channel, text in pieces[1:]:
            self._send(Token(self.number, text, now, 0, channel=channel))

    def _send_calls(self, now: int) -> None:
        if self._tools is None:
            return
        while self._tools.calls:
            call = self._tools.calls.pop(0)
            self._send(Called(self.number, call.id, call.name, call.arguments, now))
        if self._tools.unreadable and not self._warned:
            self._warned = True
            message = "The model asked for a function in a form that cannot be read; it stays text."
            self._send(Warned(self.number, "TOOL_CALL_UNREADABLE", message))

    def _logprob(self, token_id: int, logits: torch.Tensor) -> dict[str, Any]:
        value, top = log_probabilities(logits, token_id, self._options.logprobs)
        return {
            **self._named(token_id, value),
            "top_logprobs": [self._named(other, other_value) for other, other_value in top],
        }

    def _named(self, token_id: int, logprob: float) -> dict[str, Any]:
        tokenizer = self._loaded.tokenizer
        text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        found = token_bytes(text, tokenizer.convert_ids_to_tokens(token_id))
        spelt = {"bytes": found} if found is not None else {}
        return {"token": text, "token_id": token_id, "logprob": logprob, **spelt}


def generation_error(error: BaseException, device: str, count: int) -> WorkbenchError:
    """The typed form of what went wrong.

    Args:
        error: whatever was raised.
        device: where the model is.
        count: how many tokens there were by then.
    """
    if isinstance(error, WorkbenchError):
        return error
    if is_out_of_memory(error):
        return WorkbenchError(
            ErrorCode.HF_MEMORY_EXCEEDED,
            f"Memory of {device} ran out after {count} tokens.",
            fix="Unload other models, ask for fewer answers at once, or shorten the prompt or "
            "max_tokens.",
            operation="stream",
            provider="huggingface",
            details={"device": device, "cause": first_line(error)},
        )
    return WorkbenchError(
        ErrorCode.HF_GENERATION_FAILED,
        f"Generation failed after {count} tokens: {type(error).__name__}: {first_line(error)}",
        fix="Try other options or another model; the log has the traceback.",
        operation="stream",
        provider="huggingface",
        details={"device": device},
    )
