"""The arena's leaderboard: a sentence, the intervals, the table."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import gradio as gr
import pandas as pd

from workbench import analysis, figures
from workbench.analysis import ARENA_LEADERBOARD
from workbench.analysis.frames import rows_of
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import DASH, escape
from workbench.ui import notices
from workbench.ui.markup import html

_MEANINGS: Final = {name: column.meaning for name, column in ARENA_LEADERBOARD.items()}
COLUMNS: Final = (
    ("place", "within the group, and the places that the votes allow"),
    ("model", _MEANINGS["model"]),
    ("rating", _MEANINGS["rating"]),
    ("95 % interval", "of the rating"),
    ("votes", _MEANINGS["votes"]),
    ("won", _MEANINGS["wins"]),
    ("lost", _MEANINGS["losses"]),
    ("tied", _MEANINGS["ties"]),
    ("of these both bad", _MEANINGS["both_bad"]),
    ("ahead of the next", f"{_MEANINGS['lead']}, with the {_MEANINGS['lead_p']}"),
    ("votes still needed", _MEANINGS["votes_needed"]),
)
"""Heads with their meanings."""

_QUERY_S: Final = 10.0


class Ranking:
    """Builds it at the current place.

    Args:
        engine: has the log.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with gr.Column(elem_id="arena-ranking"):
            self._finding = html("", elem_id="arena-finding", elem_classes=["wb-notices"])
            self._plot = gr.Plot(show_label=False, visible=False, elem_id="arena-plot")
            self._table = html("", elem_id="arena-table")
        self.outputs = [self._finding, self._plot, self._table]

    async def refresh(self) -> list[Any]:
        """The votes counted anew, in a thread beside the streams."""

        def count() -> tuple[pd.DataFrame, Any]:
            def read(sql: str, params: Any = None, /) -> pd.DataFrame:
                return self._engine.store.query(sql, params, timeout_s=_QUERY_S)

            found = analysis.arena_leaderboard(read)
            return found, analysis.plot_arena_leaderboard(found) if len(found) else None

        try:
            found, plot = await asyncio.to_thread(count)
        except WorkbenchError as problem:
            return [notices.error_card(problem), gr.skip(), gr.skip()]
        some = len(found) > 0
        return [
            finding(found),
            gr.update(value=plot, visible=some),
            table(found) if some else "",
        ]


def finding(found: pd.DataFrame) -> str:
    """What the votes say, in a sentence."""
    if found.empty:
        return (
            '<div class="wb-empty"><strong>No vote yet</strong><span>Each vote of the arena counts '
            "here: ratings with their intervals, and how many votes are still needed to tell two "
            "models apart.</span></div>"
        )
    first, second = list(rows_of(found))[:2]
    votes = int(found["votes"].sum() / 2)
    many = figures.count(votes, "vote")
    if len(found) > 2:
        many += f" over all {len(found)} models"
    best, next_one = escape(first.model), escape(second.model)
    if pd.isna(first.votes_needed):
        words = f"<strong>{best} and {next_one} are as good as equal</strong>: {many} so far."
    elif first.votes_needed == 0:
        words = (
            f"<strong>{best} is preferred to {next_one}</strong> by {first.lead:.0f} points "
            f"(p = {first.lead_p:.2g}): {many} so far."
        )
    else:
        words = (
            f"<strong>{best} is ahead of {next_one}, but not surely</strong>: {many} so far; about "
            f"{first.votes_needed:,} more over these two would show it, if it is as it seems."
        )
    if found["group"].nunique() > 1:
        words += " Groups of models were never compared with each other: each has its own zero."
    return f'<div class="wb-notice" data-kind="note">{words}</div>'


def table(found: pd.DataFrame) -> str:
    """The leaderboard as HTML."""
    heads = "".join(f'<th title="{escape(title)}">{escape(name)}</th>' for name, title in COLUMNS)
    rows = "".join(_row(row) for row in rows_of(found))
    return f'<table class="wb-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _row(row: Any) -> str:
    place = str(row.rank)
    if row.rank_low != row.rank_high:
        place = f"{row.rank} <small>({row.rank_low} to {row.rank_high})</small>"
    needed, lead = DASH, DASH
    if not pd.isna(row.lead):
        lead = f"{row.lead:.0f}, p = {row.lead_p:.2g}"
        needed = "over 100,000" if pd.isna(row.votes_needed) else f"{row.votes_needed:,}"
    cells = (
        place,
        escape(row.model),
        f"{row.rating:+.0f}",
        f"{row.rating_low:+.0f} to {row.rating_high:+.0f}",
        *(f"{value:,}" for value in (row.votes, row.wins, row.losses, row.ties, row.both_bad)),
        lead,
        needed,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
