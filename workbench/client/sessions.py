"""Finished sessions as rows: the part that comparisons show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.types import (
    StreamSession,
)

if TYPE_CHECKING:
    import pandas as pd


FIGURES = (
    "ttft_s",
    "tpot_s",
    "decode_tps",
    "output_tps",
    "chars_per_s",
    "e2e_s",
    "queue_s",
    "load_s",
    "mem_peak_bytes",
)
"""The figures that a comparison shows; all others are in ``latencies``."""


def sessions_frame(sessions: Sequence[StreamSession]) -> pd.DataFrame:
    """Finished sessions as a DataFrame, one row each; units are in the column names."""
    import pandas as pd

    return pd.DataFrame([session_row(session) for session in sessions])


def session_row(session: StreamSession) -> dict[str, Any]:
    """The part of a finished session that comparisons show."""
    return {
        "model": session.model,
        "status": session.status.value,
        "text": session.text,
        **{name: session.metrics.get(name) for name in FIGURES},
        "prompt_tokens": session.prompt_tokens,
        "output_tokens": session.output_tokens,
        "finish_reason": session.finish_reason,
        "contended": session.overlap_ns > 0,
        "error_code": session.error.code.value if session.error else None,
        "error": str(session.error) if session.error else None,
        "warnings": [warning.message for warning in session.warnings],
        "fallback_from": session.fallback_from,
        "seed": session.seed,
        "session_id": session.session_id,
        "conversation_id": session.conversation_id,
        "comparison_id": session.comparison_id,
    }
