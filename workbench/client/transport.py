"""The way to an engine: a running server's, or one in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from workbench.errors import ErrorCode, WorkbenchError
from workbench.jobs import Job
from workbench.settings import Settings
from workbench.types import (
    ChatRequest,
    Message,
    ModelInfo,
    StreamEvent,
    StreamSession,
)

if TYPE_CHECKING:
    import pandas as pd

    from workbench.client.roads import Work
    from workbench.insight import Divergence, ParitySheet
    from workbench.rotation import Overview
    from workbench.store import MemorySample
    from workbench.store.rows import Mode

T = TypeVar("T")


class Transport(Protocol):
    """What the facade needs of an engine; its methods of the same names say what they do."""

    def models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]: ...
    def show(self, model: str) -> ModelInfo: ...
    def load(self, model: str) -> Mapping[str, Any]: ...
    def unload(self, model: str) -> Mapping[str, Any]: ...
    def pin(self, model: str) -> Mapping[str, Any]: ...
    def unpin(self, model: str) -> Mapping[str, Any]: ...
    def queue(self) -> Overview: ...
    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job: ...
    def verify(self, model: str | None) -> Job: ...
    def delete(self, model: str, dry_run: bool) -> Mapping[str, Any]: ...
    def job(self, job_id: str) -> Job: ...
    def wait_for_job(self, job_id: str, timeout_s: float) -> Job: ...
    def cancel_job(self, job_id: str) -> Job: ...
    def stream(
        self, requests: Sequence[ChatRequest]
    ) -> Generator[tuple[int, StreamEvent], None, None]: ...
    def cancel(self, session_id: str) -> bool: ...
    def parity(self, request: ChatRequest, other: str) -> ParitySheet: ...
    def diverge(self, request: ChatRequest, other: str, repeats: int) -> Divergence: ...
    def sql(
        self, query: str, params: Mapping[str, Any] | None, limit: int | None
    ) -> pd.DataFrame: ...
    def tables(self) -> list[dict[str, Any]]: ...
    def verify_log(self) -> Mapping[str, Any]: ...
    def log_rows(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None: ...
    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample],
    ) -> None: ...
    def drive(self, work: Work[T], watch: Callable[[], None]) -> T: ...
    def keep(self, kind: str, arguments: Mapping[str, Any]) -> Job: ...
    def close(self) -> None: ...


def connect(settings: Settings, remote: bool | None, source: str) -> Transport:
    """The running server's engine if there is one, else one of our own.

    Raises:
        WorkbenchError: ``SERVER_UNREACHABLE``, no server runs but ``remote`` is True;
            ``STORE_UNAVAILABLE``, another process holds the log and does not let go of it.
    """
    return while_held(settings, lambda: _connect(settings, remote, source))


def while_held(settings: Settings, work: Callable[[], T]) -> T:
    """Try again for a while if another process holds the log.

    It may be a command that is about to end, or a server that is about to be found.
    """
    import tenacity

    patient = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_held),
        wait=tenacity.wait_random(0.1, 0.3),
        stop=tenacity.stop_after_delay(settings.workbench_log_wait_s),
        reraise=True,
    )
    return patient(work)


def _is_held(error: BaseException) -> bool:
    return isinstance(error, WorkbenchError) and bool(error.details.get("held"))


def _connect(settings: Settings, remote: bool | None, source: str) -> Transport:
    from workbench.client.local import Local
    from workbench.client.remote import Remote
    from workbench.discovery import running_server

    found = running_server(settings) if remote is not False else None
    if found is not None:
        return Remote(settings, found, source)
    if remote:
        raise WorkbenchError(
            ErrorCode.SERVER_UNREACHABLE,
            f"No server is running on {settings.workbench_db}.",
            fix="Start one with: workbench serve.",
            operation="connect",
        )
    return Local(settings, source)
