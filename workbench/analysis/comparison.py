"""Two models on the same prompts, and one model alone and beside others: ratios with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from workbench.analysis.drawing import INK, OTHER, PROVIDERS, empty, short, styled, whiskers
from workbench.analysis.frames import (
    GROUP,
    Columns,
    Read,
    condition,
    flag,
    real,
    rows_of,
    text,
    typed,
    whole,
)
from workbench.analysis.statistics import Estimate, estimate, exponential, holm
from workbench.errors import invalid
from workbench.model_ids import spelled
from workbench.store.summaries import sound

if TYPE_CHECKING:
    import datetime as dt

    import pandas as pd
    import plotly.graph_objects as go

UNITS: Final[Mapping[str, str]] = {
    "ttft_s": "s",
    "ttfo_s": "s",
    "tpot_s": "s",
    "itl_p50_s": "s",
    "e2e_s": "s",
    "decode_tps": "tokens/s",
    "output_tps": "tokens/s",
    "chars_per_s": "characters/s",
    "mem_peak_bytes": "bytes",
}
"""Figures that can be compared, with the unit of a difference."""

MODEL_DIFFERENCES: Final[Columns] = {
    "model_a": text("the model it is compared with"),
    "model_b": text("the model that is compared"),
    "metric": text("column of latencies"),
    "unit": text("of the difference"),
    "prompts": whole("prompts that both answered"),
    "pairs": whole("answers of each, paired by prompt and repeat"),
    "ratio": real("b / a, geometric mean over prompts"),
    "ratio_low": real("lower end of its 95 % interval; NaN below six prompts"),
    "ratio_high": real("upper end of its 95 % interval"),
    "difference": real("b - a, mean over prompts, in unit"),
    "difference_low": real("lower end of its 95 % interval"),
    "difference_high": real("upper end of its 95 % interval"),
    "p": real("of no difference (sign-flip test on the logarithms)"),
    "p_holm": real("adjusted for all rows of this frame"),
    "detectable_ratio": real("smallest ratio that so many prompts show four times in five"),
}

CONTENTION_COST: Final[Columns] = {
    **GROUP,
    "metric": text("column of latencies"),
    "alone_p50_s": real("median of the answers that ran alone"),
    "contended_p50_s": real("median of those that ran beside others"),
    "sessions_alone": whole("answers alone"),
    "sessions_contended": whole("answers beside others"),
    "paired": flag("whether both kinds answered the same prompts"),
    "prompts": whole("prompts answered both ways"),
    "ratio": real("contended / alone: geometric mean over prompts, or of the medians"),
    "ratio_low": real("lower end of its 95 % interval; NaN below six prompts"),
    "ratio_high": real("upper end of its 95 % interval"),
    "p": real("of no cost"),
}

NEWEST: Final = 200_000
"""A comparison looks at the newest so many sessions of a longer log."""

MAX_PROMPTS: Final = 2_000
"""And at so many prompts, a random part of more."""

COLUMN_PX: Final = 128
"""Room on the right of a forest for its figures."""

_EVER: Final = "0001-01-01T00:00:00+00:00"
_RECENT: Final = f"seq > (SELECT max(seq) FROM stream_sessions) - {NEWEST}"  # noqa: S608

_PAIRS: Final = f"""
WITH answers AS (
    SELECT model, prompt_untagged AS prompt, {{metric}} AS figure, row_number() OVER (
        PARTITION BY model, prompt_untagged ORDER BY created_at, seq) AS repeat
    FROM latencies JOIN session_prompts USING (session_id, created_at)
    WHERE {{condition}} AND {{sound}} AND {_RECENT} AND model IN ($a, $b) AND {{metric}} > 0
        AND created_at >= $since AND ($run_id IS NULL OR run_id = $run_id)
)
SELECT hash(prompt)::VARCHAR AS prompt, count(*) AS pairs,
    avg(b.figure - a.figure) AS difference, avg(ln(b.figure / a.figure)) AS log_ratio
