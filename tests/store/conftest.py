from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import disks
from workbench.metrics import session_metrics
from workbench.store import Store
from workbench.types import (
    Options,
    Stamps,
    Status,
    StreamSession,
    TimingMode,
    TokenTimeline,
    new_id,
)

MS = 1_000_000


def make_session(**changes: Any) -> StreamSession:
    """A finished session: 10 ms queue, 30 ms to the first token, then three gaps of 20 ms."""
    start = 5_000_000_000_000
    first = start + 40 * MS
    values: dict[str, Any] = {
        "session_id": new_id("ses"),
        "conversation_id": new_id("con"),
        "correlation_id": new_id("cor"),
        "requested_model": "scripted/steady",
        "model": "scripted/steady",
        "provider": "scripted",
        "status": Status.OK,
        "created_at": dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC),
        "stamps": Stamps(
            queued=start,
            slot=start + 10 * MS,
            sent=start + 10 * MS,
            first_any=first,
            first_content=first,
            last=first + 60 * MS,
            end=first + 61 * MS,
        ),
        "options": Options(seed=7),
        "seed": 7,
        "timing_mode": TimingMode.ISOLATED,
        "source": "test",
        "text": "four little words here",
        "output_tokens": 4,
        "timeline": TokenTimeline(
            t_ns=tuple(first + i * 20 * MS for i in range(4)),
            n_tokens=(1, 1, 1, 1),
            n_chars=(5, 7, 6, 4),
            channels=("content",) * 4,
        ),
    }
    values.update(changes)
    session = StreamSession(**values)
    figures = session_metrics(
        session.stamps,
        session.timeline,
        output_tokens=session.output_tokens,
        content_chars=len(session.text),
        mem_before_bytes=session.mem_before_bytes,
        mem_peak_bytes=session.mem_peak_bytes,
        overlap_ns=session.overlap_ns,
        ttft_late_ns=session.ttft_late_ns,
        speed_late_ns=session.speed_late_ns,
    )
    return StreamSession(**{**values, "metrics": figures})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "workbench.duckdb"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """For tests that look at their own rows only: opening a new log takes a tenth of a second."""
    with Store.open(tmp_path_factory.mktemp("shared") / "workbench.duckdb") as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own."""
    try:
        with disks.small_disk(tmp_path / "small", 24) as folder:
            yield folder
    except disks.NotPermitted:
        pytest.skip("mounting is not permitted here")
