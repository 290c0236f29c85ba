"""One worker process as the server sees it: load, generate, cancel, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import psutil

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.protocol import (
    Called,
    Cancel,
    Decoder,
    Failed,
    Finished,
    Generate,
    Inspect,
    Inspected,
    Load,
    Loaded,
    Logged,
    Message,
    ProtocolError,
    Token,
    Trim,
    Warned,
    encode,
)
from workbench.hf.spawner import Ended, OutputFile, Zygote

GenerationMessage = Token | Called | Warned | Finished


class CancelSignal(Protocol):
    """What a request is cancelled with; an ``asyncio.Event`` is one."""

    def wait(self) -> Awaitable[object]:
        """Return when the request is to end."""
        ...


_log = logs.get(__name__)
_EXIT_STATUS_S: Final = 5.0
_LOOK_S: Final = 0.02


class WorkerClient:
    """A worker with at most one model. Made by :meth:`start`; belongs to one event loop.

    ``cancel_grace_s`` is how long a cancelled generation may take to end before the worker, which
    then hangs, is killed.
    """

    def __init__(self, pid: int, sock: socket.socket, output: OutputFile, zygote: Zygote) -> None:
        self.pid = pid
        self.cancel_grace_s = 10.0
        self.loaded: Loaded | None = None
        self._sock = sock
        self._output = output
        self._zygote = zygote
        self._ended = zygote.ended(pid)
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):  # it has ended already
            self._process = psutil.Process(pid)
        self._next_request = 0
        self._last_message = 0.0
        """When the worker last said something, in the event loop's time."""
        self._loading: asyncio.Future[Loaded] | None = None
        self._requests: dict[int, asyncio.Queue[GenerationMessage | WorkbenchError]] = {}
        self._inspections: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._death: WorkbenchError | None = None
        self._closing = False
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.on_death: Callable[[WorkbenchError], None] | None = None

    @classmethod
    async def start(cls, zygote: Zygote) -> WorkerClient:
        """Fork a worker.

        Raises:
            WorkbenchError: ``HF_PIPELINE_ERROR`` if there is no zygote to fork it.
            OSError: there are no descriptors for it.
        """
        output = OutputFile()
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            output.close()
            raise
        try:
            with theirs:
                pid = await asyncio.wrap_future(zygote.fork(theirs, output))
            client = cls(pid, ours, output, zygote)
            ours.setblocking(False)
            reader, client._writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            output.close()
            raise
        # In a context of its own: it serves all requests, not only the one that loads the model.
        client._reading = asyncio.get_running_loop().create_task(
            client._read(reader), name=f"hf-worker-{pid}", context=contextvars.Context()
        )
        return client

    @property
    def alive(self) -> bool:
        """Whether the worker can still be asked."""
        return self._death is None and not self._closing

    @property
    def busy(self) -> bool:
        """Whether it generates now."""
        return bool(self._requests)

    async def load(self, wanted: Load) -> Loaded:
        """Have the model loaded.

        Raises:
            WorkbenchError: the worker's own error, or ``HF_PIPELINE_ERROR`` if it died.
        """
        self._loading = asyncio.get_running_loop().create_future()
        try:
            await self._send(replace(wanted, correlation_id=logs.bound("correlation_id")))
            self.loaded = await self._loading
        finally:
            self._loading = None
        return self.loaded

    async def generate(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        *,
        seed: int,
        threads: int,
        cancel: CancelSignal,
        tools: Sequence[Mapping[str, Any]] = (),
        forced: Sequence[str] = (),
        raw: bool = False,
    ) -> AsyncGenerator[GenerationMessage, None]:
        """Stream one answer; the last item is its ``Finished``.

        Requests run beside each other in the worker's batch. Closing the iterator cancels this one
        and waits until the worker has let go of it.

        Args:
            messages: fields of ``types.Message``.
            options: fields of ``types.Options``.
            seed: for sampling.
            threads: compute threads for this request.
            cancel: ends the generation within a token; its ``Finished`` still comes.
            tools: functions that the model may ask for, in the OpenAI form.
            forced: an answer, in pieces, to be taken in place of the model's own choice.
            raw: continue the text of the only message as it stands.

        Raises:
            WorkbenchError: the worker's own error, or ``HF_PIPELINE_ERROR`` if it died.
        """
        self._next_request += 1
        number = self._next_request
        inbox: asyncio.Queue[GenerationMessage | WorkbenchError] = asyncio.Queue()
        self._requests[number] = inbox
        over = False
        watcher = asyncio.create_task(self._cancel_when(cancel, number))
        try:
            await self._send(
                Generate(
                    number,
                    [dict(message) for message in messages],
                    dict(options),
                    seed,
                    threads,
                    [dict(tool) for tool in tools],
                    raw,
                    logs.bound("correlation_id"),
                    list(forced),
                )
            )
            while not over:
                item = await inbox.get()
                over = isinstance(item, (Finished, WorkbenchError))
                if isinstance(item, WorkbenchError):
                    raise item
                yield item
        finally:
            watcher.cancel()
            if not over and self.alive:
                # The consumer left; its slot is free for the next request once this is over.
                await self._abandon(number, inbox)
            del self._requests[number]

    async def inspect(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Mapping[str, Any]:
        """What the model would make of a request: fields of ``inspection.Inspection``.

        Raises:
            WorkbenchError: the worker's own error, or ``HF_PIPELINE_ERROR`` if it died.
        """
        self._next_request += 1
        number = self._next_request
        self._inspections[number] = asyncio.get_running_loop().create_future()
        try:
            asked = Inspect(
                number, [dict(one) for one in messages], dict(options), [dict(one) for one in tools]
            )
            await self._send(asked)
            return await self._inspections[number]
        finally:
            del self._inspections[number]

    async def _abandon(
        self, number: int, inbox: asyncio.Queue[GenerationMessage | WorkbenchError]
    ) -> None:
        async def drained() -> None:
            while not isinstance(await inbox.get(), (Finished, WorkbenchError)):
                pass

        with contextlib.suppress(WorkbenchError):
            await self._send(Cancel(number))
            draining = asyncio.create_task(drained())
            await self._kill_if_silent(until=draining)
            await draining  # if it was killed, its death is the last message

    async def _cancel_when(self, cancel: CancelSignal, number: int) -> None:
        """Pass the cancellation on; kill a worker that does not heed it (cancelled if it does)."""
        await cancel.wait()
        with contextlib.suppress(WorkbenchError):
            await self._send(Cancel(number))
            await self._kill_if_silent(until=None)

    async def _kill_if_silent(self, until: asyncio.Task[None] | None) -> None:
        """Kill the worker once it has not said anything for the grace; other requests may speak.

        Ends earlier when ``until`` is done.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        while until is None or not until.done():
            left = max(since, self._last_message) + self.cancel_grace_s - loop.time()
            if left <= 0:
                self.kill()
                return
            if until is None:
                await asyncio.sleep(left)
            else:
                await asyncio.wait([until], timeout=left)

    async def trim(self) -> None:
        """Ask it to give back what it holds without need; it does so when it is idle."""
        with contextlib.suppress(WorkbenchError):  # one that has died holds nothing
            await self._send(Trim())

    async def close(self) -> None:
        """End the process and wait until it is gone and its memory free. May be called twice."""
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        await self._exit_status()
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._zygote.forget(self.pid)
        self._output.close()

    # -- the connection --------------------------------------------------------------------------

    async def _send(self, message: Message) -> None:
        if self._death is not None:
            raise self._death
        assert self._writer is not None
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except OSError:
            # The reading side notices as well and knows more about why.
            assert self._reading is not None
            await asyncio.shield(self._reading)
            assert self._death is not None
            raise self._death from None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand each message to whom it belongs, until the worker is gone."""
        decoder = Decoder()
        with contextlib.suppress(OSError, ProtocolError):
            while data := await reader.read(65536):
                self._last_message = asyncio.get_running_loop().time()
                for message in decoder.feed(data):
                    self._dispatch(message)
        self._die(self._death_error(await self._exit_status()))

    def _dispatch(self, message: Message) -> None:
        if isinstance(message, (Token, Called, Warned, Finished)):
            inbox = self._requests.get(message.request_id)
            if inbox is not None:
                inbox.put_nowait(message)
        elif isinstance(message, Inspected):
            self._settle_inspection(message.request_id, message.facts)
        elif isinstance(message, Failed):
            error = WorkbenchError.from_dict(message.error)
            if message.request_id is None:
                self._settle_load(error)
            elif message.request_id in self._inspections:
                self._settle_inspection(message.request_id, error)
            elif message.request_id in self._requests:
                self._requests[message.request_id].put_nowait(error)
        elif isinstance(message, Logged):
            line = dict(message.line)
            level = logging.getLevelName(str(line.pop("level", "info")).upper())
            _log.log(level, line.pop("event", "worker"), **line, pid=self.pid)
        elif isinstance(message, Loaded) and self._loading and not self._loading.done():
            self._loading.set_result(message)

    def _settle_load(self, error: WorkbenchError) -> None:
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(error)

    def _settle_inspection(self, number: int, end: Mapping[str, Any] | WorkbenchError) -> None:
        waiting = self._inspections.get(number)
        if waiting is None or waiting.done():
            return
        if isinstance(end, WorkbenchError):
            waiting.set_exception(end)
        else:
            waiting.set_result(end)

    def _die(self, error: WorkbenchError) -> None:
        self._death = error
        self._settle_load(error)
        for number in list(self._inspections):
            self._settle_inspection(number, error)
        for inbox in self._requests.values():
            inbox.put_nowait(error)
        if self.on_death is not None and not self._closing:
            self.on_death(error)

    async def _exit_status(self) -> Ended:
        """How the process ended, as soon as it has; after a while it is killed."""
        ended = asyncio.wrap_future(self._ended)
        try:
            how = await asyncio.wait_for(asyncio.shield(ended), _EXIT_STATUS_S)
        except TimeoutError:
            self.kill()
            how = await asyncio.shield(ended)
        if how == Ended():  # the zygote is gone and tells of no end any more
            await self._until_gone()
        return how

    async def _until_gone(self) -> None:
        """Wait for the end of a process of which nobody tells; after a while it is killed."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + _EXIT_STATUS_S
        while self._runs():
            if loop.time() >= patience:
                self.kill()
            await asyncio.sleep(_LOOK_S)

    def _runs(self) -> bool:
        try:
            process = self._process
            if process is None or not process.is_running():
                return False
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def kill(self) -> None:
        """End the process without asking it; for one that does not answer.

        Also one whose zygote is gone, which nobody else would ever end; never another that was
        given its number.
        """
        if self._process is not None:
            with contextlib.suppress(psutil.Error):
                self._process.kill()

    def _death_error(self, ended: Ended) -> WorkbenchError:
        details: dict[str, Any] = {
            "pid": self.pid,
            "exit_code": ended.exit_code,
            "signal": ended.signal,
            "output": self._output.tail(),
            "transient": ended.signal != signal.SIGKILL,
        }
        if ended.signal is not None:
            how = f"was killed by signal {ended.signal} ({_signal_name(ended.signal)})"
            if ended.signal == signal.SIGKILL:
                how += ", perhaps because memory ran out"
        elif ended.exit_code is None:
            how = "ended, and nobody could tell how: the process that starts workers is gone"
        else:
            how = f"ended with exit code {ended.exit_code}"
        return WorkbenchError(
            ErrorCode.HF_PIPELINE_ERROR,
            f"The worker process of the model {how}.",
            fix="The next request starts a new one; if it happens again, choose a smaller model "
            "or look at the output in the details.",
            operation="stream" if self.loaded else "load",
            provider="huggingface",
            details=details,
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
