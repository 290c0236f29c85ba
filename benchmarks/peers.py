"""The peers: how each is started, asked and ended.

Each runs in a process group of its own, which is always killed, with what it may have put outside
that group. Whoever speaks HTTP is asked by the same client (:mod:`benchmarks.load`); a peer only
says where, with which body, and what its events mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psutil

from benchmarks.figures import Trace
from benchmarks.load import free_port, stream_all
from benchmarks.watch import family
from workbench.hf.spawner import waiting
from workbench.settings import load_settings

ROOT: Final = Path(__file__).resolve().parent.parent
START_LIMIT_S: Final = 180.0
STOP_LIMIT_S: Final = 10.0
STDERR_TAIL: Final = 2000


class PeerError(Exception):
    """A peer did not start or broke off; the message has the end of its stderr."""


class Peer(ABC):
    """One process (tree) that answers prompts, as a context manager.

    ``letter`` and ``title`` name it in tables; ``batches`` is false for a peer that can only run
    one request after the other.
    """

    letter: str
    title: str
    batches: bool = True

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on leaving
        self.start_s = 0.0

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    @abstractmethod
    def wait_ready(self, deadline: float) -> None:
        """Return once it can be asked (``deadline`` is monotonic seconds)."""

    @abstractmethod
    async def ask(
        self, prompts: Sequence[str], tokens: int, limit_s: float
    ) -> tuple[list[Trace], bool]:
        """Send all prompts at once.

        Returns:
            One trace a prompt, and whether the time limit stopped them.
        """

    def environment(self) -> dict[str, str]:
        """Variables of the process: ours without what would configure a workbench or a hub."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "HF_"))}
        return {**kept, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def stdin(self) -> int:
        """What the process reads."""
        return subprocess.DEVNULL

    @property
    def process(self) -> subprocess.Popen[str]:
        """The started process."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Root of the process tree."""
        return self.process.pid

    def __enter__(self) -> Self:
        started = time.monotonic()
        self._process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            env=self.environment(),
            stdin=self.stdin(),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        try:
            self.wait_ready(started + START_LIMIT_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.start_s = time.monotonic() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self.process
        everyone = family([process.pid])
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(STOP_LIMIT_S)
                break
            except subprocess.TimeoutExpired:
                continue
        # What started a session of its own is not in the group; psutil knows it by its start time.
        for left in psutil.wait_procs(everyone, timeout=2)[1]:
            with contextlib.suppress(psutil.Error):
                left.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._errors.close()

    def stderr_tail(self) -> str:
        """The end of what it wrote to stderr."""
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-STDERR_TAIL:].strip()

    def failed(self, what: str) -> PeerError:
        """An error that shows the peer's own words."""
        return PeerError(f"{self.title}: {what}\n{self.stderr_tail()}")

    def read_line(self, deadline: float) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise self.failed("no answer in time")
        line = self.process.stdout.readline()
        if not line:
            raise self.failed("ended")
        return line


class Plain(Peer):
    """(a) ``model.generate`` with a streamer; several prompts as one static batch."""

    letter = "a"
    title = "plain generate"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def command(self) -> list[str]:
        """The child that reads requests from its input."""
        return [sys.executable, "-m", "benchmarks.plain_generate", str(self._folder)]

    def stdin(self) -> int:
        """Requests come by a pipe."""
        return subprocess.PIPE

    def wait_ready(self, deadline: float) -> None:
        """It says so."""
        self.read_line(deadline)

    async def ask(
        self, prompts: Sequence[str], tokens: int, limit_s: float
    ) -> tuple[list[Trace], bool]:
        """All prompts in one batch; its stamps are the child's, of the same clock."""
        assert self.process.stdin is not None
        sent = time.monotonic_ns()
        request = {"prompts": list(prompts), "max_tokens": tokens, "ignore_eos": True}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        try:
            line = await asyncio.to_thread(self.read_line, time.monotonic() + limit_s)
        except PeerError:
            if self.process.poll() is not None:
                raise
            end = time.monotonic_ns()
            return [Trace(sent, end, error="stopped at the limit") for _ in prompts], True
        answer = json.loads(line)
        end, stamps = time.monotonic_ns(), answer["t_ns"]
        traces = [
            Trace(
                sent,
                end,
                t_ns=list(stamps),
                n_tokens=[1] * len(stamps),
                output_tokens=len(stamps),
                prompt_tokens=answer["prompt_tokens"][index],
                finish_reason="length",
                text=answer["texts"][index],
            )
            for index in range(len(prompts))
        ]
        return traces, False


class Direct(Peer):
    """(f) Our worker's own loop over the same prompts, called in its process: no layers above."""

    letter = "f"
    title = "our loop, called directly"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def command(self) -> list[str]:
        """The child that reads requests from its input."""
        return [sys.executable, "-m", "benchmarks.direct_loop", str(self._folder)]

    def environment(self) -> dict[str, str]:
        """What a worker has."""
        waits = waiting(load_settings().workbench_wait_policy)
        return {**super().environment(), **waits, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

    def stdin(self) -> int:
        """Requests come by a pipe."""
        return subprocess.PIPE

    def wait_ready(self, deadline: float) -> None:
        """It says so."""
        self.read_line(deadline)

    async def ask(
        self, prompts: Sequence[str], tokens: int, limit_s: float
    ) -> tuple[list[Trace], bool]:
        """All prompts at once; stamps are the worker's."""
        assert self.process.stdin is not None
        sent = time.monotonic_ns()
        self.process.stdin.write(json.dumps({"prompts": list(prompts), "max_tokens": tokens}))
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(await asyncio.to_thread(self.read_line, time.monotonic() + limit_s))
        return [Trace(sent, answer["t_ns"], **stream) for stream in answer["streams"]], False


class HttpPeer(Peer):
    """A peer that streams server-sent events over HTTP."""

    url: str
    path: str = "/v1/chat/completions"

    @abstractmethod
    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        """The request."""

    def headers(self) -> dict[str, str]:
        """Of each request."""
        return {}

    def read_event(self, trace: Trace, t_ns: int, event: Mapping[str, Any]) -> None:
        """Put one event into its trace; this is OpenAI's form, one text a token."""
        if "error" in event:
            trace.error = str(event["error"])[:500]
        usage = event.get("usage")
        if usage:
            trace.output_tokens = usage["completion_tokens"]
            trace.prompt_tokens = usage["prompt_tokens"]
        for choice in event.get("choices", ()):
            text = choice["delta"].get("content")
            if text:  # a role without text is no token
                trace.t_ns.append(t_ns)
                trace.n_tokens.append(1)
                trace.text += text
            trace.finish_reason = choice.get("finish_reason") or trace.finish_reason

    async def ask(
        self, prompts: Sequence[str], tokens: int, limit_s: float
    ) -> tuple[list[Trace], bool]:
        """All prompts at once, each a connection of its own."""
        bodies = [self.body(prompt, tokens) for prompt in prompts]
        raws, stopped = await stream_all(self.url + self.path, bodies, self.headers(), limit_s)
        traces = [raw.trace(self.read_event) for raw in raws]
        if self.process.poll() is not None:
            raise self.failed("ended while it was asked")
        return traces, stopped


class Serve(HttpPeer):
    """(b), (c) ``transformers serve`` on the local folder, without and with continuous batching.

    Args:
        folder: of the model.
        continuous: whether to batch.
        extra: further options of its command line.
    """

    def __init__(self, folder: Path, *, continuous: bool, extra: Sequence[str] = ()) -> None:
        super().__init__()
        self._folder = folder
        self._extra = [*(["--continuous-batching"] if continuous else []), *extra]
        self._port = free_port()
        self.letter = "c" if continuous else "b"
        self.title = "transformers serve" + (" --continuous-batching" if continuous else "")
        self.batches = continuous
        self.url = f"http://127.0.0.1:{self._port}"

    def command(self) -> list[str]:
        """bf16 on the CPU, as the model's file has it."""
        script = Path(sys.executable).with_name("transformers")
        address = ["--host", "127.0.0.1", "--port", str(self._port)]
        how = ["--device", "cpu", "--dtype", "bfloat16"]
        return [str(script), "serve", str(self._folder), *address, *how, *self._extra]

    def wait_ready(self, deadline: float) -> None:
        """It listens once the model is loaded."""
        wait_for_http(self, f"{self.url}/health", deadline)

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Greedy, without an end token, so that every answer reaches the limit."""
        config = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": -1}
        return {
            "model": str(self._folder),
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "generation_config": json.dumps(config),
        }


class LlamaCpp(HttpPeer):
    """(d) llama.cpp's server on the GGUF file, with a slot for every stream.

    Args:
        gguf: the file.
        slots: streams at once.
        threads: None for as many as there are cores.
    """

    letter = "d"
    title = "llama.cpp"

    def __init__(self, gguf: Path, slots: int, threads: int | None = None) -> None:
        super().__init__()
        self._gguf, self._slots = gguf, slots
        self._threads = ["--threads", str(threads)] if threads else []

    def command(self) -> list[str]:
        """The child around xllamacpp."""
        module = [sys.executable, "-m", "benchmarks.llama_server"]
        return [*module, str(self._gguf), "--slots", str(self._slots), *self._threads]

    def wait_ready(self, deadline: float) -> None:
        """It prints its address."""
        self.url = self.read_line(deadline).strip()

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Greedy, past end tokens, nothing kept from earlier prompts."""
        return {
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }


def wait_for_http(peer: Peer, url: str, deadline: float) -> None:
    """Ask until it answers 200."""
    with httpx.Client(trust_env=False, timeout=2) as http:
        while time.monotonic() < deadline:
            if peer.process.poll() is not None:
                raise peer.failed("ended before it was ready")
            with contextlib.suppress(httpx.TransportError):
                if http.get(url).is_success:
                    return
            time.sleep(0.1)
    raise peer.failed("was not ready in time")
