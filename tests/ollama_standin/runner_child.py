"""The runner process: llama.cpp's own HTTP server around one model, nothing else.

It announces its address on standard output when the model is loaded and ends when its standard
input is closed, that is when the parent stops it or dies. A real server that gets SIGKILL leaves
its runner behind as an orphan; here the runner goes too, so that tests never leak processes.
"""

from __future__ import annotations

import argparse
import os
import threading
import time


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)  # llama.cpp's threads must not delay the end


def main() -> None:
    """Load the model, announce the address, serve until standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--no-context-shift", action="store_true")
    parser.add_argument("--slow-load", type=float, default=0.0)
    arguments = parser.parse_args()

    # llama.cpp logs to standard output; keep that stream for the announcement alone.
    announce = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watcher = threading.Thread(target=_end_with_parent, daemon=True)
    watcher.start()
    time.sleep(arguments.slow_load)

    import xllamacpp  # type: ignore[import-untyped]  # after the redirection, as importing may already log

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.n_ctx = arguments.ctx_size
    params.n_batch = arguments.batch_size
    params.n_parallel = 1  # as Ollama's default: further requests wait in llama.cpp's queue
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.ctx_shift = not arguments.no_context_shift
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.fit_params = False
    params.cache_ram_mib = 0  # a growing cache of old prompts would blur memory measurements
    server = xllamacpp.Server(params)
    print(server.listening_address, file=announce, flush=True)
    watcher.join()


if __name__ == "__main__":
    main()
