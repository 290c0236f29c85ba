"""The History tab: the latest stream sessions, their latencies, and a chosen one in detail."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from typing import Any, Final

import gradio as gr
import pandas as pd

from workbench import analysis, figures
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.ui import notices
from workbench.ui.markup import html

ROWS: Final = 200
"""The newest sessions that the tab shows."""

# The question is found by its time too: a log is in order of time, so little of it is read.
_SESSIONS: Final = """
WITH latest AS (SELECT * FROM latencies ORDER BY created_at DESC LIMIT $rows)
SELECT l.session_id, l.comparison_id, l.created_at, l.model, l.provider, l.status, l.error_code,
    l.timing_mode, l.contended, l.overlap_s, l.e2e_s, l.ttft_s, l.tpot_s, l.decode_tps,
    l.output_tokens, l.count_source, l.fallback_from,
    coalesce(left(asked.prompt, 400), '') AS prompt
FROM latest l
LEFT JOIN session_prompts asked USING (session_id, created_at)
ORDER BY l.created_at DESC
"""

COLUMNS: Final = (
    "time",
    "model",
    "prompt",
    "TTFT",
    "tok/s",
    "tokens",
    "status",
    "mode",
    "contended",
)

_QUERY_S: Final = 10.0


class HistoryTab:
    """Builds the tab at the current place."""

    SILENT: Final[dict[str, Any]] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_limit": None,
    }

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with gr.Column(elem_id="history"):
            with gr.Row(elem_classes=["wb-tools"]):
                self._filter = gr.Textbox(
                    placeholder="Filter by model, words of the prompt, status or mode",
                    show_label=False,
                    label="Filter",
                    container=False,
                    lines=1,
                    max_lines=1,
                    elem_id="history-filter",
                    scale=1,
                )
                again = gr.Button(
                    "Refresh", size="sm", elem_id="history-refresh", scale=0, min_width=80
                )
            self._notice = html("", elem_id="history-notice", elem_classes=["wb-notices"])
            self._table = gr.Dataframe(
                value=table(pd.DataFrame()),
                interactive=False,
                show_label=False,
                elem_id="history-table",
                max_height=360,
                column_widths=["11%", "24%", "24%", "7%", "8%", "7%", "7%", "7%", "5%"],
            )
            with gr.Row(elem_classes=["wb-plots"]):
                self._ttft = gr.Plot(show_label=False, elem_id="history-ttft")
                self._tpot = gr.Plot(show_label=False, elem_id="history-tpot")
            self._chosen = html("", elem_id="history-chosen", elem_classes=["wb-notices"])
            with gr.Row(elem_classes=["wb-plots"]):
                self._gaps = gr.Plot(show_label=False, elem_id="history-gaps")
                self._memory = gr.Plot(show_label=False, elem_id="history-memory")
        self._found = gr.State(())
        """``tuple[tuple[str, str], ...]``: session id and name of each row, in their order."""
        details = [self._chosen, self._gaps, self._memory]
        self.inputs = [self._filter]
        self.outputs = [self._table, self._notice, self._ttft, self._tpot, *details, self._found]
        again.click(self.refresh, self.inputs, self.outputs, **self.SILENT)
        self._filter.change(
            self.refresh, self.inputs, self.outputs, trigger_mode="always_last", **self.SILENT
        )
        self._table.select(self._picked, self._found, details, **self.SILENT)

    async def refresh(self, wanted: str | None) -> Any:
        """Read the log anew."""
        try:
            sessions = await self._query(_SESSIONS, {"rows": ROWS})
            found = matching(sessions, wanted or "")
            rows = named(found)
            details = await self._details(*rows[0]) if rows else _hidden(3)
        except WorkbenchError as problem:
            skipped = [gr.skip() for _ in self.outputs]
            return skipped[0], notices.error_card(problem), *skipped[2:]
        return (
            gr.update(value=table(found), visible=len(found) > 0),
            summary(len(sessions), len(found)),
            *(await asyncio.to_thread(_distributions, found) if rows else _hidden(2)),
            *details,
            rows,
        )

    async def _picked(self, found: tuple[tuple[str, str], ...], event: gr.SelectData) -> Any:
        """The session of the chosen row, and those that it was compared with."""
        row = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        if row >= len(found):
            return [gr.skip()] * 3
        try:
            return await self._details(*found[row])
        except WorkbenchError as problem:
            return [notices.error_card(problem), gr.skip(), gr.skip()]

    async def _details(self, session_id: str, name: str) -> list[Any]:
        """A session's heading, token gaps and memory; made in a thread, beside the streams."""

        def draw() -> list[Any]:
            read = self._engine.store.query
            gaps = analysis.token_gaps(read, session_id)
            memory = analysis.memory_timeline(read, session_id)
            phases = analysis.phase_spans(read, session_id)
            return [analysis.plot_gaps(gaps), analysis.plot_memory(memory, phases)]

        figures_of = await asyncio.to_thread(draw)
        return [notices.note(name), *(gr.update(value=one, visible=True) for one in figures_of)]

    async def _query(self, sql: str, params: dict[str, Any]) -> pd.DataFrame:
        return await asyncio.to_thread(self._engine.store.query, sql, params, timeout_s=_QUERY_S)


