"""Two models on the same prompts, and one model alone and beside others: ratios with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
from workbench.analysis.statistics import Estimate, difference, holm, ratio
from workbench.errors import invalid

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

Pairs = dict[Hashable, list[tuple[float, float]]]


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
    by repeat, in order of time.

    Args:
        read: runs the query.
        models: model ids, two or more; of each pair the earlier one is a.
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
    answers = read(
        f"""
        SELECT model, hash(prompt_untagged)::VARCHAR AS prompt,
            row_number() OVER (PARTITION BY model, prompt_untagged ORDER BY created_at, seq) AS n,
            {", ".join(metrics)}
        FROM latencies JOIN session_prompts USING (session_id)
        WHERE {condition(contended)} AND model IN (SELECT unnest($models))
            AND created_at >= $since AND ($run_id IS NULL OR run_id = $run_id)
        """,  # noqa: S608
        {
            "models": list(models),
            "since": since.isoformat() if since is not None else "0001-01-01T00:00:00+00:00",
            "run_id": run_id,
        },
    )
    by_model = {model: rows.set_index(["prompt", "n"]) for model, rows in answers.groupby("model")}
    rows = [
        row
        for a, b in combinations(dict.fromkeys(models), 2)
        if a in by_model and b in by_model
        for metric in metrics
        if (row := _difference(by_model[a][metric], by_model[b][metric]))
        and row.update(model_a=a, model_b=b, metric=metric, unit=UNITS[metric]) is None
    ]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return typed(pd.DataFrame(rows, columns=list(MODEL_DIFFERENCES)), MODEL_DIFFERENCES)


def _difference(a: pd.Series[Any], b: pd.Series[Any]) -> dict[str, Any]:
    """The figures of one pair of models, or nothing."""
    found = _pairs(a.dropna().astype(float), b.dropna().astype(float))
    if not found:
        return {}
    absolute, relative = difference(found), ratio(found)
    return {
        "prompts": relative.prompts,
        "pairs": relative.pairs,
        **_bounds("ratio", relative),
        **_bounds("difference", absolute),
        "p": relative.p,
        "detectable_ratio": relative.detectable,
    }


def _pairs(a: pd.Series[Any], b: pd.Series[Any]) -> Pairs:
    """By prompt, the values of each repeat that both have; those of zero have no ratio."""
    import pandas as pd

    found: defaultdict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    both = pd.concat([a.rename("a"), b.rename("b")], axis=1, join="inner")
    for (prompt, _), x, y in zip(both.index, both["a"], both["b"], strict=True):
        if x > 0 and y > 0:
            found[prompt].append((x, y))
    return dict(found)


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
    return _forest(found, names, clear, colours, title)


def contention_cost(read: Read) -> pd.DataFrame:
    """What running beside others costs a model: alone against contended, on the same prompts.

    Returns:
        The columns of :data:`CONTENTION_COST`, for TTFT and TPOT. Where no prompt was answered
        both ways, the ratio is that of the medians and has no interval.
    """
    import pandas as pd

    answers = read(
        f"""
        SELECT model, dtype, quantization, contended,
            hash(prompt_untagged)::VARCHAR AS prompt, ttft_s, tpot_s
        FROM latencies LEFT JOIN session_prompts USING (session_id)
        WHERE {condition(True)}
        """  # noqa: S608
    )
    rows = []
    for key, part in answers.groupby(list(GROUP), dropna=False):
        for metric in ("ttft_s", "tpot_s"):
            timed = part[part[metric].astype("float64") > 0]
            alone, beside = (
                timed[timed["contended"].astype(bool) == kind] for kind in (False, True)
            )
            if len(alone) and len(beside):
                rows.append(dict(zip(GROUP, key, strict=True)) | _cost(alone, beside, metric))
    return typed(pd.DataFrame(rows, columns=list(CONTENTION_COST)), CONTENTION_COST)


def _cost(alone: pd.DataFrame, beside: pd.DataFrame, metric: str) -> dict[str, Any]:
    import numpy as np

    middle = {
        kind: part[metric].astype(float).transform(np.log).groupby(part["prompt"]).mean()
        for kind, part in (("alone", alone), ("beside", beside))
    }
    shared = middle["alone"].index.intersection(middle["beside"].index)
    medians = float(alone[metric].median()), float(beside[metric].median())
    row: dict[str, Any] = {
        "metric": metric,
        "alone_p50_s": medians[0],
        "contended_p50_s": medians[1],
        "sessions_alone": len(alone),
        "sessions_contended": len(beside),
        "paired": len(shared) > 0,
        "prompts": len(shared),
    }
    if not len(shared):
        return row | {"ratio": medians[1] / medians[0]}
    cost = ratio(
        {
            key: [(float(np.exp(middle["alone"][key])), float(np.exp(middle["beside"][key])))]
            for key in shared
        }
    )
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
    return _forest(found, names, [bool(p < 0.05) for p in found["p"]], colours, title)


def _forest(
    found: pd.DataFrame,
    names: Sequence[str],
    clear: Iterable[bool],
    colours: Sequence[str],
    title: str,
) -> go.Figure:
    """Ratios as points with whiskers on a logarithmic axis, the figures written beside them."""
    import plotly.graph_objects as go

    figure = go.Figure()
    values = [found[name].tolist() for name in ("ratio", "ratio_low", "ratio_high")]
    figures = [
        f"{row.ratio:.2f} "
        + (
            f"[{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
            if row.ratio_low == row.ratio_low
            else "(too few prompts for an interval)"
        )
        for row in rows_of(found)
    ]
    for i, (name, filled) in enumerate(zip(names, clear, strict=True)):
        value, low, high = (column[i] for column in values)
        figure.add_trace(
            go.Scatter(
                x=[value],
                y=[name],
                mode="markers+text",
                text=[figures[i]],
                textposition="top center",
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
    figure.add_vline(x=1, line={"color": INK, "width": 1, "dash": "dot"})
    bounds = [v for column in values for v in column if v == v]
    figure.update_xaxes(
        title_text="ratio (1: no difference)",
        type="log",
        range=_log_range([*bounds, 1.0]),
    )
    figure.update_yaxes(autorange="reversed")
    return styled(figure, title, height=120 + 46 * len(names))


def _log_range(values: Sequence[float]) -> list[float]:
    import math

    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.15 * (high - low), 0.05)
    return [low - room, high + room]
