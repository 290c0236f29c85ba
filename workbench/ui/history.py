"""The History tab: the latest stream sessions from the log, and two plots of them."""

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
    l.timing_mode, l.contended, l.overlap_s, l.e2e_s, l.ttft_s, l.decode_tps, l.output_tokens,
    l.count_source, l.fallback_from, coalesce(left(asked.prompt, 400), '') AS prompt
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
                self._gaps = gr.Plot(show_label=False, elem_id="history-gaps")
        self._found = gr.State(())
        """``tuple[str, ...]``: the session ids of the rows, in their order."""
        self.inputs = [self._filter]
        self.outputs = [self._table, self._notice, self._ttft, self._gaps, self._found]
        again.click(self.refresh, self.inputs, self.outputs, **self.SILENT)
        self._filter.change(
            self.refresh, self.inputs, self.outputs, trigger_mode="always_last", **self.SILENT
        )
        self._table.select(self._picked, self._found, self._gaps, **self.SILENT)

    async def refresh(self, wanted: str | None) -> Any:
        """Read the log anew."""
        try:
            sessions = await self._query(_SESSIONS, {"rows": ROWS})
            found = matching(sessions, wanted or "")
            gaps = await self._gap_plot(found["session_id"].iloc[0]) if len(found) else None
        except WorkbenchError as problem:
            return gr.skip(), notices.error_card(problem), gr.skip(), gr.skip(), gr.skip()
        timed = bool(len(found)) and bool(found["ttft_s"].notna().any())
        return (
            gr.update(value=table(found), visible=len(found) > 0),
            summary(len(sessions), len(found)),
            gr.update(value=analysis.plot_ttft(found) if timed else None, visible=timed),
            gr.update(value=gaps, visible=gaps is not None),
            tuple(found["session_id"]) if len(found) else (),
        )

    async def _picked(self, found: tuple[str, ...], event: gr.SelectData) -> Any:
        """The gaps of the comparison that the chosen row belongs to."""
        row = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        if row >= len(found):
            return gr.skip()
        try:
            return gr.update(value=await self._gap_plot(found[row]), visible=True)
        except WorkbenchError:
            return gr.skip()

    async def _gap_plot(self, session_id: str) -> Any:
        gaps = await asyncio.to_thread(analysis.token_gaps, self._engine.store.query, session_id)
        return analysis.plot_gaps(gaps) if gaps["gap_s"].notna().any() else None

    async def _query(self, sql: str, params: dict[str, Any]) -> pd.DataFrame:
        return await asyncio.to_thread(self._engine.store.query, sql, params, timeout_s=_QUERY_S)


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
    return notices.note(f"{words}; a click on a row shows its token gaps.")
