"""An unload that is proven: what a model's processes held, and what they have given back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import MemoryReading, ProcessTrees, host_available_bytes
from workbench.providers import guard
from workbench.providers.base import Provider

ENOUGH: Final = 0.95
"""The share of its memory that an unloaded model must give back; less is a leak."""
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an unload did. Bytes are of host and GPU together.

    ``expected_bytes`` is what the model's processes held for themselves alone (USS and GPU
    memory): what must come back. Pages shared with other processes, such as those of the zygote
    that a worker was forked from, are not in it, for they do not come back. Weights that were
    mapped from a file are: afterwards they are page cache, which the system counts as available.

    ``recovered_bytes`` is this less what is left of it in those same processes; of a process
    that has ended nothing is. Both are None where the processes cannot be seen: a server on
    another machine, or another user's.

    What the host had available before and after stands beside them for information only, as
    every other process moves it too.
    """

    before: MemoryReading | None
    after: MemoryReading | None
    expected_bytes: int | None
    recovered_bytes: int | None
    leak: bool | None
    """Less than :data:`ENOUGH` came back by itself; None where that cannot be told."""
    killed: tuple[int, ...]
    """Process ids that had to be killed for the rest."""
    host_before_bytes: int
    host_after_bytes: int
    duration_s: float
    problem: str | None
    """Why the unload was not in order, in a sentence."""
    error: WorkbenchError | None
    """Set when the model's memory is not free at the end."""

    @property
    def recovered_share(self) -> float | None:
        """Recovered of expected, 0 to 1."""
        if not self.expected_bytes or self.recovered_bytes is None:
            return None
        return self.recovered_bytes / self.expected_bytes


async def unload(provider: Provider, model: str, *, grace_s: float) -> Receipt:
    """Unload a model, wait for its memory, and kill what keeps it.

    Args:
        provider: whose model it is; it may refuse to kill what is not its own.
        model: its name there.
        grace_s: how long its processes may take to give their memory back, before they are
            killed, and again after that.
    """
    # Of a model that is not known to be in, pids may be a guess.
    known = provider.resident(model) is not None
    trees = await asyncio.to_thread(
        lambda: ProcessTrees(guard.pids(provider, model) if known else ())
    )
    before = await asyncio.to_thread(trees.read)
    host_before = host_available_bytes()
    started = time.monotonic_ns()
    error: WorkbenchError | None = None
    try:
        await guard.unload(provider, model)
    except WorkbenchError as failure:
        error = failure
    expected = _private(before) if before is not None else None
    # Who was not even asked to go is not waited for.
    held = await _wait(trees, expected, grace_s if error is None else 0)
    problem = str(error) if error is not None else None
    killed: tuple[int, ...] = ()
    leak = error is None and not _enough(held, expected) if trees.known else None
    if not _enough(held, expected):
        alive = trees.alive()
        what = f"holds {held / 1e6:.0f} of {expected / 1e6:.0f} MB" if expected else "runs"
        problem = f"Process {', '.join(map(str, alive))} still {what} after the unload"
        if provider.kill(model, alive):
            killed = tuple(alive)
            held = await _wait(trees, expected, grace_s)
            problem += " and was killed" if _enough(held, expected) else " and cannot be killed"
        problem += f" ({error})." if error is not None else "."
        if _enough(held, expected):
            error = None
        elif error is None:
            error = _not_free(provider, model, problem, alive)
    elif trees.known:
        error = None  # whatever the runtime said, the memory is free
    elif error is None and provider.resident(model) is not None:
        problem = "The runtime still lists the model after the unload."
        error = _not_free(provider, model, problem, [])
    return Receipt(
        before=before,
        after=await asyncio.to_thread(trees.read),
        expected_bytes=expected,
        recovered_bytes=None if expected is None else max(expected - held, 0),
        leak=leak,
        killed=killed,
        host_before_bytes=host_before,
        host_after_bytes=host_available_bytes(),
        duration_s=(time.monotonic_ns() - started) / 1e9,
        problem=problem,
        error=error,
    )


async def _wait(trees: ProcessTrees, expected: int | None, patience_s: float) -> int:
    """Bytes that the processes still hold, as soon as that is little enough or the time is up."""
    deadline = time.monotonic() + patience_s
    while True:
        held = await asyncio.to_thread(_held, trees, expected)
        if _enough(held, expected) or time.monotonic() >= deadline:
            return held
        await asyncio.sleep(_POLL_S)


def _held(trees: ProcessTrees, expected: int | None) -> int:
    if not trees.alive():
        return 0
    if expected is not None and (reading := trees.read()) is not None:
        return _private(reading)
    # One that runs, but whose memory nobody may read, has given back nothing that we know of.
    return (expected or 1) if trees.alive() else 0


def _enough(held: int, expected: int | None) -> bool:
    return held <= (1 - ENOUGH) * (expected or 0)


def _private(reading: MemoryReading) -> int:
    return reading.private_bytes + reading.gpu_bytes


def _not_free(provider: Provider, model: str, problem: str, pids: list[int]) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.TIMEOUT,
        f"{provider.name}/{model} is not out of memory: {problem}",
        fix="Another program may be using it; try again, or restart the runtime.",
        operation="unload",
        provider=provider.name,
        details={"phase": "unload", "pids": pids},
    )
