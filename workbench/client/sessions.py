"""Finished sessions as rows: the part that comparisons show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench import metrics
from workbench.types import StreamEvent, StreamSession, TokenEvent

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


class Likelihoods:
    """How likely the tokens of answers were: in their events only, and not in the log."""

    def __init__(self) -> None:
        self._told: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def watch(self, event: StreamEvent) -> None:
        """Learn what an event says."""
        if isinstance(event, TokenEvent):
            self._told[event.session_id] += [dict(entry) for entry in event.logprobs]

    def added(self, session: StreamSession) -> StreamSession:
        """The session with ``details["logprobs"]`` if they were asked for.

        An entry a token, as the runtime gave it: ``token``, ``logprob`` (natural logarithm),
        ``bytes`` and the likeliest instead as ``top_logprobs``.
        """
        if not session.options.logprobs:
            return session
        return replace(
            session, details={**session.details, "logprobs": self._told[session.session_id]}
        )


def session_row(session: StreamSession) -> dict[str, Any]:
    """The part of a finished session that comparisons show.

    ``logprobs`` is in it where :class:`Likelihoods` added it to the session.
    """
    likely: Mapping[str, Any] = {
        name: value for name, value in session.details.items() if name == "logprobs"
    }
    return {
        "model": session.model,
        "status": session.status.value,
        "text": session.text,
        **{name: session.metrics.get(name) for name in FIGURES},
        "prompt_tokens": session.prompt_tokens,
        "output_tokens": session.output_tokens,
        "finish_reason": session.finish_reason,
        "contended": session.overlap_ns > 0,
        **metrics.spoilt(session),
        "error_code": session.error.code.value if session.error else None,
        "error": str(session.error) if session.error else None,
        "warnings": [warning.message for warning in session.warnings],
        "fallback_from": session.fallback_from,
        "seed": session.seed,
        "session_id": session.session_id,
        "conversation_id": session.conversation_id,
        "comparison_id": session.comparison_id,
        **likely,
    }
