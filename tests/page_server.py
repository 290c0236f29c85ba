"""Serves models that play what the page is tested with; prints address and token. For tests."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

import uvicorn

from workbench import logs
from workbench.engine import build
from workbench.errors import ErrorCode
from workbench.providers.scripted import SCHEDULES, Schedule, ScriptedProvider, Step, steady
from workbench.server import create_app
from workbench.settings import load_settings
from workbench.store import Store

MATHS = """The area is $\\pi r^2$, and it costs $5 or $6.

```python
print(3.14)
```

| a | b |
|---|---|
| 1 | 2 |
"""
LINES = "\n\n".join(f"Line {i} of the answer." for i in range(200))


def _said(text: str, channel: str = "content") -> Step:
    return Step(0.01, text, 5, channel)  # type: ignore[arg-type]


MODELS = {
    **SCHEDULES,
    "long": Schedule(steady(3_000, first_s=0.05, gap_s=0.02), description="50 tokens/s, a minute"),
    "prompt": Schedule(steady(12, first_s=0.02, gap_s=0.004)),
    "late": Schedule(steady(12, first_s=0.05, gap_s=0.008)),
    "fox": Schedule((_said("The quick brown fox jumps.\n\n"), _said("It is red."))),
    "cat": Schedule((_said("The quick grey cat jumps.\n\n"), _said("It is old."))),
    "maths": Schedule((_said("Let me see.", "reasoning"), _said(MATHS))),
    "lines": Schedule((_said(LINES),)),
    "seer": Schedule((_said("I see something."),), sees=True),
    "nothing": Schedule(()),
    "failing": Schedule(steady(3, first_s=0.01, gap_s=0.01), error=ErrorCode.HF_GENERATION_FAILED),
}


def serve(models: Mapping[str, Schedule], port: int = 0) -> None:
    """Serve these until terminated; prints address and token once it listens."""
    logs.configure("WARNING")
    settings = load_settings(_env_file=None)
    # With the protocol named: asyncio sends small packets at once only then.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listening, Store.open(settings.workbench_db) as store:
        listening.bind(("127.0.0.1", port))
        listening.listen()
        engine = build(settings, store, scripted=ScriptedProvider(models))
        app = create_app(settings, engine)
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.token, flush=True)
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    serve(MODELS, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
