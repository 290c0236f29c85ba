"""The History tab."""

from workbench.ui.history.tab import HistoryTab

__all__ = ["HistoryTab"]
