"""The life of a worker process: load one model, answer requests in batches, exit.

A second thread reads the socket, so that a cancellation is seen while the first one computes. When
the server's end of the socket closes, for whatever reason, the process ends at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers

from workbench import logs
from workbench.errors import WorkbenchError
from workbench.hf.answer import generation_error
from workbench.hf.batch import Batch
from workbench.hf.loading import LoadedModel, load
from workbench.hf.protocol import (
    Cancel,
    Decoder,
    Failed,
    Finished,
    Generate,
    Inspect,
    Inspected,
    Load,
    Logged,
    Message,
    ProtocolError,
    Trim,
    encode,
)

_log = logs.get(__name__)


class Worker:
    """Serves one connection.

    Args:
        sock: this process's end of the socket pair to the server.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._batch: Batch | None = None
        self._loaded: LoadedModel | None = None
        self._correlation: dict[int, str | None] = {}

    def serve(self) -> None:
        """Handle messages for ever; the reading thread ends the process."""
        threading.Thread(target=self._read, daemon=True, name="reader").start()
        while True:
            for message in self._arrived():
                if isinstance(message, Load):
                    self._load(message)
                elif isinstance(message, Generate):
                    assert self._batch is not None
                    self._correlation[message.request_id] = message.correlation_id
                    self._batch.add(message)
                elif isinstance(message, Inspect):
                    self._inspect(message)
                elif isinstance(message, Trim) and self._batch is not None:
                    self._batch.trim()
            if self._batch is not None and not self._batch.idle:
                self._batch.step()

    def _arrived(self) -> Iterator[Message]:
        """What has come; waits for something if there is nothing else to do."""
        if self._batch is None or self._batch.idle:
            yield self._inbox.get()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._inbox.get_nowait()

    def _read(self) -> None:
        decoder = Decoder()
        with contextlib.suppress(OSError, ProtocolError):
            while data := self._sock.recv(65536):
                for message in decoder.feed(data):
                    if isinstance(message, Cancel):
                        self._cancelled.add(message.request_id)
                    else:
                        self._inbox.put(message)
        # The server is gone or wants this process gone. Threads that still compute must not
        # delay that, and there is nothing to save.
        os._exit(0)

    def _load(self, message: Load) -> None:
        logs.configure(message.log_level, self._tell)
        log = _log.bind(correlation_id=message.correlation_id)
        log.debug("worker_loading", threads=message.threads)
        try:
            loaded = load(message)
        except WorkbenchError as error:
            traceback.print_exc()
            log.warning("worker_load_failed", code=error.code, exc_info=error)
            self._send(Failed(None, error.to_dict()))
            return
        self._loaded = loaded
        self._batch = Batch(
            loaded,
            max_batch=message.max_batch,
            cache_bytes=message.cache_bytes,
            send=self._send,
            cancelled=self._cancelled.__contains__,
        )
        told = loaded.description
        log.info("worker_loaded", device=told.device, dtype=told.dtype, load_s=told.load_ns / 1e9)
        self._send(told)

    def _inspect(self, message: Inspect) -> None:
        from workbench.hf.inspecting import facts  # rarely needed

        assert self._loaded is not None
        try:
            self._send(Inspected(message.request_id, facts(self._loaded, message)))
        except WorkbenchError as error:
            self._send(Failed(message.request_id, error.to_dict()))
        except Exception as error:  # whatever a tokenizer or a file raises
            traceback.print_exc()
            failed = generation_error(error, self._loaded.device, 0)
            self._send(Failed(message.request_id, failed.to_dict()))

    def _send(self, message: Message) -> None:
        if isinstance(message, (Finished, Failed)) and message.request_id is not None:
            self._cancelled.discard(message.request_id)
            self._report(message)
        try:
            self._sock.sendall(encode(message))
        except OSError:
            os._exit(0)

    def _report(self, message: Finished | Failed) -> None:
        log = _log.bind(correlation_id=self._correlation.pop(message.request_id or 0, None))
        if isinstance(message, Failed):
            log.warning("worker_failed", code=message.error.get("code"))
        else:
            log.debug(
                "worker_finished",
                finish_reason=message.finish_reason,
                cancelled=message.cancelled,
                prompt_tokens=message.prompt_tokens,
                output_tokens=message.output_tokens,
            )

    def _tell(self, line: Mapping[str, Any]) -> None:
        self._send(Logged(dict(line)))


def run(sock: socket.socket) -> int:
    """Be a worker on this socket; the process's exit code, if it returns at all."""
    faulthandler.enable()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with contextlib.suppress(OSError):
        # Under memory pressure the kernel shall take a worker, which can be started again, and
        # not the server with everybody's sessions.
        Path("/proc/self/oom_score_adj").write_text("500")
    Worker(sock).serve()
    return 0
