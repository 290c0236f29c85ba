"""From the log to typed frames and plots: what the page and the notebooks share.

Every query takes ``read``, a function of (sql, params) that gives a DataFrame: ``wb.sql`` in a
notebook, ``engine.store.query`` in the page. It returns a frame whose columns, dtypes and meanings
are in the constant of the same name in capitals (``LATENCY_PERCENTILES``), also when there are no
rows, and ``plot_...`` draws it. Figures that need more data than there is are NaN.
"""

from __future__ import annotations

from workbench.analysis.arena import (
    ARENA_LEADERBOARD,
    arena_leaderboard,
    plot_arena_leaderboard,
)
from workbench.analysis.comparison import (
    CONTENTION_COST,
    MODEL_DIFFERENCES,
    contention_cost,
    model_differences,
    plot_contention_cost,
    plot_model_differences,
)
from workbench.analysis.failures import ERROR_RATES, error_rates, plot_error_rates
from workbench.analysis.frames import Column, Columns, Read
from workbench.analysis.latency import (
    LATENCY_PERCENTILES,
    latency_percentiles,
    plot_distribution,
    plot_latency_percentiles,
    plot_ttft,
)
from workbench.analysis.lifecycle import (
    LOAD_COSTS,
    MODEL_EVENTS,
    load_costs,
    model_events,
    plot_load_costs,
    plot_model_events,
)
from workbench.analysis.memory import (
    MEMORY_TIMELINE,
    PHASE_SPANS,
    memory_timeline,
    phase_spans,
    plot_memory,
)
from workbench.analysis.prompts import (
    PROMPT_COSTS,
    PROMPT_FITS,
    plot_ttft_by_prompt,
    ttft_by_prompt,
    ttft_fits,
)
from workbench.analysis.timing import TIME_LEDGER, plot_time_ledger, time_ledger
from workbench.analysis.tokens import (
    TOKEN_EFFICIENCY,
    TOKEN_GAPS,
    plot_gaps,
    plot_token_efficiency,
    token_efficiency,
    token_gaps,
)

__all__ = [
    "ARENA_LEADERBOARD",
    "CONTENTION_COST",
    "ERROR_RATES",
    "LATENCY_PERCENTILES",
    "LOAD_COSTS",
    "MEMORY_TIMELINE",
    "MODEL_DIFFERENCES",
    "MODEL_EVENTS",
    "PHASE_SPANS",
    "PROMPT_COSTS",
    "PROMPT_FITS",
    "TIME_LEDGER",
    "TOKEN_EFFICIENCY",
    "TOKEN_GAPS",
    "Column",
    "Columns",
    "Read",
    "arena_leaderboard",
    "contention_cost",
    "error_rates",
    "latency_percentiles",
    "load_costs",
    "memory_timeline",
    "model_differences",
    "model_events",
    "phase_spans",
    "plot_arena_leaderboard",
    "plot_contention_cost",
    "plot_distribution",
    "plot_error_rates",
    "plot_gaps",
    "plot_latency_percentiles",
    "plot_load_costs",
    "plot_memory",
    "plot_model_differences",
    "plot_model_events",
    "plot_time_ledger",
    "plot_token_efficiency",
    "plot_ttft",
    "plot_ttft_by_prompt",
    "time_ledger",
    "token_efficiency",
    "token_gaps",
    "ttft_by_prompt",
    "ttft_fits",
]
