"""Sends what this workbench measured to the log that a team shares.

The other server's answer is its acknowledgement: the sessions are on its disk. Only then is their
number remembered here, so a kill at any moment costs at most that they are sent again, and what
comes again is stored once.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from workbench import logs
from workbench.background import Background
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.figures import count
from workbench.jobs import Reporter
from workbench.settings import Settings
from workbench.store import Store
from workbench.store.sharing import Shareable, own_sessions

PATH: Final = "/api/v1/log/shared"
_SESSIONS: Final = 100
"""Sessions that are read at once."""
_BYTES: Final = 2 * 2**20
"""A request's size, unless one session alone is larger."""
_TRIES: Final = 4
_BUSY: Final = (429, 503)


class SharedLog:
    """The way to the shared log.

    Args:
        store: this workbench's own log.
        settings: where the shared one is, under which name this workbench writes.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, no shared log is set.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        if settings.workbench_shared_log is None:
            raise invalid(
                "There is no shared log.",
                fix="Set WORKBENCH_SHARED_LOG to the address of the server that has it, "
                "and WORKBENCH_SHARED_LOG_KEY to its key.",
            )
        self._store = store
        self.url = settings.workbench_shared_log
        """Of the server that has it."""
        self._key = settings.workbench_shared_log_key
        self._writer = settings.writer_id
        self._place = store.path.with_name(f"{store.path.name}.shared.json")

    def push(self, report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
        """Send what is new; stops between two requests.

        Args:
            report: told how far it is.
            cancelled: ends it.

        Returns:
            ``url``, ``writer_id``, ``sessions`` that were acknowledged, ``last_seq``.

        Raises:
            WorkbenchError: ``SERVER_UNREACHABLE``, or what the server refused; what was
                acknowledged until then stays so.
        """
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        done, last = 0, self._sent()
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as http:
            while not cancelled.is_set():
                found = own_sessions(self._store, last, _SESSIONS)
                if not found:
                    break
                for batch in _batches(found):
                    self._send(http, batch)
                    done, last = done + len(batch), batch[-1].seq
                    self._remember(last)
                    report(count(done, "session"), done, None)
        return {"url": self.url, "writer_id": self._writer, "sessions": done, "last_seq": last}

    def _send(self, http: Any, batch: Sequence[Shareable]) -> None:
        import httpx
        import tenacity

        body = {"writer_id": self._writer, "sessions": [dict(one.rows) for one in batch]}
        patient = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(httpx.TransportError)
            | tenacity.retry_if_result(lambda answer: answer.status_code in _BUSY),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
            stop=tenacity.stop_after_attempt(_TRIES),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        try:
            answer = patient(http.post, PATH, json=body)
        except httpx.HTTPError as error:
            raise WorkbenchError(
                ErrorCode.SERVER_UNREACHABLE,
                f"The shared log at {self.url} does not answer ({type(error).__name__}).",
                fix="What was not sent stays in this log and is sent the next time.",
                operation="share",
            ) from None
        if answer.status_code == 401:  # its own words are for those who asked it directly
            if _has_no_key(answer):
                said = "takes sessions only by key, and its server has none."
                fix = "Set WORKBENCH_API_KEY on that server, and WORKBENCH_SHARED_LOG_KEY here."
            else:
                said = "refuses this workbench's key." if self._key else "asks for a key."
                fix = "Set WORKBENCH_SHARED_LOG_KEY to the WORKBENCH_API_KEY of that server."
            raise WorkbenchError(
                ErrorCode.UNAUTHORIZED,
                f"The shared log at {self.url} {said}",
                fix=fix,
                operation="share",
            )
        if answer.is_error:
            try:
                raise WorkbenchError.from_dict(answer.json())
            except (ValueError, KeyError):
                raise WorkbenchError(
                    ErrorCode.INTERNAL,
                    f"The shared log answered {answer.status_code}: {answer.text[:200]}",
                    fix="See whether WORKBENCH_SHARED_LOG is the address of a workbench server; "
                    "a proxy before it may have answered.",
                    operation="share",
                ) from None

    def _sent(self) -> int:
        """The number of the last session that this server has acknowledged."""
        try:
            return int(json.loads(self._place.read_text())[self.url])
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # sending again does no harm

    def _remember(self, seq: int) -> None:
        temporary = self._place.with_suffix(".tmp")
        temporary.write_text(json.dumps({self.url: seq}))
        temporary.replace(self._place)


def _has_no_key(answer: Any) -> bool:
    """Whether the server says that it has none; one of an older version does not say it."""
    try:
        return bool(answer.json()["details"]["server_key"] is False)
    except (ValueError, KeyError, TypeError):
        return False


def _batches(found: Sequence[Shareable]) -> Iterator[list[Shareable]]:
    batch: list[Shareable] = []
    size = 0
    for one in found:
        more = len(json.dumps(dict(one.rows)))
        if batch and size + more > _BYTES:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += more
    yield batch


class Courier(Background):
    """Shares what is new every so often, while nothing is generated.

    Args:
        shared: the way to the shared log.
        every_s: time between two looks.
        busy: whether something is generated now; then it looks again the next time.
    """

    def __init__(self, shared: SharedLog, every_s: float, busy: Callable[[], bool]) -> None:
        self._shared = shared
        self._every_s = every_s
        self._busy = busy
        self._stop = threading.Event()

    async def close(self) -> None:
        """End, after the request that is under way."""
        self._stop.set()
        await super().close()

    async def _run(self) -> None:
        reason = ""
        while True:
            await asyncio.sleep(self._every_s)
            if self._busy():
                continue
            try:
                await asyncio.to_thread(self._shared.push, _silent, self._stop)
                reason = ""
            except Exception as error:  # a look that fails must not be the last one
                if str(error) != reason:  # said once, not at every look
                    reason = str(error)
                    logs.get(__name__).warning("not_shared", reason=reason)


def _silent(message: str, done: int | None = None, total: int | None = None) -> None:
    """Nobody watches."""
