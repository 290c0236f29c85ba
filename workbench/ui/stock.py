"""The table of all models, and what is on its way to disk: HTML with a line of script.

The button of a job tells the job's id (``stop``).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from workbench import figures
from workbench.budget import DeviceBytes, Prediction
from workbench.figures import DASH, escape
from workbench.jobs import Job
from workbench.store import Store
from workbench.types import ModelInfo
from workbench.ui.budget import expected, explained
from workbench.ui.catalogue import ordered

STOPPING: Final = """
element.addEventListener("click", ({ target }) => {
  const button = target.closest("button[data-stop]");
  if (button) trigger("stop", { id: button.dataset.stop });
});
"""

_USED: Final = """
SELECT model, count(*) AS requests, count(*) FILTER (status IN ('error', 'timeout')) AS errors,
    max(created_at) AS last_at
FROM stream_sessions GROUP BY model
"""

_HEADS: Final = (
    # class, words, what it means
    ("model", "model", "provider/name"),
    ("status", "status", "resident: in memory now"),
    ("figure", "on disk", "bytes of its files"),
    (
        "figure",
        "memory",
        "in memory: measured while it is resident; shared: with another name of its weights",
    ),
    (
        "figure needs wb-wide",
        "needs",
        "the most that a load takes: expected from files, or measured",
    ),
    ("weights", "weights", "quantisation, or number format; and the kind of file"),
    ("figure wb-wide", "params", "parameters"),
    ("figure wb-mid", "context", "tokens that it can hold"),
    ("figure", "requests", "sessions of the log that it answered, or was to answer"),
    ("figure", "errors", "of these, failed or timed out"),
    ("when", "last used", "of the log, UTC"),
)


@dataclass(frozen=True, slots=True)
class Use:
    """What the log knows of a model."""

    requests: int = 0
    errors: int = 0
    last_at: dt.datetime | None = None


def used(store: Store, timeout_s: float) -> dict[str, Use]:
    """The use of every model that the log knows.

    Raises:
        WorkbenchError: as ``Store.query``.
    """
    rows = store.rows(_USED, timeout_s=timeout_s)
    return {row["model"]: Use(row["requests"], row["errors"], row["last_at"]) for row in rows}


_UNKNOWN: Final = Prediction({}, {}, "files")
_NEVER: Final = Use()


def render(
    models: Sequence[ModelInfo],
    expectation: Callable[[str], Prediction] = lambda model: _UNKNOWN,
    held: Mapping[str, DeviceBytes] = MappingProxyType({}),
    use: Mapping[str, Use] = MappingProxyType({}),
    chosen: str = "",
) -> str:
    """One row a model.

    Args:
        models: as listed.
        expectation: what is predicted of a model's memory.
        held: what is measured of it.
        use: what the log knows of it.
        chosen: the model whose row is marked.
    """
    if not models:
        return (
            '<div class="wb-empty"><strong>No model yet</strong><span>Get one above: ORG/NAME of '
            "the Hugging Face hub, or ollama/NAME.</span></div>"
        )
    heads = "".join(
        f'<th class="{kind}" title="{escape(meaning)}">{words}</th>'
        for kind, words, meaning in _HEADS
    )
    shown = ordered(models)
    lines = "".join(
        _row(
            info,
            expectation(info.id),
            held.get(info.id),
            use.get(info.id, _NEVER),
            first=place == 0,
            chosen=info.id == chosen,
        )
        for place, info in enumerate(shown)
    )
    return (
        '<table class="wb-stock" role="grid" aria-label="Models"><thead><tr>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _row(
    info: ModelInfo,
    prediction: Prediction,
    held: DeviceBytes | None,
    use: Use,
    *,
    first: bool,
    chosen: bool,
) -> str:
    weights = " · ".join(
        word for word in (info.quantization or figures.dtype(info.dtype), info.format) if word
    )
    problem = f'<div class="wb-problem">{escape(info.problem)}</div>' if info.problem else ""
    last = f"{use.last_at.astimezone(dt.UTC):%m-%d %H:%M}" if use.last_at else DASH
    full = f"{use.last_at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC" if use.last_at else "never"
    cells = (
        ("model", f"{escape(info.id)}{problem}", info.id),
        ("status", escape(info.status), ""),
        ("figure", figures.size(info.size_bytes), ""),
        ("figure", in_memory(info, held), ""),
        ("figure needs wb-wide", expected(prediction), explained(prediction)),
        ("weights", escape(weights or DASH), ""),
        ("figure wb-wide", _parameters(info.parameters), ""),
        ("figure wb-mid", f"{info.context_length:,}" if info.context_length else DASH, ""),
        ("figure", f"{use.requests:,}" if use.requests else DASH, ""),
        ("figure", f"{use.errors:,}" if use.requests else DASH, ""),
        ("when", last, full),
    )
    body = "".join(
        f'<td class="{kind}"{f" title={chr(34)}{escape(title)}{chr(34)}" if title else ""}>'
        f"{words}</td>"
        for kind, words, title in cells
    )
    return (
        f'<tr data-row="{escape(info.id)}" data-status="{escape(info.status)}" '
        f'data-errors="{use.errors}" tabindex="{0 if first else -1}" '
        f'aria-selected="{str(chosen).lower()}">{body}</tr>'
    )


def coming(jobs: Sequence[Job]) -> str:
    """What is on its way to disk: a row each, with its bar and its own button."""
    return "".join(_job(job) for job in jobs)


def _job(job: Job) -> str:
    share = figures.percent(job.bytes_done, job.bytes_total)
    reached = (
        f"{figures.size(job.bytes_done)} of {figures.size(job.bytes_total)}"
        if job.bytes_total
        else job.status
    )
    name = escape(job.model)
    return (
        f'<div class="wb-job" data-job="{escape(job.id)}" data-status="{job.status}">'
        f'<span class="wb-name">{name}</span>'
        f'<progress max="100" value="{share}" aria-label="{name}">{share} %</progress>'
        f'<span class="wb-reached">{reached}</span>'
        f'<span class="wb-doing">{escape(job.message)}</span>'
        f'<button type="button" data-stop="{escape(job.id)}" aria-label="Cancel {name}">'
        "Cancel</button></div>"
    )


def in_memory(info: ModelInfo, held: DeviceBytes | None) -> str:
    """Measured where it can be, else the runtime's own figure; of names of one runner just once."""
    if held:
        return figures.size(sum(held.values()))
    if held is not None or info.details.get("resident_as", info.name) != info.name:
        return "shared"
    return figures.size(info.memory_bytes)


def _parameters(count: int | None) -> str:
    if not count:
        return DASH
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"