FROM answers a JOIN answers b USING (prompt, repeat)
WHERE a.model = $a AND b.model = $b
GROUP BY prompt ORDER BY hash(prompt) LIMIT {MAX_PROMPTS}
"""  # noqa: S608


def _sound(column: str) -> str:
    return f"CASE WHEN {sound(column)} THEN {column} END"


# One row a model and prompt, and one a model with the medians (prompt is null there).
_CONTENTION: Final = f"""
WITH answers AS (
    SELECT {", ".join(GROUP)}, contended, prompt_untagged AS prompt,
        unnest(['ttft_s', 'tpot_s']) AS metric,
        unnest([{_sound("ttft_s")}, {_sound("tpot_s")}]) AS figure
    FROM latencies LEFT JOIN session_prompts USING (session_id, created_at)
    WHERE {condition(True)} AND {_RECENT}
)
SELECT {", ".join(GROUP)}, metric, grouping(prompt) = 1 AS whole, hash(prompt)::VARCHAR AS prompt,
    count(*) FILTER (NOT contended) AS alone, count(*) FILTER (contended) AS beside,
    avg(ln(figure)) FILTER (contended) - avg(ln(figure)) FILTER (NOT contended) AS log_ratio,
    median(figure) FILTER (NOT contended) AS alone_p50_s,
    median(figure) FILTER (contended) AS contended_p50_s
