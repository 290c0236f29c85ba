"""What a provider yields, checked before it is believed: figures are made of nothing else.

A provider that breaks a rule ends its own answer, with an error that names it. What came before is
kept, and nobody else notices. The rules are those of :meth:`Provider.stream`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar, get_args

from workbench import logs
from workbench.errors import WorkbenchError, defect, unforeseen
from workbench.providers.base import CancellationToken, Provider, ResidentModel
from workbench.types import (
    MOST_TOKENS,
    Channel,
    ChatRequest,
    FinishReason,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    ToolCall,
)

_log = logs.get(__name__)
T = TypeVar("T")

_CHANNELS: Final = get_args(Channel)
_REASONS: Final = get_args(FinishReason)
_LAST_PID: Final = 2**31 - 1
_COUNTS: Final = ("cache_tokens", "context_limit", "threads")
"""What the engine reads in the details of a finish."""
_AFTER_STOP: Final = 2
"""Tokens that may come after a stop."""
_STOP_NS: Final = 500_000_000
"""A stop takes its time to reach another process on a busy machine: tokens that come meanwhile are
not counted as ignoring it."""
_TURN_NS: Final = 20_000_000
"""A provider that never waits lets others have their turn after this time."""


async def guarded(
    provider: Provider,
    request: ChatRequest,
    model: str,
    seed: int,
    cancel: CancellationToken,
    sent_ns: int,
) -> AsyncGenerator[ProviderEvent, None]:
    """The events of ``provider.stream``, as long as they keep to its rules.

    Args:
        provider: whose ``stream`` is called.
        request: as for it.
        model: as for it.
        seed: as for it.
        cancel: as for it; one that ignores it is closed, with the warning ``STOP_IGNORED``.
        sent_ns: when the request was handed over, on the clock ``time.monotonic_ns``; no stamp may
            lie before.

    Raises:
        WorkbenchError: its own, or ``INTERNAL`` where it breaks a rule or raises anything else.
    """
    name = provider.name
    task, cancelled = _current()
    reached, turn, tokens, late, finished = sent_ns, sent_ns, 0, 0, False
    events: Any = None
    with blamed(name, "stream"):
        try:
            events = provider.stream(request, model, seed, cancel)
            if not isinstance(events, AsyncGenerator):
                raise _breach(name, f"its stream is {events!r:.100} and no async generator")
            while True:
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    break
                except GeneratorExit as error:  # would end ours without a word
                    raise _breach(name, "it raised GeneratorExit") from error
                now = time.monotonic_ns()
                if task.cancelling() > cancelled:
                    raise asyncio.CancelledError  # it has swallowed ours
                if finished:
                    raise _breach(name, f"after its finish came {event!r:.100}")
                if isinstance(event, ProviderToken):
                    t_ns, n_tokens = event.t_ns, event.n_tokens
                    if (
                        type(t_ns) is not int
                        or not reached <= t_ns <= now
                        or type(n_tokens) is not int
                        or n_tokens < 0
                        or not isinstance(event.text, str)
                        or event.channel not in _CHANNELS
                        or not isinstance(event.logprobs, tuple)
                    ):
                        raise _breach(name, _wrong_token(event, reached, sent_ns, now))
                    reached = t_ns
                    tokens += n_tokens
                    if tokens > MOST_TOKENS:
                        raise _breach(name, f"it counts {tokens:,} tokens; at most {MOST_TOKENS:,}")
                    if cancel.at_ns is not None and t_ns > cancel.at_ns + _STOP_NS:
                        late += 1
                        if late > _AFTER_STOP:
                            yield stop_ignored(name)
                            return
                elif isinstance(event, ProviderToolCall):
                    if problem := _wrong_call(event, reached, sent_ns, now):
                        raise _breach(name, problem)
                    reached = event.t_ns
                elif isinstance(event, ProviderFinish):
                    if problem := _wrong_finish(event):
                        raise _breach(name, problem)
                    finished = True
                elif problem := _wrong_warning(event):
                    raise _breach(name, problem)
                yield event
                if now - turn > _TURN_NS:
                    await asyncio.sleep(0)
                    turn = now
            if not finished and not cancel.cancelled:
                raise _breach(name, "it ended the stream without its finish")
        finally:
            await _close(events, name, task, cancelled)


async def load(
    provider: Provider, model: str, keep_alive_s: float, num_ctx: int | None
) -> ResidentModel:
    """``provider.load``; what goes wrong there names the provider."""
    with blamed(provider.name, "load", of_all=True):
        resident = await provider.load(model, keep_alive_s=keep_alive_s, num_ctx=num_ctx)
    if not isinstance(resident, ResidentModel):
        what = f"its load returned {resident!r:.100} and no ResidentModel"
        raise _breach(provider.name, what, "load")
    return resident


async def unload(provider: Provider, model: str) -> None:
    """``provider.unload``; what goes wrong there names the provider."""
    with blamed(provider.name, "unload"):
        await provider.unload(model)


def pids(provider: Provider, model: str) -> tuple[int, ...]:
    """``provider.pids``; none where that fails, or gives what are none.

    The memory of all models is read together: one provider must not spoil it for the others.
    """
    return _told(
        provider.name,
        "pids",
        lambda: provider.pids(model),
        lambda pid: type(pid) is int and 0 < pid <= _LAST_PID,
    )


def residents(provider: Provider) -> tuple[str, ...]:
    """``provider.residents``; none where that fails, as with :func:`pids`."""
    return _told(provider.name, "residents", provider.residents, lambda name: isinstance(name, str))


def _told(
    provider: str, operation: str, ask: Callable[[], Iterable[T]], fits: Callable[[T], bool]
) -> tuple[T, ...]:
    try:
        found = tuple(ask())
    except Exception as error:
        _say_once(provider, operation, f"it raised {type(error).__name__}: {error}")
        return ()
    if not all(map(fits, found)):
        _say_once(provider, operation, f"it gave {found!r:.100}")
        return ()
    return found


@lru_cache(maxsize=256)
def _say_once(provider: str, operation: str, reason: str) -> None:
    """It is asked several times a second, and would fill the log."""
    _log.error("provider_defect", provider=provider, operation=operation, reason=reason)


@contextmanager
def blamed(provider: str, operation: str, *, of_all: bool = False) -> Iterator[None]:
    """What a provider raises in here is its own, or a defect that names it.

    Args:
        provider: its name.
        operation: what is being attempted (``load``, ``list``, ...).
        of_all: several wait for the same work, so that one may find it cancelled by another.

    Raises:
        WorkbenchError: its own, or ``INTERNAL`` where it raises anything else.
    """
    task, cancelled = _current()
    try:
        yield
    except WorkbenchError:
        raise
    except (Exception, asyncio.CancelledError, SystemExit) as error:
        given_up = of_all and isinstance(error, asyncio.CancelledError)
        if given_up or task.cancelling() > cancelled:
            raise
        _log.error("provider_defect", provider=provider, operation=operation, exc_info=error)
        raise unforeseen(error, operation, provider=provider, theirs=True) from error


def _current() -> tuple[asyncio.Task[Any], int]:
    """The task that runs this, and how often it has been cancelled until now."""
    task = asyncio.current_task()
    assert task is not None
    return task, task.cancelling()


def stop_ignored(provider: str, *, left: bool = False) -> ProviderWarning:
    """That a provider did not stop, so that its stream was closed; or left, as it cannot be."""
    done = "cannot be closed: it goes on unseen" if left else "was closed"
    return ProviderWarning(
        "STOP_IGNORED", f"{provider} went on after it was stopped, so its stream {done}."
    )


async def _close(events: Any, name: str, task: asyncio.Task[Any], cancelled: int) -> None:
    """Close its stream; what fails there changes nothing any more."""
    if not isinstance(events, AsyncGenerator):
        return
    try:
        await events.aclose()
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and task.cancelling() > cancelled:
            raise
        _log.warning("stream_not_closed", provider=name, exc_info=error)


def _breach(name: str, what: str, operation: str = "stream") -> WorkbenchError:
    _log.error("provider_defect", provider=name, operation=operation, reason=what)
    return defect(what, operation, name)


def _wrong_stamp(t_ns: object, reached: int, sent_ns: int, now: int) -> str:
    """What is wrong with a stamp; nothing if it may be."""
    if type(t_ns) is not int:
        return f"a stamp is {t_ns!r:.100} and no whole number of nanoseconds"
    if t_ns < sent_ns:
        ago = f"{(sent_ns - t_ns) / 1e9:.6g} s before its request was sent"
        return f"a stamp lies {ago}; the clock is time.monotonic_ns"
    if t_ns < reached:
        return f"a stamp lies {(reached - t_ns) / 1e9:.6g} s before the one before it"
    if t_ns > now:
        return f"a stamp lies {(t_ns - now) / 1e9:.6g} s ahead; the clock is time.monotonic_ns"
    return ""


def _wrong_token(event: ProviderToken, reached: int, sent_ns: int, now: int) -> str:
    if problem := _wrong_stamp(event.t_ns, reached, sent_ns, now):
        return problem
    if not _is_count(event.n_tokens) or event.n_tokens is None:
        return f"a token has n_tokens {event.n_tokens!r:.100}"
    if not isinstance(event.text, str):
        return f"the text of a token is {event.text!r:.100}"
    if event.channel not in _CHANNELS:
        return f"a token has the channel {event.channel!r:.100}"
    return f"the logprobs of a token are {event.logprobs!r:.100} and no tuple"


def _wrong_call(event: ProviderToolCall, reached: int, sent_ns: int, now: int) -> str:
    call = event.call
    if not isinstance(call, ToolCall) or not all(
        isinstance(text, str) for text in (call.id, call.name, call.arguments)
    ):
        return f"a call of a function is {call!r:.100}"
    return _wrong_stamp(event.t_ns, reached, sent_ns, now)


def _wrong_finish(event: ProviderFinish) -> str:
    if event.finish_reason not in _REASONS:
        return f"its finish reason is {event.finish_reason!r:.100}"
    if not isinstance(event.count_source, str):
        return f"its count_source is {event.count_source!r:.100}"
    if not isinstance(event.details, Mapping) or not isinstance(event.runtime_ns, Mapping):
        return "details and runtime_ns of its finish must be mappings"
    counts = {"prompt_tokens": event.prompt_tokens, "output_tokens": event.output_tokens}
    counts |= {key: event.details.get(key) for key in _COUNTS}
    for key, value in counts.items():
        if not _is_count(value):
            return f"{key} of its finish is {value!r:.100}"
    for key, value in event.runtime_ns.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            return f"the duration {key!r:.100} of its finish is {value!r:.100}"
    return ""


def _wrong_warning(event: object) -> str:
    if not isinstance(event, ProviderWarning):
        return f"it yields {event!r:.100}, which is no event"
    if not isinstance(event.code, str) or not isinstance(event.message, str):
        return f"a warning is {event!r:.100}"
    if not isinstance(event.details, Mapping):
        return f"the details of a warning are {event.details!r:.100}"
    return ""


def _is_count(value: object) -> bool:
    """A number of tokens or the like, or None where the runtime does not tell."""
    return value is None or (type(value) is int and 0 <= value <= MOST_TOKENS)
