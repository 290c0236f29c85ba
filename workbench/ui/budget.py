"""The budget on the page: a bar of each device, who holds how much of it, who would leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from workbench import figures
from workbench.budget import HOST, Prediction
from workbench.figures import DASH, escape
from workbench.pressure import Alert

_STATUS_WORDS = {
    "loading": "loading",
    "leased": "answering",
    "idle": "idle",
    "leaving": "leaving",
}

_OVER_S: Final = 1.0
"""Less than this left is no time that could be told as one."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A model in memory as its line shows it. Bytes are by device."""

    model: str
    status: str
    held: Mapping[str, int]
    prediction: Prediction
    pinned: bool = False
    ours: bool = True
    shares_with: str | None = None
    """The model in whose runner it is, with whose bytes its own are counted."""
    expires_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """What loading the chosen model would need and do."""

    model: str
    prediction: Prediction
    evicts: tuple[str, ...] = ()
    waits: str | None = None
    """Why it would have to wait; None: it could be loaded at once."""
    problem: str | None = None
    """Why it could not be loaded at all."""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is drawn. Bytes are by device."""

    limit: Mapping[str, int]
    capacity: Mapping[str, int]
    holders: tuple[Holder, ...] = ()
    alerts: tuple[Alert, ...] = ()
    next: Next | None = None

    def held(self, device: str = HOST) -> int:
        """Bytes of all models on a device."""
        return sum(holder.held.get(device, 0) for holder in self.holders)


def render(picture: Picture) -> str:
    """The panel as HTML: alerts, a bar a device, a line a model, and what a load would do."""
    numbers = {holder.model: place for place, holder in enumerate(picture.holders, start=1)}
    bars = "".join(_bar(device, picture, numbers) for device in picture.capacity)
    return (
        f'<div class="wb-budget">{alerts(picture.alerts)}{bars}'
        f"{_lines(picture, numbers)}{_next(picture.next)}</div>"
    )


def alerts(several: Sequence[Alert]) -> str:
    """A line for each device whose memory is short."""
    return "".join(
        f'<div class="wb-alert" data-level="{alert.level}" role="status">'
        f"<strong>{escape(alert.sentence())}</strong> "
        "Idle models are evicted as needed; close other programs, or unload models.</div>"
        for alert in several
    )


def expected(prediction: Prediction) -> str:
    """What a model needs, with how far such predictions were off."""
    if not prediction.bytes:
        return DASH
    total = figures.size(sum(prediction.bytes.values()))
    if prediction.source == "files":
        return f"~{total}"
    off = f" ± {_share(prediction.error_share)}" if prediction.error_share is not None else ""
    return f"{total}{off}"


def explained(prediction: Prediction) -> str:
    """Where a prediction comes from, in a sentence."""
    if not prediction.bytes:
        return "Nothing is known of its memory."
    answering = figures.size(sum(prediction.answering.values()))
    if prediction.source == "files":
        where = "expected from its files and the form it is loaded in"
    else:
        where = f"the most of its last loads ({prediction.loads} known)"
    off = ""
    if prediction.error_share is not None:
        off = f"; such predictions were off by {_share(prediction.error_share)} on average"
    return f"At the peak of its load, {where}{off}. Afterwards {answering} at most."


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def _countdown(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _bar(device: str, picture: Picture, numbers: Mapping[str, int]) -> str:
    capacity, limit = picture.capacity[device], picture.limit.get(device, 0)
    held = picture.held(device)
    coming = picture.next
    need = coming.prediction.bytes.get(device, 0) if coming is not None else 0
    scale = max(capacity, held, 1)
    taken = max(capacity - limit, 0)
    leaving = set(coming.evicts) if coming is not None else set()
    parts = [
        _segment(holder, device, scale, numbers[holder.model], holder.model in leaving)
        for holder in picture.holders
        if holder.held.get(device)
    ]
    if need and coming is not None:
        width = max(min(need, scale - held - taken), 0) / scale
        stays = held - sum(h.held.get(device, 0) for h in picture.holders if h.model in leaving)
        fits = stays + need <= limit
        parts.append(
            f'<div class="wb-part" data-kind="next" data-fits="{str(fits).lower()}" '
            f'style="width:{100 * width:.2f}%" title="{escape(coming.model)} would take '
            f'{figures.size(need)}"><span>+ {figures.size(need)}</span></div>'
        )
    if taken > capacity / 200:
        parts.append(
            f'<div class="wb-part" data-kind="taken" style="width:{100 * taken / scale:.2f}%" '
            f'title="{figures.size(taken)} of the budget are held by other programs now; it comes '
            f'back when they give it back"><span>other programs</span>'
            '<span class="wb-brief">others</span></div>'
        )
    name = "Memory" if device == HOST else device
    lowered = f" (of {figures.size(capacity)}; other programs hold the rest)" if taken else ""
    return (
        f'<div class="wb-device" data-device="{escape(device)}" data-held="{held}" '
        f'data-limit="{limit}"><div class="wb-devicehead"><strong>{escape(name)}</strong>'
        f"<span>{figures.size(held) if held else 'nothing'} of {figures.size(limit)} for models"
        f"{lowered}</span></div>"
        f'<div class="wb-parts">{"".join(parts)}</div></div>'
    )


def _segment(holder: Holder, device: str, scale: int, number: int, leaves: bool) -> str:
    size = holder.held[device]
    words = f"{holder.model}: {figures.size(size)}, {_STATUS_WORDS.get(holder.status, '')}"
    if leaves:
        words += "; would leave for the chosen model"
    return (
        f'<div class="wb-part" data-kind="model" data-leaves="{str(leaves).lower()}" '
        f'data-provider="{escape(holder.model.partition("/")[0])}" '
        f'style="width:{100 * size / scale:.2f}%" title="{escape(words)}">'
        f"<b>{number}</b><span>{figures.size(size)}</span></div>"
    )


def _lines(picture: Picture, numbers: Mapping[str, int]) -> str:
    if not picture.holders:
        return (
            '<div class="wb-nothing">No model is in memory. The first message to one loads it, or '
            "choose one below and press Load.</div>"
        )
    leaving = set(picture.next.evicts) if picture.next is not None else set()
    rows = "".join(
        _line(
            holder,
            numbers,
            not leaving.isdisjoint({holder.model, holder.shares_with}),
        )
        for holder in picture.holders
    )
    return (
        '<table class="wb-holders"><thead><tr><th></th><th>in memory</th>'
        '<th title="measured: the pages of its own processes, shared ones by share (PSS), '
        'and GPU memory">measured</th>'
        '<th title="the most it takes while it loads, and how far such predictions were off">'
        "predicted peak</th><th>state</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _line(holder: Holder, numbers: Mapping[str, int], leaves: bool) -> str:
    number = numbers[holder.model]
    total = sum(holder.held.values())
    measured = figures.size(total) if holder.held else DASH
    if holder.shares_with is not None:
        other = f" with {numbers[holder.shares_with]}" if holder.shares_with in numbers else ""
        measured = (
            f'<span title="in the runner of {escape(holder.shares_with)}">shared{other}</span>'
        )
    states = [_STATUS_WORDS.get(holder.status, holder.status)]
    if holder.pinned:
        states.append("pinned")
    elif holder.expires_in_s is not None and holder.expires_in_s < _OVER_S:
        # Its runtime keeps its own time, or none.
        states.append("its keep_alive has passed")
    elif holder.expires_in_s is not None:
        states.append(f"unloads in {_countdown(holder.expires_in_s)}")
    if not holder.ours:
        states.append("loaded by another program")
    if leaves:
        states.append("would leave")
    return (
        f'<tr data-model="{escape(holder.model)}" data-status="{escape(holder.status)}" '
        f'data-held="{total}" data-leaves="{str(leaves).lower()}">'
        f'<td><b class="wb-number" data-provider="{escape(holder.model.partition("/")[0])}">'
        f"{number}</b></td><td>{escape(holder.model)}</td><td>{measured}</td>"
        f'<td title="{escape(explained(holder.prediction))}">{expected(holder.prediction)}</td>'
        f"<td>{escape(' · '.join(states))}</td></tr>"
    )


def _next(coming: Next | None) -> str:
    if coming is None:
        return ""
    model = f"<strong>{escape(coming.model)}</strong>"
    need = expected(coming.prediction)
    if coming.problem is not None:
        verdict, kind = escape(coming.problem), "no"
    elif coming.waits is not None:
        verdict, kind = f"it would have to wait: {escape(coming.waits)}.", "waits"
    elif coming.evicts:
        gone = ", ".join(escape(other) for other in coming.evicts)
        verdict, kind = f"it would take the place of {gone}.", "evicts"
    else:
        verdict, kind = "it fits beside what is in memory.", "fits"
    needs = f"needs {need}" if coming.prediction.bytes else "needs an unknown amount"
    return (
        f'<div class="wb-next" data-verdict="{kind}" '
        f'title="{escape(explained(coming.prediction))}">'
        f"{model} {needs}: {verdict}</div>"
    )
