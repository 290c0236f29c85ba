"""The panes as tabs, for windows too narrow for columns; the page's script switches them."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.figures import escape
from workbench.ui.pane import LETTERS
from workbench.ui.timeline import mark


def render(shown: Sequence[int], models: Sequence[str | None]) -> str:
    """One tab a pane, named by its letter and the end of its model's name."""
    buttons = "".join(_tab(number, models[number - 1] or "") for number in shown)
    return f'<div class="wb-tabs" role="tablist" aria-label="Panes">{buttons}</div>'


def _tab(number: int, model: str) -> str:
    name = model.rpartition("/")[2] or "no model"
    return (
        f'<button type="button" role="tab" class="wb-tab" data-tab="{number}" '
        f'aria-controls="pane-{number}" title="{escape(model)}">'
        f"{mark(LETTERS[number - 1], model)}<span>{escape(name)}</span></button>"
    )
