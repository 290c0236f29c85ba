"""A vote over answers, as the pairs that a ranking is computed from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from workbench.types import new_id

if TYPE_CHECKING:
    from workbench.store import Store

TIE: Final = "tie"
ALL_BAD: Final = "all bad"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the answers, in the order in which they were shown."""

    model: str
    session_id: str | None
    conversation_id: str | None = None


def rows(
    comparison_id: str | None,
    candidates: Sequence[Candidate],
    winner: int | str,
    *,
    blind: bool = False,
    mode: str = "compare",
) -> list[dict[str, Any]]:
    """Rows of ``votes``: one for each pair that the vote says something about.

    Args:
        comparison_id: what the log calls the answers together.
        candidates: at least two.
        winner: index of the best one, which then beats each other one; or :data:`TIE` or
            :data:`ALL_BAD`, which hold between all.
        blind: whether the voter did not know the models.
        mode: what the answers were asked in, ``compare`` or ``arena``.
    """
    verdict = {TIE: "tie", ALL_BAD: "both_bad"}.get(str(winner))
    now = dt.datetime.now(dt.UTC)
    ballot = new_id("bal")
    return [
        {
            "vote_id": new_id("vot"),
            "created_at": now,
            "comparison_id": comparison_id,
            "model_a": candidates[a].model,
            "model_b": candidates[b].model,
            "session_a": candidates[a].session_id,
            "session_b": candidates[b].session_id,
            "winner": verdict or ("a" if winner == a else "b"),
            "blind": blind,
            "details": {
                "mode": mode,
                "ballot": ballot,
                "candidates": len(candidates),
                "conversations": [candidates[i].conversation_id for i in (a, b)],
            },
        }
        for a, b in combinations(range(len(candidates)), 2)
        if verdict or winner in (a, b)
    ]


def given(store: Store, comparison_id: str | None) -> str | None:
    """What was last voted on a comparison: the best one's session id, :data:`TIE`, :data:`ALL_BAD`.

    Args:
        store: the log.
        comparison_id: what it calls the answers together.

    Raises:
        WorkbenchError: as ``Store.query``.
    """
    found = store.rows(
        "SELECT winner, session_a, session_b FROM votes WHERE comparison_id = $id "
        "ORDER BY created_at DESC LIMIT 1",
        {"id": comparison_id},
    )
    for row in found:
        either = {"a": row["session_a"], "b": row["session_b"], "tie": TIE, "both_bad": ALL_BAD}
        return either.get(row["winner"])
    return None
