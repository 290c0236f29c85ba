"""The memory of the last hour: noted, bounded, drawn with its alerts."""

from __future__ import annotations

import asyncio
import datetime as dt

from tests.conftest import EngineFactory
from workbench.observe.timeline import MemoryTimeline, Reading
from workbench.ui.health import drawing

BEGAN = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def reading(n: int, *, short: bool = False, held: int = 0) -> Reading:
    return Reading(
        at=BEGAN + dt.timedelta(seconds=5 * n),
        used_bytes={"host": (8 + n % 7) * 10**9, "cuda:0": 10**9},
        total_bytes={"host": 16 * 10**9, "cuda:0": 8 * 10**9},
        limit_bytes={"host": 10 * 10**9, "cuda:0": 7 * 10**9},
        held_bytes={"ollama/a": {"host": held}, "huggingface/b": {"cuda:0": held}} if held else {},
        short=("host",) if short else (),
    )


async def test_readings_come_by_themselves_and_are_bounded(make_engine: EngineFactory) -> None:
    engine = make_engine(workbench_timeline_s=0.01, workbench_timeline_readings=3)
    timeline = MemoryTimeline(engine)
    timeline.start()
    async with asyncio.timeout(10):
        first = timeline.readings
        while len(timeline.readings) < 3 or timeline.readings[0] in first[:1]:
            first = first or timeline.readings
            await asyncio.sleep(0.01)
    await timeline.close()
    assert len(timeline.readings) == 3
    assert 0 < timeline.readings[-1].used_bytes["host"] < timeline.readings[-1].total_bytes["host"]
    assert timeline.readings[-1].limit_bytes["host"] > 0


def test_plot_has_every_device_model_line_and_alert() -> None:
    readings = tuple(reading(n, short=3 <= n < 6, held=10**8 * n) for n in range(20))
    events = [{"created_at": readings[4].at, "event": "evict", "model": "ollama/a"}]
    figure = drawing.plot(readings, events)
    names = [trace.name for trace in figure.data]
    assert {"ollama/a", "huggingface/b", "budget of the models", "in use by all"} <= set(names)
    assert figure.layout.yaxis.title.text == "host, GB"
    assert figure.layout.yaxis2.title.text == "cuda:0, GB"
    (alert,) = figure.layout.shapes
    assert (alert.x0, alert.x1) == (readings[3].at, readings[6].at)
    assert figure.data[-1].text == ("✕",)


def test_peaks_are_kept_when_there_are_too_many_readings() -> None:
    readings = tuple(reading(n) for n in range(1000))
    kept = drawing.thinned(readings)
    assert len(kept) <= drawing.MOST_POINTS
    assert max(one.used_bytes["host"] for one in kept) == 14 * 10**9
    assert "look again" in drawing.plot(readings[:1]).layout.annotations[0].text
