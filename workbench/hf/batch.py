"""Continuous batching: requests to one model share its forward passes and come and go at will.

The requests that decode hold the first slots, those whose prompt is still being evaluated the ones
after them, so that every pass covers neighbouring slots. Each turn evaluates a piece of waiting
prompts, then one token of every answer: a long prompt delays the others by a piece, never by its
whole length (imports torch).
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.answer import Answer, Send, generation_error
from workbench.hf.cores import Threads
from workbench.hf.fitting import give_back_memory
from workbench.hf.loading import LoadedModel, is_out_of_memory
from workbench.hf.protocol import Failed, Generate
from workbench.hf.sampling import choose
from workbench.hf.slots import PlainRunner, SlotRunner

_PIECE: Final = 512
"""Prompt tokens in one pass while nobody decodes."""
_PIECE_BESIDE: Final = 64
"""The fewest while others decode."""
_STEPS_OF_DELAY: Final = 2.5
"""A piece of prompt may take as long as this many steps of all who will decode then, so that nobody
sees a gap of more than about three times the usual one."""
_NO_REST: Final = 1.5
"""A prompt up to this many pieces long is one piece: a short rest costs nearly as much as it."""
_AHEAD: Final = 256
"""Room is made for this many tokens of an answer when it begins: later, all wait for it."""
_RECENT: Final = 0.3
"""Weight of the newest pass in the averages of their times."""
_KEEP_BYTES: Final = 64 * 2**20
"""A cache up to this size is kept while nobody asks."""


class _AllCancelled(Exception):
    """Raised between two layers to leave a pass that nobody needs any more."""


class Batch:
    """All requests to one loaded model.

    Args:
        loaded: the model.
        max_batch: the most requests answered at once; more wait.
        cache_bytes: the most memory for keys and values; requests beyond it wait.
        send: takes the messages for the server.
        cancelled: tells whether a request was cancelled.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_batch: int,
        cache_bytes: int,
        send: Send,
        cancelled: Callable[[int], bool],
    ) -> None:
        self._loaded = loaded
        self._runner = loaded.runner
        self._max = max_batch if isinstance(loaded.runner, SlotRunner) else 1
        self._cells = cache_bytes // max(loaded.cache_bytes_per_token, 1)
        self._send = send
        self._cancelled = cancelled
        self._waiting: deque[Answer] = deque()
        self._decoding: list[Answer] = []
        self._reading: list[Answer] = []
        """Those whose prompt is being evaluated."""
        self._threads = Threads()
        self._step_s: dict[int, float] = {}
        """How long a decoding step takes, averaged over the last ones, by the bits of the number of
        answers in it."""
        self._token_s = 0.0
        """How long a token of a prompt takes."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._decoding or self._reading)

    def add(self, request: Generate) -> None:
        """Take a request; what is wrong with it is answered at once."""
        try:
            answer = Answer(self._loaded, request, self._send)
            self._check_size(answer)
        except WorkbenchError as error:
            self._send(Failed(request.request_id, error.to_dict()))
        except Exception as error:  # whatever a tokenizer raises concerns only this request
            traceback.print_exc()
            failed = generation_error(error, self._loaded.device, 0)
            self._send(Failed(request.request_id, failed.to_dict()))
        else:
            self._waiting.append(answer)

    def trim(self) -> None:
        """Let go of the cache and of freed memory that is kept, if nobody is being answered."""
        if not self.idle:
            return
        self._runner.release()
        give_back_memory()

    @torch.inference_mode()
    def step(self) -> None:
        """Do a piece of prompt and a token of every answer."""
        self._drop_cancelled()
        self._admit()
        if self._reading:
            self._read_prompts()
            self._drop_cancelled()
        if self._decoding:
            self._decode()
        if self.idle:
            self._release_cache()

    # -- who takes part --------------------------------------------------------------------------

    def _check_size(self, answer: Answer) -> None:
        if isinstance(self._runner, SlotRunner) and answer.tokens_at_most > self._cells:
            raise WorkbenchError(
                ErrorCode.HF_MEMORY_EXCEEDED,
                f"Prompt and answer may take {answer.tokens_at_most} tokens, but the memory for "
                f"keys and values holds {self._cells}.",
                fix="Shorten the prompt or max_tokens, or raise HF_KV_CACHE_BUDGET.",
                operation="stream",
                provider="huggingface",
                details={
                    "tokens": answer.tokens_at_most,
                    "bytes_per_token": self._loaded.cache_bytes_per_token,
                },
            )

    def _admit(self) -> None:
        """Let waiting requests in, in order, while slots and memory last."""
        while self._waiting:
            present = [*self._decoding, *self._reading]
            answer = self._waiting[0]
            longest = max(other.tokens_at_most for other in [answer, *present])
            if len(present) >= self._max or (
                present and longest * (len(present) + 1) > self._cells
            ):
                return
            self._waiting.popleft()
            answer.admit()
            self._reading.append(answer)
            self._make_room(answer)

    def _make_room(self, answer: Answer) -> None:
        if isinstance(self._runner, SlotRunner):
            tokens = min(answer.tokens_at_most, len(answer.ids) + _AHEAD)
            self._runner.cache.reserve(len(self._decoding) + len(self._reading), tokens)

    def _drop_cancelled(self) -> None:
        for answer in [a for a in self._everyone() if self._cancelled(a.number)]:
            self._remove(answer)
            answer.finish(cancelled=True)

    def _everyone(self) -> list[Answer]:
        return [*self._decoding, *self._reading, *self._waiting]

    def _remove(self, answer: Answer) -> None:
        """Take a request out and close the gap that its slot leaves."""
        if answer in self._waiting:
            self._waiting.remove(answer)
            return
        if answer in self._decoding:
            hole = self._decoding.index(answer)
            last = self._decoding.pop()
            if last is not answer:
                self._move(last, len(self._decoding), hole)
                self._decoding[hole] = last
            self._close_ranks(0)
        elif answer in self._reading:
            hole = self._reading.index(answer)
            del self._reading[hole]
            self._close_ranks(hole)

    def _close_ranks(self, hole: int) -> None:
        """Those that read from ``hole`` on move up by a slot; they keep their order."""
        low = len(self._decoding)
        for place in range(hole, len(self._reading)):
            self._move(self._reading[place], low + place + 1, low + place)

    def _move(self, answer: Answer, source: int, target: int) -> None:
        # One whose prompt has not been begun has no cells yet, and its slot may not exist.
        if isinstance(self._runner, SlotRunner) and answer.evaluated:
            self._runner.cache.move(source, target, answer.evaluated)

    def _release_cache(self) -> None:
        if isinstance(self._runner, PlainRunner):
            self._runner.release()
            return
        cache = self._runner.cache
        if cache.slots * cache.tokens * self._loaded.cache_bytes_per_token > _KEEP_BYTES:
            self._runner.release()

    # -- passes ----------------------------------------------------------------------------------

    def _read_prompts(self) -> None:
        """Evaluate a piece of the first prompts; those that are complete get their first token."""
        piece = self._piece()
        group: list[Answer] = []
        widest = 0
        for answer in self._reading:
            left = self._next_piece(answer, piece)
            if group and max(widest, left) * (len(group) + 1) > piece:
                break
            widest = max(widest, left)
            group.append(answer)
        parts = [a.ids[a.evaluated :][: self._next_piece(a, piece)] for a in group]
        begun = time.perf_counter()
        with self._left_when_cancelled(group):
            logits = self._forward(group, len(self._decoding), parts)
        if logits is None:
            return
        spent = (time.perf_counter() - begun) / (widest * len(group))
        self._token_s += _RECENT * (spent - self._token_s) if self._token_s else spent
        complete = [a for a in group if a.evaluated == len(a.ids)]
        rows = [group.index(answer) for answer in complete]
        if complete:
            # Those that are complete move to the front, next to the ones that decode.
            for place, answer in enumerate(complete):
                self._swap_reading(place, self._reading.index(answer))
            del self._reading[: len(complete)]
            self._decoding += complete
            self._take(complete, logits[rows] if len(rows) < len(group) else logits)

    def _piece(self) -> int:
        """The most prompt tokens in the next pass."""
        if isinstance(self._runner, PlainRunner):
            return len(self._reading[0].ids)  # not every cache takes a prompt in pieces
        if not self._decoding or not self._token_s:
            return _PIECE_BESIDE if self._decoding else _PIECE
        soon = (len(self._decoding) + len(self._reading)).bit_length()
        step_s = max((s for bits, s in self._step_s.items() if bits <= soon), default=0.0)
        within = int(_STEPS_OF_DELAY * step_s / self._token_s)
        return max(_PIECE_BESIDE, min(within, _PIECE))

    @staticmethod
    def _next_piece(answer: Answer, piece: int) -> int:
        left = len(answer.ids) - answer.evaluated
        return left if left <= _NO_REST * piece else piece

    def _swap_reading(self, first: int, second: int) -> None:
        if first == second:
            return
        one, other = self._reading[first], self._reading[second]
        low = len(self._decoding)
        spare = low + len(self._reading)
        if isinstance(self._runner, SlotRunner):
            cache = self._runner.cache
            cache.reserve(spare + 1, max(one.evaluated, other.evaluated))
            for source, target, moved in (
                (low + first, spare, one),
                (low + second, low + first, other),
                (spare, low + second, one),
            ):
                cache.move(source, target, moved.evaluated)
        self._reading[first], self._reading[second] = other, one

    def _decode(self) -> None:
        group = list(self._decoding)
        tokens = [[answer.last_token or 0] for answer in group]
        begun = time.perf_counter()
        logits = self._forward(group, 0, tokens)
        if logits is not None:
            self._take(group, logits)
            spent = time.perf_counter() - begun
            bits = len(group).bit_length()
            before = self._step_s.get(bits, spent)
            self._step_s[bits] = before + _RECENT * (spent - before)

    def _forward(
        self, group: list[Answer], low: int, tokens: list[list[int]]
    ) -> torch.Tensor | None:
        """One pass; None if it failed, with everything said to those it concerned."""
        size, step = sum(map(len, tokens)), max(map(len, tokens)) == 1
        # As few as the most modest request asks for, as it shares the cores with somebody.
        most = min(answer.threads for answer in group)
        threads, free = self._threads.choose(size, most, step=step)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        begun = time.perf_counter()
        try:
            logits: torch.Tensor = self._runner.forward(
                low, tokens, [answer.evaluated for answer in group]
            )
        except _AllCancelled:
            return None
        except Exception as error:  # whatever a model raises concerns only these requests
            traceback.print_exc()
            if is_out_of_memory(error) and len(group) > 1:
                # Fewer at once may fit: the youngest gives way, and no more are let in for now.
                self._max = max(len(group) - 1, 1)
                group = group[-1:]
            for answer in group:
                self._remove(answer)
                self._send(Failed(answer.number, answer.fail(error).to_dict()))
            return None
        if free:
            self._threads.took(size, threads, time.perf_counter() - begun, step=step)
        for answer, part in zip(group, tokens, strict=True):
            answer.evaluated += len(part)
            answer.passes[threads] += 1
        return logits

    def _take(self, group: list[Answer], logits: torch.Tensor) -> None:
        """Choose the next token of each request and send it."""
        chosen = choose(logits, [answer.sampler for answer in group])
        now = time.monotonic_ns()  # after the choice, which waits for a GPU
        for row, (answer, token) in enumerate(zip(group, chosen, strict=True)):
            try:
                if isinstance(token, WorkbenchError):
                    raise token
                last = answer.accept(token, logits[row], now)
            except Exception as error:
                self._fail(answer, error)
                continue
            if last:
                self._remove(answer)
                answer.finish(cancelled=False)

    def _fail(self, answer: Answer, error: Exception) -> None:
        """End one request with its error; its slot may hold anything now, NaN too."""
        if not isinstance(error, WorkbenchError):
            traceback.print_exc()
        if isinstance(self._runner, SlotRunner):
            self._runner.cache.clear(self._decoding.index(answer))
        self._remove(answer)
        self._send(Failed(answer.number, answer.fail(error).to_dict()))

    @contextmanager
    def _left_when_cancelled(self, group: list[Answer]) -> Iterator[None]:
        """Look for cancellation between the layers while prompts are evaluated.

        A piece of prompt takes a second on a slow CPU.
        """

        def before(module: torch.nn.Module, inputs: object) -> None:
            if all(self._cancelled(answer.number) for answer in group):
                raise _AllCancelled

        handles = [layer.register_forward_pre_hook(before) for layer in self._loaded.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
