"""A run as a page, as Markdown or as a table; two runs in words."""

from __future__ import annotations

from workbench.bench.report.markdown import diff_markdown, markdown
from workbench.bench.report.page import page
from workbench.bench.report.summary import SUMMARY, as_values, csv, summary, write_table

__all__ = [
    "SUMMARY",
    "as_values",
    "csv",
    "diff_markdown",
    "markdown",
    "page",
    "summary",
    "write_table",
]
