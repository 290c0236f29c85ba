from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.conftest import MS, make_session
from workbench.store import Store
from workbench.types import Message, Stamps, StreamSession, TokenTimeline

START = 5_000_000_000_000


def answer(
    ttft_s: float, tpot_s: float = 0.02, n: int = 4, *, start: int = START, **changes: Any
) -> StreamSession:
    """A finished session of ``n`` tokens with these latencies, 10 ms in the queue."""
    sent = start + 10 * MS
    gap = round(tpot_s * 1e9)
    first = sent + round(ttft_s * 1e9)
    last = first + (n - 1) * gap
    model = changes.setdefault("model", "scripted/steady")
    values: dict[str, Any] = {
        "provider": model.partition("/")[0],
        "requested_model": model,
        "output_tokens": n,
        "text": "abcd " * n,
        "stamps": Stamps(
            queued=start,
            slot=sent,
            sent=sent,
            first_any=first,
            first_content=first,
            last=last,
            end=last + MS,
        ),
        "timeline": TokenTimeline(
            t_ns=tuple(first + i * gap for i in range(n)),
            n_tokens=(1,) * n,
            n_chars=(5,) * n,
            channels=("content",) * n,
        ),
    }
    return make_session(**{**values, **changes})


def log(store: Store, *sessions: StreamSession, prompt: str = "hi") -> None:
    futures = [store.log_session(session, [Message("user", prompt)]) for session in sessions]
    for future in futures:
        future.result()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "log.duckdb") as opened:
        yield opened
