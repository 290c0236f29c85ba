"""The Health tab."""

from __future__ import annotations

from workbench.ui.health.tab import HealthTab

__all__ = ["HealthTab"]
