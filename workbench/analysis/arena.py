"""Which models people prefer when they do not know them: the leaderboard of the votes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from workbench.analysis.bradley_terry import Ballot, Strengths, connected, fit
from workbench.analysis.drawing import OTHER, PROVIDERS, empty, short, styled, whiskers
from workbench.analysis.frames import Columns, Read, real, rows_of, text, typed, whole
from workbench.analysis.statistics import LEVEL, holm

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ARENA_LEADERBOARD: Final[Columns] = {
    "group": whole("models of two groups were never compared, not through others either"),
    "rank": whole("place within the group"),
    "rank_low": whole("the best place that the votes allow"),
    "rank_high": whole("the worst place that the votes allow"),
    "model": text("model id"),
    "rating": real("points: 0 is the mean of the group, 100 more are preferred in 64 % of votes"),
    "rating_low": real("lower end of its 95 % interval"),
    "rating_high": real("upper end of its 95 % interval"),
    "votes": whole("votes over an answer of the model"),
    "wins": whole("its answer was the better one"),
    "losses": whole("the other one was"),
    "ties": whole("both were as good, or both bad"),
    "both_bad": whole("of the ties, those where both were bad"),
    "prompts": whole("different prompts among its votes"),
    "lead": real("points ahead of the next model below"),
    "lead_p": real("p of no such lead"),
    "votes_needed": whole(
        "further votes over these two that would show the lead, if it is real; 0: shown already; "
        "null: more than 100,000, or there is no next model"
    ),
}

POINTS: Final = 400 / 2.302585092994046  # 400 / ln 10
"""Points a unit of log-odds: the scale that chess made known."""

_SHARES: Final = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}

# A prompt that is no longer in the log is known by its comparison.
_VOTES: Final = """
WITH asked AS (
    SELECT session_id, hash(min(prompt_untagged))::VARCHAR AS prompt FROM session_prompts
    WHERE session_id IN (SELECT session_a FROM votes) GROUP BY session_id
)
SELECT v.model_a, v.model_b, v.winner, coalesce(asked.prompt, v.comparison_id, v.vote_id) AS prompt
FROM votes v LEFT JOIN asked ON asked.session_id = v.session_a
WHERE v.model_a <> v.model_b AND v.winner IN ('a', 'b', 'tie', 'both_bad')
    AND (coalesce(v.blind, false) OR NOT $blind)
ORDER BY v.created_at, v.vote_id
"""


def arena_leaderboard(read: Read, *, blind: bool = True) -> pd.DataFrame:
    """Models by what people preferred; :mod:`workbench.analysis.bradley_terry` has the formulas.

    Places are those of a test of every pair at 5 % with Holm's correction: a model is placed
    surely below those that are shown to be better.

    Args:
        read: runs the query.
        blind: only votes that were cast without knowing the models.

    Returns:
        The columns of :data:`ARENA_LEADERBOARD`, the largest group first, in it the best first.
    """
    import pandas as pd

    votes = list(rows_of(read(_VOTES, {"blind": blind})))
    models = sorted({model for vote in votes for model in (vote.model_a, vote.model_b)})
    places = {model: place for place, model in enumerate(models)}
    ballots = [
        Ballot(places[v.model_a], places[v.model_b], _SHARES[v.winner], v.prompt) for v in votes
    ]
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(connected(ballots, len(models)) if models else (), start=1):
        inside = {place: i for i, place in enumerate(group)}
        strengths = fit(
            [
                Ballot(inside[one.first], inside[one.second], one.share, one.prompt)
                for one in ballots
                if one.first in inside
            ],
            len(group),
        )
        for place, row in _placed(strengths):
            known = {"group": number, "model": models[group[place]]}
            rows.append(known | row | _counts(votes, models[group[place]]))
    return typed(pd.DataFrame(rows, columns=list(ARENA_LEADERBOARD)), ARENA_LEADERBOARD)


def _placed(strengths: Strengths) -> list[tuple[int, dict[str, Any]]]:
    """Each model's place in the list with its row, the strongest first."""
    values = strengths.values
    order = sorted(range(len(values)), key=lambda i: -values[i])
    pairs = list(combinations(order, 2))
    adjusted = holm([strengths.p(*pair) for pair in pairs])
    shown = {
        pair for pair, p in zip(pairs, adjusted, strict=True) if p is not None and p < 1 - LEVEL
    }
    rows: list[tuple[int, dict[str, Any]]] = []
    for rank, model in enumerate(order, start=1):
        low, high = strengths.interval(model)
        row: dict[str, Any] = {
            "rank": rank,
            "rank_low": 1 + sum((other, model) in shown for other in order),
            "rank_high": len(order) - sum((model, other) in shown for other in order),
            "rating": values[model] * POINTS,
            "rating_low": low * POINTS,
            "rating_high": high * POINTS,
        }
        if rank < len(order):
            below = order[rank]
            row |= {
                "lead": (values[model] - values[below]) * POINTS,
                "lead_p": strengths.p(model, below),
                "votes_needed": strengths.votes_needed(model, below),
            }
        rows.append((model, row))
    return rows


def _counts(votes: Sequence[Any], model: str) -> dict[str, int]:
    own = [vote for vote in votes if model in (vote.model_a, vote.model_b)]
    won = sum(vote.winner == ("a" if vote.model_a == model else "b") for vote in own)
    bad = sum(vote.winner == "both_bad" for vote in own)
    ties = bad + sum(vote.winner == "tie" for vote in own)
    return {
        "votes": len(own),
        "wins": won,
        "losses": len(own) - won - ties,
        "ties": ties,
        "both_bad": bad,
        "prompts": len({vote.prompt for vote in own}),
    }


def plot_arena_leaderboard(found: pd.DataFrame) -> go.Figure:
    """Ratings with their intervals, the best on top.

    Args:
        found: what :func:`arena_leaderboard` gave.
    """
    import plotly.graph_objects as go

    title = "Ratings from blind votes, with 95 % intervals"
    if found.empty:
        return empty(title, "No vote yet.")
    rows = found.iloc[::-1]
    several = found["group"].nunique() > 1
    names = [
        short(str(row.model)) + (f" (group {row.group})" if several else "")
        for row in rows_of(rows)
    ]
    colours = [PROVIDERS.get(str(model).partition("/")[0], OTHER) for model in rows["model"]]
    columns = [rows[name].tolist() for name in ("rating", "rating_low", "rating_high")]
    figure = go.Figure()
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        value, low, high = (column[i] for column in columns)
        votes = int(rows["votes"].iloc[i])
        words = f"{value:+.0f} [{low:+.0f}, {high:+.0f}]"
        figure.add_trace(
            go.Scatter(
                x=[value],
                y=[name],
                mode="markers+text",
                text=[words],
                textposition="top center",
                marker={"color": colour, "size": 10},
                error_x={**whiskers([value], [low], [high]), "color": colour},
                hovertemplate=f"{words}, {votes} votes<extra>%{{y}}</extra>",
            )
        )
    figure.update_yaxes(range=[-0.5, len(names) - 0.3])
    figure.update_xaxes(title_text="rating, points (0: the mean; +100: preferred in 64 % of votes)")
    return styled(figure, title, height=120 + 44 * len(rows))