def _hidden(count: int) -> list[Any]:
    return [gr.update(value=None, visible=False) for _ in range(count)]


def _distributions(sessions: pd.DataFrame) -> list[Any]:
    """The latencies of what is shown, one plot each."""
    made = (
        analysis.plot_ttft(sessions),
        analysis.plot_distribution(sessions, "tpot_s", "time per output token"),
    )
    return [gr.update(value=figure, visible=True) for figure in made]


def named(sessions: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Id and words for the heading of each session."""
    return tuple(
        (
            str(row.session_id),
            f"{row.model}, {pd.Timestamp(str(row.created_at)).strftime('%m-%d %H:%M:%S')}"
            + (", with those it was compared with" if isinstance(row.comparison_id, str) else ""),
        )
        for row in sessions.itertuples()
    )


def matching(sessions: pd.DataFrame, wanted: str) -> pd.DataFrame:
    """The sessions that hold every word of the filter in model, prompt, status or mode."""
    words = wanted.lower().split()
    if not words or sessions.empty:
        return sessions
    fields = sessions[["model", "prompt", "status", "timing_mode"]].fillna("").astype(str)
    text = fields.agg(" ".join, axis=1).str.lower()
    kept = text.map(lambda line: all(word in line for word in words))
    return sessions[kept]


def table(sessions: pd.DataFrame) -> pd.DataFrame:
    """The rows as shown, newest first."""
    rows = [_row(record) for record in sessions.astype(object).to_dict("records")]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _row(record: Mapping[Hashable, Any]) -> tuple[str, ...]:
    known: dict[Hashable, Any] = {
        name: None if pd.isna(value) else value for name, value in record.items()
    }
    model = str(known["model"])
    if known["fallback_from"]:
        model += f" (for {known['fallback_from']})"
    contended = ""
    if known["contended"]:
        contended = f"{figures.percent(known['overlap_s'] or 0.0, known['e2e_s'])} %"
    count = known["output_tokens"]
    exact = known["count_source"] == "runtime"
    return (
        pd.Timestamp(record["created_at"]).strftime("%m-%d %H:%M:%S"),
        model,
        figures.shorten(known["prompt"] or "", 80),
        figures.seconds(known["ttft_s"]),
        figures.rate(known["decode_tps"]),
        figures.tokens(None if count is None else int(count), exact=exact),
        " ".join(str(part) for part in (known["status"], known["error_code"]) if part),
        str(known["timing_mode"]),
        contended,
    )


def summary(total: int, found: int) -> str:
    """What the table holds, or why it is empty."""
    if not total:
        return (
            '<div class="wb-empty"><strong>Nothing was logged yet</strong>'
            "<span>Every answer becomes a row here, whichever way it was asked for: this page, a "
            "notebook, the command line or the API.</span></div>"
        )
    words = f"the {found} newest sessions" if found == total else f"{found} of {total} sessions"
    return notices.note(f"{words}; a click on a row shows its tokens and its memory below.")
