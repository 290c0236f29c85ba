"""The same columns and dtypes with rows and without; every plot says what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from tests.analysis.conftest import answer
from tests.conftest import ROOT
from workbench import analysis
from workbench.analysis import drawing
from workbench.analysis.frames import Columns, Read
from workbench.store import MemorySample, ModelEvent, Store
from workbench.types import Message

PAIR = ["huggingface/a", "ollama/b:latest"]

Query = Callable[[Read], pd.DataFrame]
QUERIES: Mapping[str, tuple[Query, Columns, Callable[[pd.DataFrame], go.Figure]]] = {
    "percentiles": (
        analysis.latency_percentiles,
        analysis.LATENCY_PERCENTILES,
        analysis.plot_latency_percentiles,
    ),
    "prompts": (analysis.ttft_by_prompt, analysis.PROMPT_COSTS, analysis.plot_ttft_by_prompt),
    "fits": (
        lambda read: analysis.ttft_fits(analysis.ttft_by_prompt(read)),
        analysis.PROMPT_FITS,
        lambda fits: analysis.plot_ttft_by_prompt(
            pd.DataFrame(columns=list(analysis.PROMPT_COSTS))
        ),
    ),
    "gaps": (
        lambda read: analysis.token_gaps(read, "cmp"),
        analysis.TOKEN_GAPS,
        analysis.plot_gaps,
    ),
    "efficiency": (
        analysis.token_efficiency,
        analysis.TOKEN_EFFICIENCY,
        analysis.plot_token_efficiency,
    ),
    "memory": (
        lambda read: analysis.memory_timeline(read, "cmp"),
        analysis.MEMORY_TIMELINE,
        lambda found: analysis.plot_memory(found, pd.DataFrame(columns=list(analysis.PHASE_SPANS))),
    ),
    "phases": (
        lambda read: analysis.phase_spans(read, "cmp"),
        analysis.PHASE_SPANS,
        lambda found: analysis.plot_memory(
            pd.DataFrame(columns=list(analysis.MEMORY_TIMELINE)), found
        ),
    ),
    "loads": (analysis.load_costs, analysis.LOAD_COSTS, analysis.plot_load_costs),
    "events": (analysis.model_events, analysis.MODEL_EVENTS, analysis.plot_model_events),
    "errors": (analysis.error_rates, analysis.ERROR_RATES, analysis.plot_error_rates),
    "contention": (
        analysis.contention_cost,
        analysis.CONTENTION_COST,
        analysis.plot_contention_cost,
    ),
    "differences": (
        lambda read: analysis.model_differences(read, PAIR),
        analysis.MODEL_DIFFERENCES,
        analysis.plot_model_differences,
    ),
}
UNITS = re.compile(
    r"_(s|ms|bytes|tokens|chars|tps|low|high|p50|ratio)$|"
    r"ms_per_1000|(_s|_bytes|_tps)_|chars_per|tokens_(from|below|min|max)|^(n_|prompt_tokens|p_holm)"
)
PLAIN = {"ratio", "difference", "p", "sessions", "pairs", "prompts", "error_rate", "errors"}


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def fill(store: Store) -> None:
    for prompt in range(6):
        for model in PAIR:
            for overlap in (0, 1):
                session = answer(
                    0.03 + 0.01 * prompt,
                    model=model,
                    comparison_id="cmp" if prompt == 0 else None,
                    prompt_tokens=10 * (prompt + 1),
                    overlap_ns=overlap,
                )
                sample = MemorySample(
                    session.stamps.queued, "worker", session.session_id, model, 1, pss_bytes=10**8
                )
                store.log_session(session, [Message("user", f"prompt {prompt}")], [sample])
    store.log_model_event(ModelEvent("load", "ollama", 1, model=PAIR[1], duration_s=0.5))
    store.flush()


@pytest.mark.parametrize("name", QUERIES)
def test_an_empty_log_gives_the_columns_and_a_figure_that_says_what_is_missing(
    name: str, store: Store
) -> None:
    query, columns, plot = QUERIES[name]
    found = query(store.query)
    assert found.empty
    assert dtypes(found) == {key: column.dtype for key, column in columns.items()}
    figure = plot(found)
    assert not figure.data
    (words,) = figure.layout.annotations
    assert len(words.text) > 20


@pytest.mark.parametrize("name", QUERIES)
def test_rows_have_the_same_columns_and_a_plot(name: str, store: Store) -> None:
    fill(store)
    query, columns, plot = QUERIES[name]
    found = query(store.query)
    assert len(found)
    assert dtypes(found) == {key: column.dtype for key, column in columns.items()}
    if name not in ("fits", "phases"):  # drawn together with what they belong to
        figure = plot(found)
        assert figure.data
        assert not figure.layout.showlegend
        titles = [axis.title.text or "" for axis in figure.select_xaxes()]
        assert re.search(r", (s|ms|tokens|%)$|tokens/s|no difference", titles[-1])


@pytest.mark.parametrize("name", QUERIES)
def test_rows_that_came_over_http_are_the_same(name: str, store: Store) -> None:
    """A server sends JSON: no times, no kinds of null."""
    fill(store)

    def far(sql: str, params: Mapping[str, Any] | None = None, /) -> pd.DataFrame:
        rows = json.loads(json.dumps(store.rows(sql, params), default=str))
        return pd.DataFrame(rows)

    query = QUERIES[name][0]
    pd.testing.assert_frame_equal(query(far), query(store.query))


@pytest.mark.parametrize("name", QUERIES)
def test_numbers_have_their_unit_in_the_name(name: str) -> None:
    for column, (dtype, meaning) in QUERIES[name][1].items():
        assert meaning
        if dtype == "float64" and column not in PLAIN:
            assert UNITS.search(column), column


def test_plots_have_the_colours_of_the_page() -> None:
    css = (ROOT / "workbench" / "ui" / "page.css").read_text()
    words = {"retry": "error", "dispatch": "queued"}
    for phase, colour in drawing.PHASES.items():
        assert colour in re.findall(rf"--wb-{words.get(phase, phase)}: (#\w+);", css), phase
    for provider, colour in drawing.PROVIDERS.items():
        assert f'[data-provider^="{provider}"] {{ --wb-provider: {colour}; }}' in css


@pytest.mark.parametrize("colour", [*drawing.PHASES.values(), *drawing.PROVIDERS.values()])
def test_colours_stand_out_on_light_and_dark(colour: str) -> None:
    def luminance(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for background in ("#ffffff", "#18181b"):
        high, low = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3, background
