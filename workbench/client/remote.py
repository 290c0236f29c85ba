"""The engine of a running server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from workbench import logs, wire
from workbench.client.insight import body_of
from workbench.client.roads import RemoteRoad, Work, drive
from workbench.errors import ErrorCode, WorkbenchError, invalid, require_text
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
    import httpx
    import pandas as pd

    from workbench.insight import Divergence, ParitySheet
    from workbench.rotation import Overview
    from workbench.store import MemorySample
    from workbench.store.remote import QuackReader
    from workbench.store.rows import Mode

T = TypeVar("T")

_POLL_S: Final = 0.2


class Remote:
    """The engine of a running server, over REST and server-sent events."""

    def __init__(self, settings: Settings, server: Mapping[str, Any], source: str) -> None:
        self._settings = settings
        self._source = source
        self._log: QuackReader | None = None
        self._use(server)

    def _use(self, server: Mapping[str, Any]) -> None:
        import httpx

        self._server = server
        self._parks = bool(server.get("log"))
        self._url = f"{server['url']}/api/v1"
        self._headers = {
            "Authorization": f"Bearer {server['token']}",
            wire.SOURCE_HEADER: self._source,
        }
        # Loopback must not go through a proxy; a stream may be silent for as long as a model loads.
        self._http = httpx.Client(
            base_url=self._url,
            headers=self._headers,
            timeout=httpx.Timeout(10, read=None),
            trust_env=False,
        )

    def _moved(self) -> bool:
        """Follow a server that was restarted meanwhile; False if there is none, or no other."""
        from workbench.discovery import running_server

        found = running_server(self._settings)
        if found is None or found == self._server:
            return False
        self.close()
        self._use(found)
        return True

    def _call(self, method: str, path: str, body: object = None) -> Any:
        with self._explained():
            answer = self._send(method, path, body)
        if answer.is_error:
            raise refused(answer.status_code, answer.text)
        return json.loads(answer.text) if answer.text else None

    def _send(self, method: str, path: str, body: object) -> httpx.Response:
        import httpx

        require_text(path, "The name")
        require_text(body, "The request")
        try:
            answer = self._http.request(method, path, json=body)
        except (httpx.ConnectError, httpx.RemoteProtocolError):  # nothing was done
            if not self._moved():
                raise
        else:
            # Another server on the same port does not know the token of the one before.
            if answer.status_code != httpx.codes.UNAUTHORIZED or not self._moved():
                return answer
        return self._http.request(method, path, json=body)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.HTTPError as error:
            raise WorkbenchError(
                ErrorCode.SERVER_UNREACHABLE,
                f"The workbench server does not answer ({type(error).__name__}).",
                fix="See its log, or start it again with: workbench serve.",
                operation="http",
            ) from None

    def models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]:
        body = self._call("GET", "/models")
        problems = {
            name: WorkbenchError.from_dict(error) for name, error in body["problems"].items()
        }
        return [wire.decode_model(model) for model in body["models"]], problems

    def show(self, model: str) -> ModelInfo:
        return wire.decode_model(self._call("GET", _model_path(model)))

    def load(self, model: str) -> Mapping[str, Any]:
        done = self._call("POST", "/models/load", {"model": model})
        names = ("id", "duration_s", "was_resident", "memory_bytes", "evicted")
        return {name: done[name] for name in names}

    def unload(self, model: str) -> Mapping[str, Any]:
        done = self._call("POST", "/models/unload", {"model": model})
        names = ("id", "duration_s", "was_resident", "expected_bytes", "recovered_bytes")
        return {name: done[name] for name in names}

    def pin(self, model: str) -> Mapping[str, Any]:
        done = self._call("POST", "/models/pin", {"model": model})
        return {name: done[name] for name in ("id", "evicted")}

    def unpin(self, model: str) -> Mapping[str, Any]:
        done = self._call("POST", "/models/unpin", {"model": model})
        return {name: done[name] for name in ("id", "was_pinned")}

    def queue(self) -> Overview:
        from workbench.rotation import Overview

        return Overview.from_dict(self._call("GET", "/queue"))

    def parity(self, request: ChatRequest, other: str) -> ParitySheet:
        from workbench.insight import ParitySheet

        told = self._call("POST", "/parity", body_of(request, other))
        return ParitySheet.from_dict(told)

    def diverge(self, request: ChatRequest, other: str, repeats: int) -> Divergence:
        from workbench.insight import Divergence

        body = {**body_of(request, other), "repeats": repeats}
        return Divergence.from_dict(self._call("POST", "/diverge", body))

    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job:
        asked = {"model": model, "revision": revision, "gguf_file": gguf_file}
        return Job.from_dict(self._call("POST", "/models/download", asked))

    def verify(self, model: str | None) -> Job:
        return Job.from_dict(self._call("POST", "/models/verify", {"model": model}))

    def delete(self, model: str, dry_run: bool) -> Mapping[str, Any]:
        path = f"{_model_path(model)}{'?dry_run=true' if dry_run else ''}"
        gone: dict[str, Any] = self._call("DELETE", path)
        return gone

    def job(self, job_id: str) -> Job:
        return Job.from_dict(self._call("GET", f"/jobs/{job_id}"))

    def wait_for_job(self, job_id: str, timeout_s: float) -> Job:
        until = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.ended or time.monotonic() >= until:
                return job
            time.sleep(min(_POLL_S, timeout_s))

    def cancel_job(self, job_id: str) -> Job:
        return Job.from_dict(self._call("DELETE", f"/jobs/{job_id}"))

    def stream(
        self, requests: Sequence[ChatRequest]
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        for request in requests:
            request.check_text()
        body = {"requests": [wire.encode_request(request) for request in requests]}
        with self._explained(), self._http.stream("POST", "/streams", json=body) as answer:
            if answer.is_error:
                raise refused(answer.status_code, answer.read().decode())
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    yield event["pane"], wire.decode_event(event)

    def cancel(self, session_id: str) -> bool:
        return bool(self._call("DELETE", f"/streams/{session_id}")["cancelled"])

    def sql(self, query: str, params: Mapping[str, Any] | None, limit: int | None) -> pd.DataFrame:
        import pandas as pd

        asked = {"sql": query, "params": params, "limit": limit}
        body = self._call("POST", "/query", {**asked, "park": self._parks})
        if "parked" in body:
            frame = self._fetch(body["parked"])
            if frame is not None:
                return frame
            body = self._call("POST", "/query", asked)
        dtypes = {column["name"]: column["dtype"] for column in body["columns"]}
        return pd.DataFrame(body["rows"], columns=list(dtypes)).astype(dtypes)

    def _fetch(self, table: str) -> pd.DataFrame | None:
        """A large result, over Quack; None if that is not to be had here."""
        place = self._server["log"]
        try:
            if place is None:  # restarted without it, between two questions
                return None
            if self._log is None:
                from workbench.store.remote import QuackReader

                offline = self._settings.workbench_offline
                self._log = QuackReader(place["uri"], place["token"], offline=offline)
            return self._log.fetch(table)
        except WorkbenchError as error:
            logs.get(__name__).warning("quack_unusable", reason=str(error))
            self._parks = False
            return None
        finally:
            self._call("DELETE", f"/query/{table}")

    def tables(self) -> list[dict[str, Any]]:
        tables: list[dict[str, Any]] = self._call("GET", "/tables")["tables"]
        return tables

    def verify_log(self) -> Mapping[str, Any]:
        verdict: dict[str, Any] = self._call("GET", "/log/verify")
        return verdict

    def keep(self, kind: str, arguments: Mapping[str, Any]) -> Job:
        if kind == "share":
            self._same_sharing()
        return Job.from_dict(self._call("POST", f"/log/jobs/{kind}", arguments))

    def _same_sharing(self) -> None:
        """Prompts must not go to another address, or under another name, than is set here."""
        from workbench.discovery import other_sharing, running_server

        server = running_server(self._settings) or self._server
        if different := other_sharing(self._settings, server):
            names, theirs = " and ".join(different), server["sharing"]
            where = "to no shared log"
            if theirs["url"]:
                where = f"to {theirs['url']} as {theirs['writer_id']}"
            raise invalid(
                f"The running server shares {where}; {names} of this shell says otherwise. "
                "Nothing was sent.",
                fix="Set it to the same in both and restart the server, or leave it out here.",
            )

    def log_rows(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        from workbench.store.outside import encode_rows

        self._call("POST", "/log", {"items": [encode_rows(table, rows, mode)]})

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample],
    ) -> None:
        from workbench.store.outside import encode_session

        self._call("POST", "/log", {"items": [encode_session(session, messages, samples)]})

    def drive(self, work: Work[T], watch: Callable[[], None]) -> T:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="bench", daemon=True)
        thread.start()

        async def working() -> T:
            road = RemoteRoad(self._url, self._headers)
            try:
                return await work(road)
            finally:
                await road.close()

        try:
            return drive(loop, working(), watch)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=10)
            loop.close()

    def close(self) -> None:
        self._http.close()
        if self._log is not None:
            self._log.close()
            self._log = None


def _model_path(model: str) -> str:
    """A model's address: its name may hold ``?`` and ``..``, which must not end or change it."""
    require_text(model, "model")
    return f"/models/{quote(model, safe='')}"


def refused(status: int, text: str) -> WorkbenchError:
    """What a server's refusal says."""
    try:
        return WorkbenchError.from_dict(json.loads(text))
    except (ValueError, KeyError):
        return WorkbenchError(
            ErrorCode.INTERNAL,
            f"The server answered {status}: {text[:200]}",
            fix="These are no words of a workbench: see whether another program or a proxy answers "
            "in its place, and whether both are of one version.",
            operation="http",
        )
