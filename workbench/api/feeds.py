"""Streams that a client may lose and come back to: their events, numbered and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from workbench import logs
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.mailbox import joined
from workbench.settings import Settings
from workbench.types import (
    ChatRequest,
    MemoryEvent,
    SessionEvent,
    StreamEvent,
    TokenEvent,
)

_log = logs.get(__name__)


class Numbered(NamedTuple):
    """An event with its number in the stream (from 1) and the index of its model."""

    number: int
    pane: int
    event: StreamEvent


class Feed:
    """The events of one stream, for any number of readers at any place in it.

    The work goes on as long as somebody reads. Without a reader it is stopped after the grace:
    at once, unless the client said that it would come back.

    Args:
        engine: does the work.
        calls: one per pane.
        stream_id: what it is called.
        grace_s: seconds that the work goes on without a reader.
        kept: events that are held; the oldest go first.
        on_end: called when there will be no more.
    """

    def __init__(
        self,
        engine: Engine,
        calls: Sequence[ChatRequest],
        stream_id: str,
        grace_s: float,
        kept: int,
        on_end: Callable[[Feed], None],
    ) -> None:
        self.stream_id = stream_id
        self.sessions = [call.session_id for call in calls]
        self.ended_at: float | None = None
        self._engine = engine
        self._calls = calls
        self._grace_s = grace_s
        self._kept = kept
        self._on_end = on_end
        self._chunk_size = engine.settings.hf_stream_chunk_size
        self._events: deque[Numbered] = deque()
        self._number = 0
        self._lost = 0
        """Number of the newest event that is not held any more."""
        self._changed = asyncio.Event()
        self._readers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped: str | None = None
        self._task = asyncio.create_task(self._pump(), name=f"feed {stream_id}")

    async def _pump(self) -> None:
        try:
            async with aclosing(self._engine.compare(self._calls)) as events:
                async for pane, event in events:
                    self._put(pane, event)
        except Exception:
            _log.exception("feed_failed", stream_id=self.stream_id)
        finally:
            self.ended_at = time.monotonic()
            self._disarm()
            self._wake()
            self._on_end(self)

    def _put(self, pane: int, event: StreamEvent) -> None:
        if isinstance(event, SessionEvent):
            if event.session_id not in self.sessions:
                self.sessions.append(event.session_id)  # a fallback answers
            if self._stopped is not None:
                self._engine.cancel(event.session_id, self._stopped)
        self._number += 1
        if self._events and isinstance(event, MemoryEvent):
            last = self._events[-1]
            if last.pane == pane and isinstance(last.event, MemoryEvent):
                self._events.pop()  # only the latest of them matters
        self._events.append(Numbered(self._number, pane, event))
        if len(self._events) > self._kept:
            self._lost = self._events.popleft().number
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self, after: int) -> None:
        """Refuse a reader who comes too late, or from the future.

        Raises:
            WorkbenchError: ``EVENTS_GONE`` or ``INVALID_REQUEST``.
        """
        if after < self._lost:
            raise WorkbenchError(
                ErrorCode.EVENTS_GONE,
                f"The events after {after} are gone; the oldest held is {self._lost + 1}.",
                fix="Read the answer at GET /api/v1/sessions/{id} once it has ended, or raise "
                "WORKBENCH_STREAM_BUFFER.",
                operation="follow",
                details={"oldest": self._lost + 1},
            )
        if after > self._number:
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                f"The stream has {self._number} events so far; {after} was never sent.",
                fix="Give the number of the last event received.",
                operation="follow",
                details={"newest": self._number, "option": "after"},
            )

    async def follow(self, after: int = 0) -> AsyncGenerator[Numbered, None]:
        """Events with a higher number, to the end of the stream.

        For a reader that is slower than the model texts are joined; the number is then that of the
        last one. One that falls behind what is held is let go: the iteration ends early.
        """
        self._readers += 1
        self._disarm()
        try:
            while after >= self._lost:
                changed = self._changed
                pending = self._since(after)
                if not pending and self.ended_at is not None:
                    return
                for item in pending:
                    yield item
                    after = item.number
                if not pending:
                    await changed.wait()
        finally:
            self._readers -= 1
            if not self._readers and self.ended_at is None:
                self._arm()

    def _since(self, after: int) -> list[Numbered]:
        new: list[Numbered] = []
        for item in reversed(self._events):
            if item.number <= after:
                break
            new.append(item)
        pending: list[Numbered] = []
        for item in reversed(new):
            last = pending[-1] if pending else None
            if (
                last is not None
                and last.pane == item.pane
                and isinstance(last.event, TokenEvent)
                and isinstance(item.event, TokenEvent)
                and (both := joined(last.event, item.event, self._chunk_size)) is not None
            ):
                pending[-1] = Numbered(item.number, item.pane, both)
            else:
                pending.append(item)
        return pending

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        if self._grace_s:
            self._timer = loop.call_later(self._grace_s, self.stop, "disconnect")
        else:
            self.stop("disconnect")

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abandon(self) -> None:
        """There may never have been a reader: begin the grace if there is none now."""
        if not self._readers and self.ended_at is None and self._timer is None:
            self._arm()

    def stop(self, reason: str) -> bool:
        """Stop the work; its last events still come. False if it has ended."""
        if self.ended_at is not None:
            return False
        self._stopped = self._stopped or reason
        for session_id in self.sessions:
            self._engine.cancel(session_id, reason)
        return True

    async def close(self) -> None:
        """Give up the work at once."""
        self._disarm()
        self._task.cancel()
        await asyncio.wait({self._task})


class Feeds:
    """The streams of a server: those that run, and those that ended a while ago.

    Args:
        engine: does the work.
        settings: how long and how many are kept.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._feeds: dict[str, Feed] = {}
        self._over: deque[Feed] = deque()
        """Those that have ended, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, calls: Sequence[ChatRequest], stream_id: str, *, detach: bool) -> Feed:
        """Begin the work.

        Args:
            calls: one per pane.
            stream_id: the session's id, or the comparison's.
            detach: the work survives the loss of its reader for a while.
        """
        settings = self._settings
        grace_s = settings.workbench_detach_grace_s if detach else 0.0
        feed = Feed(
            self._engine,
            calls,
            stream_id,
            grace_s,
            settings.workbench_stream_buffer,
            self._ended,
        )
        self._feeds[stream_id] = feed
        return feed

    def get(self, stream_id: str) -> Feed:
        """A stream by its id, or by that of one of its sessions.

        Raises:
            WorkbenchError: ``STREAM_NOT_FOUND``.
        """
        self._forget()
        feed = self._feeds.get(stream_id) or next(
            (feed for feed in self._feeds.values() if stream_id in feed.sessions), None
        )
        if feed is None:
            raise WorkbenchError(
                ErrorCode.STREAM_NOT_FOUND,
                f"There is no stream {stream_id[:80]!r}, or it ended too long ago.",
                fix="GET /api/v1/sessions/{id} has what was logged of it.",
                operation="follow",
            )
        return feed

    def cancel(self, stream_id: str, reason: str = "user") -> bool:
        """Stop a stream of whatever face; False when none of that id runs."""
        if self._engine.cancel(stream_id, reason):
            return True
        try:
            return self.get(stream_id).stop(reason)
        except WorkbenchError:
            return False

    async def close(self) -> None:
        """Give up what still runs."""
        for feed in list(self._feeds.values()):
            await feed.close()
        self._feeds.clear()
        self._over.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _ended(self, feed: Feed) -> None:
        if self._feeds.get(feed.stream_id) is feed:
            self._over.append(feed)
        self._forget()
        self._forget_later()

    def _forget_later(self) -> None:
        if self._over and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.workbench_stream_keep_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._forget()
        self._forget_later()

    def _forget(self) -> None:
        """Drop what ended long ago, and the oldest of what is too much."""
        settings = self._settings
        oldest = time.monotonic() - settings.workbench_stream_keep_s
        while self._over and (
            len(self._over) > settings.workbench_streams_kept
            or (self._over[0].ended_at or 0.0) <= oldest
        ):
            del self._feeds[self._over.popleft().stream_id]
