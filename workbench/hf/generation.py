"""One generation, inside a worker (imports torch and transformers)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.hf.loading import LoadedModel, first_line, is_out_of_memory
from workbench.hf.protocol import Finished, Generate, Message, Token, Warned
from workbench.hf.text import AnswerText
from workbench.types import Options

Send = Callable[[Message], None]

_NO_TEMPLATE: Final = (
    "This model has no chat template: it continues the plain text of the messages and does not "
    "know who said what."
)


class _Cancelled(Exception):
    """Raised between two layers to leave a prompt's evaluation."""


class Generation:
    """Answers one request with ``model.generate`` and sends each token as it is chosen.

    Args:
        loaded: the model.
        request: what to answer.
        send: takes the messages for the server.
        cancelled: true once the request was cancelled.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        request: Generate,
        send: Send,
        cancelled: Callable[[], bool],
    ) -> None:
        self._loaded = loaded
        self._request = request
        self._options = Options.from_mapping(request.options)
        self._send = send
        self._cancelled = cancelled
        self._max_new = self._options.max_tokens
        self._count = 0
        self._first_ns = 0
        self._last_ns = 0
        self._finish_reason = "stop"
        self._end_token: int | None = None
        self._logits: torch.Tensor | None = None
        tokenizer = loaded.tokenizer
        self._text = AnswerText(
            lambda ids: str(
                tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ),
            tokenizer.clean_up_tokenization if _cleans_up(tokenizer) else None,
            self._options.stop,
        )

    def run(self) -> Finished:
        """Generate to the end, which may be a stop, the length limit or a cancellation.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for what this model or runtime cannot do,
                ``HF_MEMORY_EXCEEDED``, ``HF_GENERATION_FAILED``. Text that was held back has been
                sent before.
        """
        started = time.monotonic_ns()
        if self._options.response_format is not None:
            raise invalid(
                "response_format is not available for Hugging Face models.",
                fix="Leave it out, or choose an Ollama model.",
                option="response_format",
            )
        prompt, ids = self._prompt()
        limit = self._limit(len(ids))
        self._max_new = min(self._options.max_tokens, limit - len(ids))
        tokenized = time.monotonic_ns()
        try:
            self._generate(ids)
        except _Cancelled:
            pass
        except Exception as error:
            rest = self._text.finish()
            if rest:
                self._send(Token(self._request.request_id, rest, time.monotonic_ns(), 0))
            raise self._error(error) from error
        ended = time.monotonic_ns()
        first = self._first_ns or ended
        details: dict[str, Any] = {
            "rendered_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "context_limit": limit,
            "max_new_tokens": self._max_new,
            "threads": torch.get_num_threads(),
            "cancelled": self._cancelled(),
        }
        if self._text.stop_string is not None:
            details["stop_string"] = self._text.stop_string
        elif self._end_token is not None:
            details["end_token_id"] = self._end_token
        return Finished(
            request_id=self._request.request_id,
            finish_reason=self._finish_reason,
            cancelled=self._cancelled(),
            prompt_tokens=len(ids),
            output_tokens=self._count,
            runtime_ns={
                "tokenize": tokenized - started,
                "prefill": first - tokenized,
                "decode": max(self._last_ns - first, 0),
                "total": ended - started,
            },
            details=details,
        )

    # -- the prompt ----------------------------------------------------------------------------

    def _prompt(self) -> tuple[str, list[int]]:
        """The text that the model sees, and its ids."""
        tokenizer = self._loaded.tokenizer
        messages = self._request.messages
        if tokenizer.chat_template:
            try:
                text = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            except Exception as error:  # whatever the model's own template raises
                raise invalid(
                    f"The model's chat template refuses these messages: {first_line(error)}",
                    fix="Check the roles and their order; some models take no system message.",
                ) from error
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            self._send(Warned(self._request.request_id, "NO_CHAT_TEMPLATE", _NO_TEMPLATE))
            text = "\n".join(message["content"] for message in messages)
            ids = tokenizer(text)["input_ids"]
        if not ids:
            raise invalid("The prompt is empty.", fix="Write something to be answered.")
        return text, list(ids)

    def _limit(self, prompt_tokens: int) -> int:
        """The most tokens that prompt and answer may have together."""
        limits = [n for n in (self._options.num_ctx, self._loaded.context_length) if n]
        limit = min(limits, default=prompt_tokens + self._options.max_tokens)
        if prompt_tokens >= limit:
            raise invalid(
                f"The prompt has {prompt_tokens} tokens, but the context holds {limit} "
                "and must leave room for an answer.",
                fix="Shorten the prompt or the history, or raise num_ctx if the model allows it.",
                prompt_tokens=prompt_tokens,
                context_length=self._loaded.context_length,
                num_ctx=self._options.num_ctx,
            )
        return limit

    # -- the loop, which is transformers' own ----------------------------------------------------

    @torch.inference_mode()
    def _generate(self, ids: list[int]) -> None:
        options = self._options
        sampling: dict[str, Any] = {"do_sample": False}
        if options.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": options.temperature,
                "top_p": options.top_p,
                "top_k": options.top_k,
            }
        config = GenerationConfig(
            **sampling,
            repetition_penalty=options.repetition_penalty,
            max_new_tokens=self._max_new,
            num_beams=1,
            use_cache=True,
            eos_token_id=sorted(self._loaded.eos_ids) or None,
            pad_token_id=self._loaded.pad_id,
        )
        torch.manual_seed(self._request.seed)
        model = self._loaded.model
        inputs = torch.tensor([ids], device=model.device)
        with self._watched_logits(), self._leave_prompt_when_cancelled():
            model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([self._after_token]),
            )

    def _after_token(
        self, input_ids: torch.Tensor, scores: object, **unused: object
    ) -> torch.Tensor:
        """Called by ``generate`` when a token is chosen, before the next one is computed.

        A stopping criterion and not a streamer, because ``generate`` asks the criteria first: a
        stop string found by a streamer would cost one more token.
        """
        token_id = int(input_ids[0, -1])  # waits for the GPU; the stamp below is after that
        now = time.monotonic_ns()
        self._count += 1
        self._last_ns = now
        if self._count == 1:
            self._first_ns = now
        at_end = token_id in self._loaded.eos_ids
        # The end token's text is no part of the answer, special or not.
        text = "" if at_end else self._text.push(token_id)
        stopped = self._text.stop_string is not None
        if at_end:
            self._end_token = token_id
        elif not stopped and self._count >= self._max_new:
            self._finish_reason = "length"
        last = at_end or stopped or self._count >= self._max_new or self._cancelled()
        if last:
            text += self._text.finish()
        logprobs = [self._logprob(token_id)] if self._options.logprobs else []
        self._send(Token(self._request.request_id, text, now, 1, logprobs))
        return torch.full((1,), last, dtype=torch.bool, device=input_ids.device)

    @contextmanager
    def _watched_logits(self) -> Iterator[None]:
        """See each step's raw logits: refuse NaN, and keep them for the log-probabilities.

        A hook on the model, as logits processors see them only after the repetition penalty.
        """

        def after(module: torch.nn.Module, inputs: object, output: Any) -> None:
            logits = output.logits[0, -1]
            if not bool(torch.isfinite(logits.max())):
                raise _not_finite()
            self._logits = logits

        handle = self._loaded.model.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()
            self._logits = None

    @contextmanager
    def _leave_prompt_when_cancelled(self) -> Iterator[None]:
        """Check for cancellation between the layers while the prompt is evaluated.

        A long prompt takes many seconds on a CPU, all before the first stopping criterion.
        """

        def before(module: torch.nn.Module, inputs: object) -> None:
            if self._count == 0 and self._cancelled():
                raise _Cancelled

        handles = [layer.register_forward_pre_hook(before) for layer in self._loaded.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _logprob(self, token_id: int) -> dict[str, Any]:
        """Log-probability of the chosen token and of the likeliest ones, before any warping."""
        assert self._logits is not None
        logprobs = torch.log_softmax(self._logits.float(), dim=-1)
        top = torch.topk(logprobs, self._options.logprobs)
        return {
            **self._named(token_id, float(logprobs[token_id])),
            "top_logprobs": [
                self._named(other, value)
                for other, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            ],
        }

    def _named(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._loaded.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        return {"token": text, "token_id": token_id, "logprob": logprob}

    def _error(self, error: Exception) -> WorkbenchError:
        if isinstance(error, WorkbenchError):
            return error
        if is_out_of_memory(error):
            return WorkbenchError(
                ErrorCode.HF_MEMORY_EXCEEDED,
                f"Memory of {self._loaded.device} ran out after {self._count} tokens.",
                fix="Unload other models, or shorten the prompt or max_tokens.",
                operation="stream",
                provider="huggingface",
                details={"device": self._loaded.device, "cause": first_line(error)},
            )
        return WorkbenchError(
            ErrorCode.HF_GENERATION_FAILED,
            f"Generation failed after {self._count} tokens: "
            f"{type(error).__name__}: {first_line(error)}",
            fix="Try other options or another model; the log has the traceback.",
            operation="stream",
            provider="huggingface",
            details={"device": self._loaded.device},
        )


def _not_finite() -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_GENERATION_FAILED,
        "The model computed NaN or infinite logits.",
        fix="Use temperature 0 or weaker sampling settings; weights stored as float16 may "
        "overflow, then choose a bfloat16 or float32 copy.",
        operation="stream",
        provider="huggingface",
        details={"numerical": True},
    )


def _cleans_up(tokenizer: Any) -> bool:
    """Whether ``decode`` of this tokenizer would clean up spaces by itself."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return type(getattr(backend, "model", None)).__name__ != "BPE" or getattr(
        tokenizer, forced, False
    )
