"""Command line: ``python -m tests.ollama_standin --gguf FILE``; prints one line with the URL."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from .catalog import Library
from .faults import Faults
from .inference import Inference
from .residency import Residency
from .server import Server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.ollama_standin", description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="weights behind every name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument(
        "--models",
        default="smollm2:135m,smollm2-b:135m",
        help="names, by commas; NAME=FILE has weights of its own, the others share those of --gguf",
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME/KEY=INT",
        help="a parameter of one model, for example smollm2:135m/num_thread=1",
    )
    parser.add_argument("--tools", default="", help="those of the names that can call functions")
    parser.add_argument("--store", type=Path, help="folder for blobs (default: a temporary one)")
    parser.add_argument("--threads", type=int, default=1, help="threads per runner")
    parser.add_argument("--max-queue", type=int, default=512)
    parser.add_argument("--verbose", action="store_true", help="show llama.cpp's log")
    faults = parser.add_argument_group("faults that a real server cannot be asked for")
    faults.add_argument("--html", action="store_true", help="every answer is a proxy's 502 page")
    faults.add_argument("--slow-load", type=float, default=0.0, metavar="SECONDS")
    faults.add_argument("--stall-after", type=int, metavar="LINES")
    faults.add_argument("--cut-mid-line-after", type=int, metavar="LINES")
    faults.add_argument("--garbage-line-after", type=int, metavar="LINES")
    return parser.parse_args()


class _Listener(uvicorn.Server):
    """Says where it listens, and stops as abruptly as the real server does.

    On SIGTERM the real server drops running streams without a last chunk; the runners end because
    their standard input closes.
    """

    def __init__(self, config: uvicorn.Config, url: str, store: Path) -> None:
        super().__init__(config)
        self._url = url
        self._store = store

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"listening on {self._url}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        shutil.rmtree(self._store, ignore_errors=True)
        os._exit(0)


def main() -> None:
    """Serve until a signal comes."""
    arguments = _arguments()
    listening = socket.create_server((arguments.host, arguments.port))
    url = f"http://{arguments.host}:{listening.getsockname()[1]}"
    base = Path(tempfile.mkdtemp(prefix="ollama-standin-", dir=arguments.store))
    store = base / "blobs"
    store.mkdir()

    parameters: dict[str, dict[str, Any]] = {}
    for item in arguments.parameter:
        name, _, setting = item.rpartition("/")
        key, _, value = setting.partition("=")
        parameters.setdefault(name, {})[key] = int(value)
    library = Library(store)
    for item in arguments.models.split(","):
        name, _, file = item.partition("=")
        tools = name in arguments.tools.split(",")
        weights = Path(file) if file else arguments.gguf
        library.add(name, weights, tools=tools, **parameters.get(name, {}))

    faults = Faults(
        html=arguments.html,
        slow_load=arguments.slow_load,
        stall_after=arguments.stall_after,
        cut_mid_line_after=arguments.cut_mid_line_after,
        garbage_line_after=arguments.garbage_line_after,
    )

    async def serve() -> None:
        residency = Residency(
            max_queue=arguments.max_queue, slow_load=faults.slow_load, verbose=arguments.verbose
        )
        inference = Inference(library, residency, arguments.threads)
        app = Server(library, residency, inference, faults)
        config = uvicorn.Config(
            app,
            http="h11",
            lifespan="off",
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
        )
        await _Listener(config, url, base).serve(sockets=[listening])

    asyncio.run(serve())


if __name__ == "__main__":
    main()
