"""The peer: llama.cpp's own HTTP server around one GGUF file, through the xllamacpp wheel.

Prints its address when the model is loaded; ends when its process group is ended::

    python -m benchmarks.llama_server FILE.gguf --slots 32
"""

from __future__ import annotations

import argparse
import os
import threading


def main() -> None:
    """Load, announce the address on standard output, serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--slots", type=int, default=1, help="streams that may run at once")
    parser.add_argument("--context", type=int, default=512, help="tokens of each slot")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--metrics", action="store_true", help="serve /metrics too")
    arguments = parser.parse_args()
    # llama.cpp logs to standard output; keep that stream for the announcement alone.
    announce = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import xllamacpp  # type: ignore[import-untyped]  # may log when imported: after the line above

    params = xllamacpp.CommonParams()
    params.model.path = arguments.gguf
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.slots * arguments.context
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_threads_http = arguments.slots + 4  # each open stream holds one
    params.endpoint_metrics = arguments.metrics
    params.fit_params = False
    params.cache_ram_mib = 0  # a growing cache of old prompts would blur the memory figure
    server = xllamacpp.Server(params)
    print(server.listening_address, file=announce, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
