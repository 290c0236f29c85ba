"""One session of the log: what was asked and answered, every figure, its tokens and its memory."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import gradio as gr

from workbench import analysis, figures
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.metrics import DEFINITIONS
from workbench.setups import different, line
from workbench.store import Store
from workbench.store.records import session
from workbench.types import Options
from workbench.ui import notices
from workbench.ui.markup import html

SHOWN_CHARS: Final = 20_000
"""Of a longer text the page shows this much; exports have all of it."""

_SECONDS: Final = (
    *("wall_s", "queue_s", "load_s", "retry_s", "ttft_s", "ttfo_s", "tpot_s", "itl_p50_s"),
    *("e2e_s", "overlap_s", "ttft_late_s", "speed_late_s"),
)
_RATES: Final = ("decode_tps", "output_tps", "chars_per_s")
_BYTES: Final = ("mem_peak_bytes", "mem_delta_bytes", "gpu_peak_bytes")
_IDS: Final = ("session_id", "comparison_id", "conversation_id", "correlation_id", "run_id")


class Detail:
    """Builds it at the current place; empty until a session is chosen."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._said = html("", elem_id="history-chosen")
        self._gaps = gr.Plot(show_label=False, elem_id="history-gaps", visible=False)
        self._memory = gr.Plot(show_label=False, elem_id="history-memory", visible=False)

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`of` and :meth:`none` speak of."""
        return [self._said, self._gaps, self._memory]

    def none(self) -> list[Any]:
        """Nothing is chosen."""
        hidden = gr.update(value=None, visible=False)
        return [nothing(), hidden, hidden]

    async def of(self, session_id: str) -> list[Any]:
        """A session, drawn in a thread, beside the streams."""

        def draw() -> list[Any]:
            store = self._engine.store
            words = render(session(store, session_id), system_prompt(store, session_id))
            gaps = analysis.token_gaps(store.query, session_id)
            memory = analysis.memory_timeline(store.query, session_id)
            phases = analysis.phase_spans(store.query, session_id)
            plots = [analysis.plot_gaps(gaps), analysis.plot_memory(memory, phases)]
            return [words, *(gr.update(value=plot, visible=True) for plot in plots)]

        try:
            return await asyncio.to_thread(draw)
        except WorkbenchError as problem:
            return [notices.error_card(problem), *self.none()[1:]]


def nothing() -> str:
    """What stands where a session would."""
    return (
        '<div class="wb-empty"><span>Choose a session to see what was said, its figures, its '
        "tokens and its memory.</span></div>"
    )


def system_prompt(store: Store, session_id: str) -> str:
    """The system prompt of a session's conversation."""
    rows = store.rows(
        "SELECT content FROM messages WHERE role = 'system' AND conversation_id = "
        "(SELECT conversation_id FROM stream_sessions WHERE session_id = $id) "
        "ORDER BY created_at LIMIT 1",
        {"id": session_id},
    )
    return str(rows[0]["content"]) if rows else ""


def render(one: Mapping[str, Any], system: str = "") -> str:
    """A session as HTML.

    Args:
        one: what :func:`workbench.store.records.session` gave.
        system: prompt that stood before the conversation.
    """
    at = dt.datetime.fromisoformat(one["created_at"]).astimezone(dt.UTC)
    options = line(different(Options.from_mapping(one["options"]))) or "as by default"
    head = (
        f'<div class="wb-chosenhead"><strong>{escape(one["model"])}</strong>'
        f"<span>{at:%Y-%m-%d %H:%M:%S} UTC · {escape(one['status'])} · "
        f"{escape(one['timing_mode'])} · from {escape(one['source'])} · "
        f"options {escape(options)} · seed {escape(one['seed'])}</span></div>"
    )
    failed = ""
    if one["error_code"]:
        failed = (
            f'<div class="wb-notice" data-kind="error"><span class="wb-code">'
            f"{escape(one['error_code'])}</span> {escape(one['error_message'] or '')}</div>"
        )
    said = "".join(
        _said(name, text)
        for name, text in (
            ("system", system),
            ("question", one["prompt"] or ""),
            ("thinking", one["reasoning"] or ""),
            ("answer", one["text"] or ""),
        )
        if text
    )
    return (
        f'<div class="wb-chosen" data-session="{escape(one["session_id"])}">{head}{failed}'
        f"{said}{_figures(one)}{_ids(one)}</div>"
    )


def _said(name: str, text: str) -> str:
    rest = len(text) - SHOWN_CHARS
    more = f'<div class="wb-more">… {rest:,} more characters</div>' if rest > 0 else ""
    body = f'<div class="wb-text" tabindex="0">{escape(text[:SHOWN_CHARS])}{more}</div>'
    if name in ("thinking", "system"):
        return f"<details><summary>{name}</summary>{body}</details>"
    return f'<div class="wb-label">{name}</div>{body}'


def _figures(one: Mapping[str, Any]) -> str:
    shown: dict[str, str] = {
        **{name: figures.seconds(one[name]) for name in _SECONDS},
        **{name: figures.rate(one[name]) for name in _RATES},
        **{name: figures.size(one[name]) for name in _BYTES},
    }
    shown["chars_per_s"] = shown["chars_per_s"].replace("tok/s", "chars/s")
    exact = one["count_source"] == "runtime"
    shown["output_tokens"] = figures.tokens(one["output_tokens"], exact=exact)
    shown["prompt_tokens"] = figures.tokens(one["prompt_tokens"], exact=True)
    cells = "".join(
        f'<div title="{escape(DEFINITIONS.get(name, name))}"><span>{name}</span>'
        f"<b>{escape(value)}</b></div>"
        for name, value in shown.items()
        if one[name] is not None
    )
    return f'<div class="wb-figures">{cells}</div>'


def _ids(one: Mapping[str, Any]) -> str:
    known = [str(one[name]) for name in _IDS if one.get(name)]
    form = " · ".join(
        str(one[name]) for name in ("dtype", "quantization", "device", "digest") if one.get(name)
    )
    return (
        f'<div class="wb-ids">{escape(form)}<br>'
        f"{' '.join(f'<code>{escape(name)}</code>' for name in known)}</div>"
    )
