"""How often models fail, with what, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import WARNING, empty, short, styled, whiskers
from workbench.analysis.frames import Columns, Read, real, rows_of, text, typed, when, whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ERROR_RATES: Final[Columns] = {
    "model": text("model id"),
    "error_code": text("what happened; null where nothing did"),
    "errors": whole("sessions with this error"),
    "sessions": whole("sessions in which the model was tried"),
    "error_rate": real("errors / sessions"),
    "error_rate_low": real("lower end of its 95 % interval"),
    "error_rate_high": real("upper end of its 95 % interval"),
    "last_at": when("when it happened last"),
}

# A model that never failed has a rate too: zero of so many.
_RATES: Final = """
SELECT model, error_code, errors, sessions, error_rate, last_at FROM error_rates
UNION ALL
SELECT model, NULL, 0, count(*), 0.0, NULL FROM stream_sessions
WHERE model NOT IN (SELECT model FROM error_rates) GROUP BY model
ORDER BY error_rate DESC, model, error_code
"""


def error_rates(read: Read) -> pd.DataFrame:
    """Error rates by model and code, with Wilson's score interval (1927).

    Returns:
        The columns of :data:`ERROR_RATES`, the highest rate first.
    """
    from scipy.stats import binomtest

    found = typed(read(_RATES), ERROR_RATES)
    bounds = [
        binomtest(int(row.errors), int(row.sessions)).proportion_ci(method="wilson")
        for row in rows_of(found)
    ]
    found["error_rate_low"] = [float(bound.low) for bound in bounds]
    found["error_rate_high"] = [float(bound.high) for bound in bounds]
    return typed(found, ERROR_RATES)


def plot_error_rates(found: pd.DataFrame) -> go.Figure:
    """The rate of each model and code with its interval.

    Args:
        found: what :func:`error_rates` gave.
    """
    import plotly.graph_objects as go

    title = "Error rates with 95 % intervals"
    if found.empty:
        return empty(title, "No model was asked yet.")
    rows = found.iloc[::-1]
    names = [
        f"{short(str(row.model))}, {row.error_code if row.errors else 'no error'}"
        for row in rows_of(rows)
    ]
    percent = {
        name: (rows[name] * 100).tolist()
        for name in ("error_rate", "error_rate_low", "error_rate_high")
    }
    figure = go.Figure(
        go.Scatter(
            x=percent["error_rate"],
            y=names,
            mode="markers",
            marker={"color": WARNING, "size": 9},
            error_x={**whiskers(*percent.values()), "color": WARNING},
            customdata=rows[["errors", "sessions"]].astype(int),
            hovertemplate="%{x:.1f} %: %{customdata[0]} of %{customdata[1]} sessions"
            "<extra>%{y}</extra>",
        )
    )
    figure.update_xaxes(title_text="sessions with this error, %", range=[-1, 101])
    return styled(figure, title, height=120 + 30 * len(rows))