FROM answers WHERE figure > 0
GROUP BY GROUPING SETS (({", ".join(GROUP)}, metric, prompt), ({", ".join(GROUP)}, metric))
HAVING log_ratio IS NOT NULL
ORDER BY {", ".join(GROUP)}, metric DESC, hash(prompt)
"""  # noqa: S608


def model_differences(
    read: Read,
    models: Sequence[str],
    metrics: Sequence[str] = ("ttft_s", "tpot_s"),
    *,
    contended: bool = False,
    since: dt.datetime | None = None,
    run_id: str | None = None,
) -> pd.DataFrame:
    """Every pair of these models on the prompts that both answered.

    Answers are paired by prompt (a tag in square brackets at its beginning does not count) and
    by repeat, in order of time. Values of zero are left out: they have no ratio.

    Args:
        read: runs the query.
        models: model ids, two or more (Ollama's also without their tag); of each pair the earlier
            one is a.
        metrics: some of :data:`UNITS`.
        contended: True takes the answers too that ran beside others.
        since: only answers from then on (an aware time).
        run_id: only answers of this benchmark run.

    Returns:
        The columns of :data:`MODEL_DIFFERENCES`; pairs without a common prompt have no row.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, an unknown metric.
    """
    import pandas as pd

    for metric in metrics:
        if metric not in UNITS:
            raise invalid(f"{metric!r} cannot be compared.", fix=f"Use one of {', '.join(UNITS)}.")
    rows = []
    for a, b in combinations(dict.fromkeys(map(spelled, models)), 2):
        for metric in metrics:
            found = read(
                _PAIRS.format(metric=metric, condition=condition(contended), sound=sound(metric)),
                {
                    "a": a,
                    "b": b,
                    "since": since.isoformat() if since is not None else _EVER,
                    "run_id": run_id,
                },
            )
            if len(found):
                known = {"model_a": a, "model_b": b, "metric": metric, "unit": UNITS[metric]}
                rows.append(known | _difference(found))
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return typed(pd.DataFrame(rows, columns=list(MODEL_DIFFERENCES)), MODEL_DIFFERENCES)


def _difference(prompts: pd.DataFrame) -> dict[str, Any]:
    """The figures of two models from the means of each prompt."""
    pairs = int(prompts["pairs"].sum())
    absolute = estimate(prompts["difference"].tolist(), pairs)
    relative = exponential(estimate(prompts["log_ratio"].tolist(), pairs))
    return {
        "prompts": relative.prompts,
        "pairs": pairs,
        **_bounds("ratio", relative),
        **_bounds("difference", absolute),
        "p": relative.p,
        "detectable_ratio": relative.detectable,
    }


def _bounds(name: str, found: Estimate) -> dict[str, float | None]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def plot_model_differences(found: pd.DataFrame) -> go.Figure:
    """The ratio of each pair and metric with its interval, against a line at no difference.

    Args:
        found: what :func:`model_differences` gave.
    """
    title = "b / a with 95 % intervals (filled: p < 0.05 after Holm)"
    if found.empty:
        return empty(title, "No two of these models answered the same prompt alone.")
    names = [
        f"{row.metric}: {short(str(row.model_b))} / {short(str(row.model_a))}"
        for row in rows_of(found)
    ]
    clear = [bool(p < 0.05) for p in found["p_holm"]]
    colours = [PROVIDERS.get(str(b).partition("/")[0], OTHER) for b in found["model_b"]]
    return forest(found, names, clear, colours, title)


def contention_cost(read: Read) -> pd.DataFrame:
    """What running beside others costs a model: alone against contended, on the same prompts.

    Returns:
        The columns of :data:`CONTENTION_COST`, for TTFT and TPOT. Where no prompt was answered
        both ways, the ratio is that of the medians and has no interval.
    """
    import pandas as pd

    found = read(_CONTENTION)
    rows = []
    for key, part in found.groupby([*GROUP, "metric"], dropna=False, sort=False):
        whole = part["whole"].astype(bool)
        for total in rows_of(part[whole]):
            rows.append(
                dict(zip((*GROUP, "metric"), key, strict=True)) | _cost(total, part[~whole])
            )
    return typed(pd.DataFrame(rows, columns=list(CONTENTION_COST)), CONTENTION_COST)


def _cost(total: Any, prompts: pd.DataFrame) -> dict[str, Any]:
    """The figures of a model from its medians and from the prompts that it answered both ways."""
    shared = prompts["log_ratio"].tolist()[:MAX_PROMPTS]
    row: dict[str, Any] = {
        "alone_p50_s": total.alone_p50_s,
        "contended_p50_s": total.contended_p50_s,
        "sessions_alone": total.alone,
        "sessions_contended": total.beside,
        "paired": bool(shared),
        "prompts": len(shared),
    }
    if not shared:
        return row | {"ratio": total.contended_p50_s / total.alone_p50_s}
    cost = exponential(estimate(shared, len(shared)))
    return row | _bounds("ratio", cost) | {"p": cost.p}


def plot_contention_cost(found: pd.DataFrame) -> go.Figure:
    """How many times longer a contended answer takes, with the interval.

    Args:
        found: what :func:`contention_cost` gave.
    """
    title = "Contended / alone with 95 % intervals (filled: p < 0.05)"
    if found.empty:
        return empty(
            title,
            "No model answered both alone and beside others yet.<br>"
            "Ask the same prompts in concurrent and in isolated mode.",
        )
    names = [f"{row.metric}: {short(str(row.model))}" for row in rows_of(found)]
    colours = [PROVIDERS.get(str(model).partition("/")[0], OTHER) for model in found["model"]]
    return forest(found, names, [bool(p < 0.05) for p in found["p"]], colours, title)


def forest(
    found: pd.DataFrame,
    names: Sequence[str],
    clear: Iterable[bool],
    colours: Sequence[str],
    title: str,
) -> go.Figure:
    """Ratios as points with whiskers on a logarithmic axis, the figures written beside them.

    Args:
        found: columns ratio, ratio_low, ratio_high (NaN: no interval) and prompts.
        names: of the rows.
        clear: whether a difference was shown, for each row.
        colours: of the rows.
        title: of the figure.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    values = [found[name].tolist() for name in ("ratio", "ratio_low", "ratio_high")]
    figures = [
        f"{row.ratio:.2f} "
        + (
            f"[{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
            if row.ratio_low == row.ratio_low
            else "(too few prompts)"
        )
        for row in rows_of(found)
    ]
    for i, (name, filled) in enumerate(zip(names, clear, strict=True)):
        value, low, high = (column[i] for column in values)
        figure.add_trace(
            go.Scatter(
                x=[value],
                y=[name],
                mode="markers",
                marker={
                    "color": colours[i],
                    "size": 10,
                    "symbol": "circle" if filled else "circle-open",
                },
                error_x={**whiskers([value], [low], [high]), "color": colours[i]},
                hovertemplate=f"{figures[i]}, {found['prompts'].iloc[i]} prompts"
                "<extra>%{y}</extra>",
            )
        )
        # In a column of their own: beside the points they would lie over lines and edges.
        figure.add_annotation(
            x=1, xref="paper", y=name, text=figures[i], showarrow=False, xanchor="left", xshift=8
        )
    figure.add_vline(x=1, line={"color": INK, "width": 1, "dash": "dot"})
    bounds = [v for column in values for v in column if v == v]
    figure.update_xaxes(
        title_text="ratio (1: no difference)",
        type="log",
        range=_log_range([*bounds, 1.0]),
    )
    figure.update_yaxes(autorange="reversed")
    figure = styled(figure, title, height=110 + 36 * len(names))
    figure.update_layout(margin_r=COLUMN_PX)
    return figure


def _log_range(values: Sequence[float]) -> list[float]:
    import math

    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.15 * (high - low), 0.05)
    return [low - room, high + room]
