"""The life of a worker process: load one model, answer requests one after the other, exit.

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
from pathlib import Path

import torch
import transformers

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.generation import Generation
from workbench.hf.loading import LoadedModel, load
from workbench.hf.protocol import (
    Cancel,
    Decoder,
    Failed,
    Generate,
    Load,
    Message,
    ProtocolError,
    encode,
)


class Worker:
    """Serves one connection.

    Args:
        sock: this process's end of the socket pair to the server.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._loaded: LoadedModel | None = None

    def serve(self) -> None:
        """Handle messages for ever; the reading thread ends the process."""
        threading.Thread(target=self._read, daemon=True, name="reader").start()
        while True:
            message = self._inbox.get()
            if isinstance(message, Load):
                self._load(message)
            elif isinstance(message, Generate):
                self._generate(message)

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
        try:
            self._loaded = load(message)
        except WorkbenchError as error:
            traceback.print_exc()
            self._send(Failed(None, error.to_dict()))
        else:
            self._send(self._loaded.description)

    def _generate(self, message: Generate) -> None:
        number = message.request_id
        try:
            assert self._loaded is not None
            if message.threads != torch.get_num_threads():
                torch.set_num_threads(message.threads)
            generation = Generation(
                self._loaded, message, self._send, lambda: number in self._cancelled
            )
            self._send(generation.run())
        except WorkbenchError as error:
            if error.code is not ErrorCode.INVALID_REQUEST:
                traceback.print_exc()
            self._send(Failed(number, error.to_dict()))
        finally:
            self._cancelled.discard(number)

    def _send(self, message: Message) -> None:
        try:
            self._sock.sendall(encode(message))
        except OSError:
            os._exit(0)


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
