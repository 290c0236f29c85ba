"""The process that workers are forked from: everything heavy is imported here once.

Run as ``python -m workbench.hf.zygote FD``, where FD is its end of a socket pair. It imports torch
and transformers (a second or two) and then forks a worker in milliseconds on each ``Fork``, reports
how workers ended, and exits when the server's end is closed, however that came about.

Two rules, each paid for with a hanging worker: no tensor operation and no second thread in here,
because neither a thread pool nor a lock held by another thread survives a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import Final, NoReturn

from workbench.hf.protocol import Decoder, Exited, Fork, Forked, encode

# transformers imports its parts on first use, which would then happen in every worker again. The
# families are those whose small models people try first; another one costs its import once more.
PRELOAD: Final = (
    "torch",
    "transformers",
    "transformers.generation.utils",
    "transformers.generation.candidate_generator",
    "transformers.generation.continuous_batching",
    "transformers.cache_utils",
    "transformers.integrations",
    "transformers.integrations.ggml",
    "transformers.integrations.sdpa_attention",
    "transformers.integrations.accelerate",
    "transformers.masking_utils",
    "transformers.modeling_gguf_pytorch_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.phi3.modeling_phi3",
    "accelerate",
    "gguf",
    "workbench.hf.worker",
)


def preload() -> None:
    """Import what workers need and put it out of the garbage collector's reach.

    Frozen objects are never visited by a collection, so their pages stay shared with the workers.
    """
    for name in PRELOAD:
        # A release of transformers may lack one of the families: that costs speed, not function.
        optional = name.startswith("transformers.") or name in ("gguf", "accelerate")
        with contextlib.suppress(ImportError) if optional else contextlib.nullcontext():
            importlib.import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    # Touched, so that transformers' lazy modules resolve the names now.
    _ = (AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig)
    gc.collect()
    gc.freeze()


class Zygote:
    """Serves fork requests until the server is gone.

    Args:
        control: this process's end of the socket pair to the server.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)

    def serve(self) -> None:
        """Fork and reap until the server closes its end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
        signal.signal(signal.SIGCHLD, _wake_only)
        signal.set_wakeup_fd(self._wake_write)
        decoder = Decoder()
        descriptors: list[int] = []
        while True:
            control = self._control.fileno()
            ready, _, _ = select.select([control, self._wake_read], [], [])
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._reap()
            if control in ready:
                data, received, _, _ = socket.recv_fds(self._control, 65536, 8)
                descriptors += received
                if not data:
                    return
                for message in decoder.feed(data):
                    if isinstance(message, Fork):
                        sock, log = descriptors.pop(0), descriptors.pop(0)
                        self._fork(message.worker, sock, log)

    def _fork(self, worker: int, sock: int, log: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_worker(sock, log)
        # This process must not keep the worker's end open, or the server would not see it close.
        os.close(sock)
        os.close(log)
        self._control.sendall(encode(Forked(worker, pid)))

    def _become_worker(self, sock: int, log: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            from workbench.hf.worker import run

            code = run(socket.socket(fileno=sock))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Not sys.exit: the zygote's stack and exit handlers are not this process's.
            os._exit(code)

    def _reap(self) -> None:
        """Report every worker that ended; one signal may stand for several."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            exited = Exited(pid, code if code >= 0 else None, -code if code < 0 else None)
            self._control.sendall(encode(exited))


def _wake_only(number: int, frame: FrameType | None) -> None:
    """A handler must exist for the wake-up descriptor to be written; the loop does the work."""


def main() -> int:
    """Preload, then serve the socket whose descriptor is the only argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    preload()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Zygote(control).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
