"""The Benchmarks tab."""

from __future__ import annotations

from workbench.ui.benchmarks.tab import BenchmarksTab

__all__ = ["BenchmarksTab"]
