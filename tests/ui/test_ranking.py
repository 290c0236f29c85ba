"""What the arena says of its votes."""

from __future__ import annotations

import pytest

from workbench import analysis
from workbench.store import Store
from workbench.ui import ranking
from workbench.votes import TIE, Candidate, rows

BOTH = [Candidate("ollama/<b>", None), Candidate("huggingface/a", None)]


@pytest.mark.parametrize(
    ("won", "ties", "words"),
    [
        (0, 0, "No vote yet"),
        (0, 1, "are as good as equal</strong>: 1 vote so far"),
        (2, 0, "ahead of huggingface/a, but not surely"),
        (30, 0, "is preferred to huggingface/a"),
    ],
)
def test_the_finding_is_a_sentence(store: Store, won: int, ties: int, words: str) -> None:
    for i, winner in enumerate([*[0] * won, *[TIE] * ties]):
        store.insert("votes", *rows(f"cmp_{i}", BOTH, winner, blind=True)).stored.result(10)
    found = analysis.arena_leaderboard(store.query)
    assert words in ranking.finding(found)
    if won or ties:
        page = ranking.finding(found) + ranking.table(found)
        assert "ollama/&lt;b&gt;" in page
        assert "<b>" not in page
        assert page.count("<tr>") == 3
