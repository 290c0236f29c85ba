"""Rows of a table that are chosen, by pointer or keyboard, each telling its id (``click``)."""

from __future__ import annotations

from typing import Final

SCRIPT: Final = """
const rows = () => [...element.querySelectorAll("tr[data-row]")];
const choose = (row) => {
  for (const one of rows()) one.setAttribute("aria-selected", String(one === row));
  trigger("click", { id: row.dataset.row });
};
element.addEventListener("click", ({ target }) => {
  const row = target.closest("tr[data-row]");
  if (row && !String(getSelection())) choose(row);
});
element.addEventListener("keydown", (event) => {
  const row = event.target;
  if (!row.matches("tr[data-row]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = rows(), at = all.indexOf(row);
  const next = { ArrowDown: all[at + 1], ArrowUp: all[at - 1], Home: all[0], End: all.at(-1) };
  const to = next[event.key];
  if (event.key === "Enter" || event.key === " ") choose(row);
  else if (to) {
    row.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  } else return;
  event.preventDefault();
});
"""
"""For the ``js_on_load`` of the block that holds the table; ``data-row`` is the id of a row."""


def follow(block: str) -> str:
    """Script: marks the row whose id was chosen elsewhere.

    Args:
        block: the ``elem_id`` of the block that holds the table.
    """
    return (
        f"(id) => {{ for (const row of document.querySelectorAll('#{block} tr[data-row]')) "
        "row.setAttribute('aria-selected', String(row.dataset.row === id)); }"
    )
