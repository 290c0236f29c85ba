"""(e) The workbench over HTTP, as a user starts it, with a log of its own."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import httpx

from benchmarks.figures import Trace
from benchmarks.load import free_port, stream_all, until_event
from benchmarks.peers import ROOT, HttpPeer, wait_for_http
from workbench.metrics import NS

CANCEL_AFTER_TOKENS: Final = 8
CANCEL_MAX_TOKENS: Final = 512
ROWS_WAIT_S: Final = 5.0
LOAD_LIMIT_S: Final = 300


class Refused(Exception):
    """The server does not know this variant."""


class Ours(HttpPeer):
    """``python app.py`` with one model.

    Args:
        model: its id, with load options where wanted.
        model_path: folder of the models.
    """

    letter = "e"
    path = "/api/v1/stream-message"

    def __init__(self, model: str, model_path: Path) -> None:
        super().__init__()
        self.model = model
        self.title = f"workbench {model}"
        self._model_path = model_path
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._folder = tempfile.TemporaryDirectory(prefix="hf-engine-")

    def command(self) -> list[str]:
        """What ``make run`` runs."""
        return [sys.executable, str(ROOT / "app.py")]

    def environment(self) -> dict[str, str]:
        """The user's defaults, apart from where things are."""
        return {
            **super().environment(),
            "HF_MODEL_PATH": str(self._model_path),
            "HF_MODEL_TIMEOUT_MS": str(LOAD_LIMIT_S * 1000),  # a variant may compile first
            "WORKBENCH_DB": str(Path(self._folder.name) / "workbench.duckdb"),
            "WORKBENCH_PORT": str(self._port),
            "WORKBENCH_OFFLINE": "true",
            "OLLAMA_HOST": "127.0.0.1:9",
        }

    def wait_ready(self, deadline: float) -> None:
        """It prints its address once it listens."""
        self.read_line(deadline)
        wait_for_http(self, f"{self.url}/health/live", deadline)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._folder.cleanup()

    def headers(self) -> dict[str, str]:
        """The owner's token, for queries."""
        announced = json.loads((Path(self._folder.name) / "server.json").read_text())
        return {"Authorization": f"Bearer {announced['token']}"}

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Greedy; there is no option to pass end tokens, so prompts ask for long answers."""
        return {
            "model": self.model,
            "message": prompt,
            "options": {"max_tokens": tokens, "temperature": 0},
        }

    def read_event(self, trace: Trace, t_ns: int, event: Mapping[str, Any]) -> None:
        """Put one event into its trace; the worker's own stamps go beside ours."""
        if event["type"] == "token":
            trace.t_ns.append(t_ns)
            trace.n_tokens.append(event["n_tokens"])
            trace.text += event["text"]
            trace.extra.setdefault("worker_t_ns", []).append(event["t_ns"])
            trace.extra.setdefault("logprobs", []).extend(event["logprobs"])
        elif event["type"] == "session":
            trace.extra["session_id"] = event["session_id"]
        elif event["type"] in ("done", "error"):
            session = event["session"]
            trace.output_tokens = session["output_tokens"]
            trace.prompt_tokens = session["prompt_tokens"]
            trace.finish_reason = session["finish_reason"]
            if event["type"] == "error":
                trace.error = f"{event['error']['code']}: {event['error']['message']}"

    async def ask_logprobs(
        self, prompt: str, tokens: int, limit_s: float
    ) -> tuple[list[Trace], bool]:
        """One prompt, with the log-probability of each chosen token in ``extra["logprobs"]``."""
        body = self.body(prompt, tokens)
        body["options"]["logprobs"] = 1
        raws, stopped = await stream_all(self.url + self.path, [body], self.headers(), limit_s)
        return [raw.trace(self.read_event) for raw in raws], stopped

    # -- beyond streams --------------------------------------------------------------------------

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """One request that is no stream."""
        with httpx.Client(trust_env=False, timeout=LOAD_LIMIT_S, headers=self.headers()) as http:
            return http.post(self.url + path, json=dict(body))

    def load(self) -> float:
        """Bring the model into memory; seconds from the request to its answer.

        Raises:
            Refused: with the server's reason.
        """
        started = time.monotonic()
        answer = self.post("/api/v1/models/load", {"model": self.model})
        seconds = time.monotonic() - started
        if not answer.is_success:
            problem = answer.json()
            raise Refused(f"{problem.get('code')}: {problem.get('message')}")
        return seconds

    def unload(self) -> None:
        """Take it out of memory."""
        self.post("/api/v1/models/unload", {"model": self.model}).raise_for_status()

    def load_times(self, repeats: int) -> list[float]:
        """Seconds of loads into a warm server; the model is resident before and after."""
        times = []
        for _ in range(repeats):
            self.unload()
            times.append(self.load())
        return times

    def cancel_times(self, prompt: str, repeats: int) -> list[float]:
        """Seconds from ``DELETE /streams/{id}`` in the middle of an answer to its last event."""
        return [asyncio.run(self._cancel(f"{n}. {prompt}")) for n in range(repeats)]

    async def _cancel(self, prompt: str) -> float:
        asked = ended = 0
        tokens, session_id, status = 0, "", None
        async with httpx.AsyncClient(
            base_url=self.url, headers=self.headers(), timeout=LOAD_LIMIT_S, trust_env=False
        ) as http:

            def on_event(t_ns: int, event: dict[str, Any]) -> Any:
                nonlocal asked, ended, tokens, session_id, status
                if event["type"] == "session":
                    session_id = event["session_id"]
                elif event["type"] == "token":
                    tokens += 1
                    if tokens == CANCEL_AFTER_TOKENS:
                        asked = time.monotonic_ns()
                        return http.delete(f"/api/v1/streams/{session_id}")
                elif event["type"] in ("done", "error"):
                    ended, status = t_ns, event["session"]["status"]
                return None

            await until_event(http, self.path, self.body(prompt, CANCEL_MAX_TOKENS), on_event)
        if status != "cancelled" or not asked:
            raise self.failed(f"an answer that was to be cancelled ended as {status!r}")
        return (ended - asked) / NS

    def rows(self, session_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The log's rows of these sessions, waiting a little for the last of them.

        Returns:
            By session id: ``runtime_ns`` as the worker measured itself, and ``memory_peak_bytes``
            of the worker.
        """
        wanted = ", ".join(f"'{name}'" for name in session_ids)
        sql = (
            "select session_id, runtime_total_ns, details, mem_peak_bytes from stream_sessions "
            f"where session_id in ({wanted})"
        )
        deadline = time.monotonic() + ROWS_WAIT_S
        while True:
            answer = self.post("/api/v1/query", {"sql": sql, "limit": len(session_ids) + 1})
            answer.raise_for_status()
            found = answer.json()["rows"]
            if len(found) >= len(session_ids) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        rows = {}
        for session_id, total_ns, details, memory in found:
            runtime = dict((json.loads(details or "{}") or {}).get("runtime_ns", {}))
            if total_ns is not None:
                runtime["total"] = total_ns
            rows[session_id] = {"runtime_ns": runtime, "memory_peak_bytes": memory}
        return rows


def layer_cost(
    traces: Sequence[Trace], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What lies between the worker and a client at the socket.

    Args:
        traces: of ``Ours``.
        rows: of :meth:`Ours.rows`.

    Returns:
        Seconds: ``answer_s`` is the median over streams of the client's time to the end less the
        worker's own total (waiting for a slot is in it); ``first_token_s`` the same up to the first
        token; ``delivery_s`` has one sample a text, from the worker's stamp to the client's. None
        without rows that have the worker's figures.
    """
    answer, first, delivery = [], [], []
    for trace in traces:
        runtime = rows.get(trace.extra.get("session_id", ""), {}).get("runtime_ns", {})
        if trace.error is not None or "total" not in runtime or trace.ttft_s is None:
            continue
        answer.append((trace.end_ns - trace.sent_ns - runtime["total"]) / NS)
        if "prefill" in runtime:
            worker_first = (runtime["prefill"] + runtime.get("tokenize", 0)) / NS
            first.append(trace.ttft_s - worker_first)
        pairs = zip(trace.t_ns, trace.extra["worker_t_ns"], strict=True)
        delivery += [(ours - workers) / NS for ours, workers in pairs]
    if not answer:
        return None
    return {
        "answer_s": statistics.median(answer),
        "first_token_s": statistics.median(first) if first else None,
        "delivery_s": delivery,
    }
