"""The distributions where two answers part, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import empty, short, styled, styles
from workbench.insight.probabilities import shares

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.insight.divergence import Divergence

_TITLE: Final = "next token where they part"
_TOKENS: Final = 10


def plot_parting(found: Divergence) -> go.Figure:
    """Probabilities of the likeliest next tokens in both models, as pairs of bars.

    The token that each model took has a mark.
    """
    import plotly.graph_objects as go

    parting = found.parting
    if parting is None:
        return empty(_TITLE, "the answers do not part")
    if not found.aligned:
        return empty(_TITLE, "the answers are cut into tokens differently there")
    sides = [
        answer.steps[index] if index < len(answer.steps) else None
        for answer, index in zip((found.a, found.b), parting, strict=True)
    ]
    known = [shares(step.top) if step is not None else {} for step in sides]
    likeliest = sorted(
        known[0].keys() | known[1].keys(),
        key=lambda name: max(side.get(name, 0.0) for side in known),
        reverse=True,
    )[:_TOKENS]
    if not likeliest:
        return empty(_TITLE, "no probabilities are known there")
    names = [repr(text) for text in likeliest]
    figure = go.Figure()
    looks = styles([found.a.model, found.b.model])
    for letter, answer, share, step in zip("AB", (found.a, found.b), known, sides, strict=True):
        values = [share.get(name) for name in likeliest]
        taken = step.name if step is not None else None
        figure.add_bar(
            y=names,
            x=values,
            orientation="h",
            name=f"{letter} {short(answer.model)}",
            marker={
                "color": looks[answer.model].colour,
                "opacity": 0.9 if letter == "A" else 0.55,
                "pattern": {"shape": "" if letter == "A" else "/"},
            },
            text=[f"{letter} takes it" if text == taken else letter for text in likeliest],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y} %{x:.1%}<extra>" + f"{letter} {short(answer.model)}</extra>",
        )
    figure = styled(figure, _TITLE, height=90 + 34 * len(names))
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(title="probability", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return figure
