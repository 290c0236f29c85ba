"""The table of benchmark runs: a row a run, the chosen one marked."""

from __future__ import annotations

import re

from tests.ui.test_stock import cells
from workbench.ui.benchmarks import table

RUN = {
    "run_id": "run_1",
    "name": "<quick>",
    "created_at": "2026-03-01T12:30:05+00:00",
    "status": "ok",
    "cells": 2,
    "trials": 1600,
    "slo_met": False,
}


def test_rows_say_what_became_of_a_run() -> None:
    shown = table.render([RUN, {**RUN, "run_id": "run_2", "status": "active", "slo_met": None}])
    row = ["&lt;quick&gt;", "03-01 12:30", "ok", "2", "1,600", "missed", "run_1"]
    assert cells(shown, "run_1") == row
    assert cells(shown, "run_2")[2:6] == ["active", "–", "–", "–"]
    assert 'title="2026-03-01 12:30:05 UTC"' in shown
    assert "No run yet" in table.render([])


def test_the_chosen_run_is_marked() -> None:
    shown = table.render([RUN, {**RUN, "run_id": "run_2"}], "run_2")
    assert re.findall(r'data-row="(\w+)"[^>]*aria-selected="true"', shown) == ["run_2"]
