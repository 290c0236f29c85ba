"""Figures as text: every number with its unit, a dash for one that is unknown."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from workbench.metrics import NS, spoilt
from workbench.types import StreamSession

DASH = "–"

LATE = "the event loop was so late that TTFT or speed may be wrong by more than 5 %"
"""What the mark of such an answer means."""

"""Shown for a figure that is not known (yet)."""


_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def escape(text: object) -> str:
    """Text that may stand in HTML, between tags and in attributes; all model words pass here."""
    return html.escape(str(text), quote=True)


def seconds(value: float | None) -> str:
    """A duration: ``8.3 ms``, ``61 ms``, ``1.23 s``, ``83.2 s``, ``12 min 04 s``."""
    if value is None:
        return DASH
    if value < 0.01:
        return f"{value * 1e3:.1f} ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 600:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def clock(value: float | None) -> str:
    """A running time in tenths of a second, so that it changes evenly while one watches."""
    if value is None:
        return DASH
    return f"{value:.1f} s" if value < 600 else seconds(value)


def rate(value: float | None) -> str:
    """Tokens per second."""
    if value is None:
        return DASH
    return f"{value:.1f} tok/s" if value < 9.95 else f"{value:,.0f} tok/s"


def size(value: float | None) -> str:
    """Bytes in decimal units: ``655 MB``, ``1.23 GB``."""
    if value is None:
        return DASH
    if value < 999.5e3:
        return f"{value / 1e3:.0f} kB"
    if value < 999.5e6:
        return f"{value / 1e6:.0f} MB"
    return f"{value / 1e9:.2f} GB" if value < 9.995e9 else f"{value / 1e9:.1f} GB"


def tokens(value: int | None, *, exact: bool) -> str:
    """A token count; ``~`` marks one that the runtime has not confirmed."""
    if value is None:
        return f"{DASH} tok"
    return f"{'' if exact else '~'}{value:,} tok"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things: ``1 model``, ``1,204 rows``.

    Args:
        number: how many.
        noun: what they are, in the singular.
        plural: the noun for several, where it is not the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def dtype(name: str | None) -> str | None:
    """A number format by its usual short name."""
    return _DTYPES.get(name, name) if name else None


def percent(part: float, whole: float | None) -> int:
    """A share in whole percent, within 0 to 100."""
    return round(100 * min(max(part / whole, 0.0), 1.0)) if whole else 0


def shorten(text: str, limit: int) -> str:
    """The first line's worth of a text: white space folded, cut with an ellipsis."""
    folded = " ".join(text[: limit * 4].split())
    return folded if len(folded) <= limit else f"{folded[: limit - 1].rstrip()}…"


def line(session: StreamSession) -> str:
    """A finished session in one line: ``ok · TTFT 61 ms · 26 tok/s · 48 tok · 655 MB``."""
    metrics = session.metrics
    parts = [
        session.status.value,
        f"TTFT {seconds(metrics.get('ttft_s'))}",
        rate(metrics.get("decode_tps")),
        tokens(session.output_tokens, exact=session.count_source == "runtime"),
        size(session.mem_peak_bytes),
    ]
    if session.cold:
        parts.append(f"load {seconds(metrics.get('load_s'))}")
    if session.overlap_ns:
        parts.append(f"contended {percent(session.overlap_ns / NS, metrics.get('e2e_s'))} %")
    if late := lateness({**metrics, **spoilt(session)}):
        parts.append(late)
    return " · ".join(parts)


def lateness(figures: Mapping[str, Any]) -> str:
    """In words, how late the event loop was; nothing where that spoils no figure.

    Args:
        figures: a row's ``ttft_late_s``, ``ttft_spoilt``, ``speed_late_s`` and ``speed_spoilt``.
    """
    names = (name for name in ("ttft", "speed") if figures[f"{name}_spoilt"])
    late_s = [figures[f"{name}_late_s"] for name in names]
    return f"late {seconds(max(late_s))}" if late_s else ""
