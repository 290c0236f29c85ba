"""What of the server works, as HTML: a line a part, with reason, fix and when it last was well."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from workbench import figures
from workbench.doctor.findings import Finding
from workbench.figures import DASH, escape
from workbench.observe.health import Health, Part
from workbench.pressure import Alert

_NAMES = {"event_loop": "event loop", "store": "log"}
_WHOLE = {
    "ok": "Everything is well.",
    "degraded": "Something is missing; the rest works.",
    "down": "No model can be served.",
}
_ORDER = {"bad": 0, "note": 1, "ok": 2}


def render(health: Health) -> str:
    """The whole in a sentence, and its parts."""
    lines = "".join(_line(name, part) for name, part in health.parts.items())
    return (
        f'<div class="wb-health" data-status="{health.state}"><div class="wb-whole">'
        f"{_state(health.state)}<span>{_WHOLE[health.state]}</span></div>"
        '<table class="wb-parts-table"><thead><tr><th>part</th><th>state</th><th>last well</th>'
        f"<th>figures, or what is wrong</th></tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _line(name: str, part: Part) -> str:
    told = " · ".join(_figure(key, value) for key, value in part.figures.items() if value)
    wrong = ""
    if part.reason:
        fix = f'<div class="wb-fix">{escape(part.fix)}</div>' if part.fix else ""
        reason = part.reason.removesuffix(part.fix or "")
        wrong = f"<div>{escape(reason)}</div>{fix}"
    return (
        f'<tr data-part="{escape(name)}" data-status="{part.state}">'
        f"<th scope=row>{escape(_NAMES.get(name, name))}</th><td>{_state(part.state)}</td>"
        f"<td>{_last_well(part)}</td>"
        f'<td>{wrong}<span class="wb-dim">{told}</span></td></tr>'
    )


def _state(state: str) -> str:
    return f'<span class="wb-state" data-status="{escape(state)}"><i></i>{escape(state)}</span>'


def _last_well(part: Part) -> str:
    if part.last_good_at is None:
        return "not since the start"
    if part.state == "ok" and (part.last_good_age_s or 0) < 10:
        return "now"
    age = figures.seconds(part.last_good_age_s) if part.last_good_age_s else ""
    return f'<span title="{part.last_good_at:%Y-%m-%d %H:%M:%S} UTC">{age} ago</span>'


def _figure(name: str, value: Any) -> str:
    words = name
    for ending, shown in (("_bytes", figures.size), ("_s", figures.seconds)):
        if name.endswith(ending) and isinstance(value, int | float):
            words, value = name.removesuffix(ending), shown(value)
    return f"{escape(words.replace('_', ' '))} {escape(value)}"


def alerts(now: Sequence[Alert], events: Sequence[Mapping[str, Any]]) -> str:
    """The alerts that stand, and those of the log.

    Args:
        now: devices whose memory is short.
        events: rows of ``model_events`` of what went wrong, the newest first.
    """
    standing = "".join(
        f'<div class="wb-alert" data-level="{alert.level}" role="status">'
        f"<strong>{escape(alert.sentence())}</strong></div>"
        for alert in now
    )
    past = "".join(
        f'<tr data-event="{escape(row["event"])}"><td>{_when(row["created_at"])}</td>'
        f"<td>{escape(row['event'])}</td><td>{escape(row['model'] or DASH)}</td>"
        f"<td>{escape(figures.shorten(row['reason'] or '', 300))}</td></tr>"
        for row in events
    )
    if not standing and not past:
        return '<div class="wb-nothing">No alert stands, and the log has none.</div>'
    standing = standing or '<div class="wb-nothing">No alert stands now. Of before:</div>'
    if not past:
        return standing
    return (
        f'{standing}<table class="wb-parts-table"><thead><tr><th>time</th><th>what</th>'
        f"<th>model</th><th>because</th></tr></thead><tbody>{past}</tbody></table>"
    )


def _when(moment: Any) -> str:
    if isinstance(moment, dt.datetime):
        return f"{moment.astimezone(dt.UTC):%m-%d %H:%M:%S}"
    return escape(moment)


def findings(found: Sequence[Finding], at: dt.datetime) -> str:
    """What the doctor says, the worst first."""
    rows = "".join(
        f'<tr data-status="{one.status}"><th scope=row>{escape(one.part)}</th>'
        f"<td>{_state(one.status)}</td><td>{escape(one.message)}"
        f"{f'<div class=wb-fix>{escape(one.fix)}</div>' if one.fix else ''}</td></tr>"
        for one in sorted(found, key=lambda one: _ORDER[one.status])
    )
    counts = {state: sum(one.status == state for one in found) for state in _ORDER}
    words = f"{counts['bad']} bad, {counts['note']} to note, {counts['ok']} well"
    return (
        f'<div class="wb-hint" data-bad="{counts["bad"]}">{words}, looked at {at:%H:%M:%S} UTC'
        f'</div><table class="wb-parts-table"><tbody>{rows}</tbody></table>'
    )


def lines(found: Sequence[Mapping[str, Any]], wanted: str, kept: int) -> str:
    """Lines of the server's log.

    Args:
        found: the lines, the oldest first.
        wanted: what was looked for.
        kept: lines that are kept at most.
    """
    if not kept:
        return '<div class="wb-nothing">No lines are kept (WORKBENCH_LOG_LINES is 0).</div>'
    if not found and not wanted:
        return '<div class="wb-nothing">The server has had nothing to say yet.</div>'
    if not found:
        return (
            f'<div class="wb-nothing">None of the last {kept:,} lines holds {escape(wanted)}. '
            "Older ones are where stderr of the server goes.</div>"
        )
    rows = "".join(_log_line(line) for line in found)
    return (
        f'<table class="wb-parts-table wb-lines" data-lines="{len(found)}"><thead><tr>'
        f"<th>time</th><th>level</th><th>event</th><th>more</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _log_line(line: Mapping[str, Any]) -> str:
    shown = ("timestamp", "level", "event")
    more = " ".join(
        f"{name}={value if isinstance(value, str) else repr(value)}"
        for name, value in line.items()
        if name not in shown and value is not None
    )
    at = str(line.get("timestamp", ""))[11:23]
    level = str(line.get("level", ""))
    return (
        f'<tr data-level="{escape(level)}"><td>{escape(at)}</td><td>{escape(level)}</td>'
        f"<td>{escape(line.get('event', ''))}</td><td>{escape(more)}</td></tr>"
    )
