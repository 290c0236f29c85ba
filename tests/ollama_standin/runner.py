"""The parent's handle of a runner: start, talk, stop.

The runner is llama.cpp's HTTP server in a child process, so closing a request stops its decoding,
and a runner that was killed shows as a broken connection; both as behind the real server.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx

from .errors import RUNNER_LOST, ApiError, BackendError
from .options import LoadParameters

_ROOT = Path(__file__).resolve().parents[2]
_SIGNAL_NAMES = {
    signal.SIGKILL: "killed",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGTERM: "terminated",
}


class Runner:
    """One child process with one loaded model."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        # llama.cpp drops idle connections after a few seconds. A request on one that is just being
        # dropped would look like a killed runner, so every request gets its own connection.
        self._client = httpx.AsyncClient(
            base_url=address,
            timeout=None,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    @classmethod
    async def start(
        cls, blob: Path, parameters: LoadParameters, *, slow_load: float, verbose: bool
    ) -> Runner:
        """Start a child and wait until its model is loaded; cancelling stops the child."""
        command = [sys.executable, "-m", f"{__package__}.runner_child", "--model", str(blob)]
        command += ["--ctx-size", str(parameters.num_ctx), "--threads", str(parameters.num_thread)]
        command += ["--batch-size", str(parameters.num_batch), "--slow-load", str(slow_load)]
        if not parameters.shift:
            command.append("--no-context-shift")
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if verbose else asyncio.subprocess.DEVNULL,
        )
        loaded = False
        try:
            assert process.stdout is not None
            address = (await process.stdout.readline()).decode().strip()
            if not address:
                raise ApiError(500, f"llama-server process has terminated: {await _end(process)}")
            loaded = True
            return cls(process, address)
        finally:
            if not loaded and process.returncode is None:
                process.kill()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def alive(self) -> bool:
        """Whether the child still answers."""
        try:
            return (await self._client.get("/health")).is_success
        except httpx.TransportError:
            return False

    async def stop(self) -> None:
        """End the child at once and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._client.aclose()

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, special tokens recognised."""
        answer = await self._post("/tokenize", {"content": text, "parse_special": True})
        return list(answer["tokens"])

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of token ids."""
        return str((await self._post("/detokenize", {"tokens": tokens}))["content"])

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            response = await self._client.post(path, json=body)
        except httpx.TransportError:
            raise BackendError(500, RUNNER_LOST) from None
        if not response.is_success:
            raise BackendError(response.status_code, response.text)
        return dict(response.json())

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Events of one completion; leaving the loop early stops llama.cpp's work."""
        try:
            async with self._client.stream(
                "POST", "/completion", json={**body, "stream": True}
            ) as response:
                if not response.is_success:
                    text = (await response.aread()).decode("utf-8", "replace")
                    raise BackendError(response.status_code, text)
                finished = False
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        event = dict(json.loads(line.removeprefix("data: ")))
                        finished = bool(event.get("stop"))
                        yield event
                if not finished:
                    raise BackendError(500, RUNNER_LOST)
        except httpx.TransportError:
            raise BackendError(500, RUNNER_LOST) from None


async def _end(process: asyncio.subprocess.Process) -> str:
    """How a process ended, in Go's words."""
    code = await process.wait()
    if code >= 0:
        return f"exit status {code}"
    number = signal.Signals(-code)
    return f"signal: {_SIGNAL_NAMES.get(number, number.name)}"
