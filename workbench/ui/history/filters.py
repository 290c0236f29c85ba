"""The fields of the History tab that say which sessions are wanted."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gradio as gr

from workbench.errors import invalid
from workbench.store.search import Wanted

PERIODS: Final = {
    "any time": None,
    "last hour": dt.timedelta(hours=1),
    "last 24 hours": dt.timedelta(days=1),
    "last 7 days": dt.timedelta(days=7),
    "last 30 days": dt.timedelta(days=30),
}

_LISTS: Final = (
    # column, what it says when nothing is chosen
    ("model", "any model"),
    ("provider", "any provider"),
    ("status", "any status"),
    ("timing_mode", "any mode"),
    ("source", "any source"),
    ("run_id", "any run"),
)
_RANGE: Final = re.compile(r"\s*\.\.\s*")
_FIX: Final = "Write 2026-01-31, or 2026-01-01..2026-02-01 12:30 (UTC)."


class Filters:
    """Builds the fields at the current place."""

    def __init__(self) -> None:
        with gr.Row(elem_classes=["wb-tools", "wb-filters"]):
            self.words = gr.Textbox(
                placeholder='Words of question or answer, "a phrase", or an id (ses_…, cmp_…, '
                "cor_…)",
                show_label=False,
                label="Words to look for",
                container=False,
                lines=1,
                max_lines=1,
                elem_id="history-words",
                scale=1,
                min_width=220,
            )
            self.search = gr.Button(
                "Search", size="sm", elem_id="history-search", scale=0, min_width=70
            )
        with gr.Row(elem_classes=["wb-tools", "wb-filters"]):
            self._lists = {
                name: gr.Dropdown(
                    choices=[(anything, "")],
                    value="",
                    show_label=False,
                    label=anything.removeprefix("any ").capitalize(),
                    container=False,
                    elem_id=f"history-{name.replace('_', '-')}",
                    elem_classes=["wb-filter"],
                    scale=1,
                    min_width=120,
                )
                for name, anything in _LISTS
            }
            self._period = gr.Dropdown(
                choices=[*PERIODS],
                value="any time",
                allow_custom_value=True,
                show_label=False,
                label="Time",
                container=False,
                elem_id="history-period",
                elem_classes=["wb-filter"],
                scale=1,
                min_width=120,
            )

    @property
    def lists(self) -> list[Any]:
        """The fields that :meth:`choices` fills."""
        return [*self._lists.values()]

    @property
    def inputs(self) -> list[Any]:
        """What :func:`read` takes, in its order."""
        return [self.words, self._period, *self._lists.values()]

    @property
    def changes(self) -> list[Any]:
        """The events by which another list is wanted at once."""
        return [field.input for field in (*self._lists.values(), self._period)]

    @property
    def asked(self) -> list[Any]:
        """Those by which words are looked for."""
        return [self.search.click, self.words.submit]

    def choices(
        self, facets: Mapping[str, Sequence[str]], runs: Sequence[tuple[str, str]]
    ) -> list[Any]:
        """What there is to choose from, in the order of :attr:`lists`.

        Args:
            facets: values by column.
            runs: words and id of the newest benchmark runs.
        """
        return [
            gr.update(
                choices=[
                    (anything, ""),
                    *(runs if name == "run_id" else [(one, one) for one in facets[name]]),
                ]
            )
            for name, anything in _LISTS
        ]


def read(words: str | None, period: str | None, *chosen: str | None) -> Wanted:
    """The fields as values.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for a time that is none.
    """
    since, until = span(period or "", dt.datetime.now(dt.UTC))
    names = [name for name, _ in _LISTS]
    return Wanted(dict(zip(names, chosen, strict=True)), words or "", since, until)


def is_narrow(words: str | None, period: str | None, *chosen: str | None) -> bool:
    """Whether anything is asked for but everything."""
    return bool((words or "").strip() or any(chosen) or (period or "any time") != "any time")


def span(text: str, now: dt.datetime) -> tuple[dt.datetime | None, dt.datetime | None]:
    """The time that is meant: from when, and before when.

    Args:
        text: one of :data:`PERIODS`, a day, a moment (since then), or two with ``..`` between.
        now: the present.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, naming the forms.
    """
    text = text.strip()
    if text in PERIODS or not text:
        back = PERIODS.get(text)
        return (now - back if back else None), None
    first, *rest = _RANGE.split(text, maxsplit=1)
    since = _moment(first) if first else None
    if rest:
        return since, (_end(rest[0]) if rest[0] else None)
    return since, (_end(first) if _is_day(first) else None)


def _is_day(text: str) -> bool:
    return len(text.strip()) == len("2026-01-31")


def _end(text: str) -> dt.datetime:
    """A moment, or the end of a day."""
    return _moment(text) + (dt.timedelta(days=1) if _is_day(text) else dt.timedelta())


def _moment(text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise invalid(f"{text[:40]!r} is no time.", fix=_FIX) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
