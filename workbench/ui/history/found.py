"""The list of sessions: a row each, chosen by pointer or keyboard, marked for export and deletion.

A block of HTML with a few lines of script of its own, in gradio's way: a row can be chosen
(``click``), opened (``submit``), and marked (``input``). Each event carries the id of the chosen
row and those of the marked ones, so that quick ones need not know of each other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from workbench import figures
from workbench.figures import DASH, escape
from workbench.metrics import DEFINITIONS

SCRIPT: Final = """
const rows = () => [...element.querySelectorAll("tr[data-session]")];
const box = (row) => row.querySelector("input");
const chosen = () => rows().find((row) => row.getAttribute("aria-selected") === "true");
const state = () => ({
  id: chosen()?.dataset.session ?? "",
  ids: rows().filter((row) => box(row).checked).map((row) => row.dataset.session),
});
const told = () => trigger("input", state());
const choose = (row) => {
  for (const one of rows()) one.setAttribute("aria-selected", String(one === row));
  trigger("click", state());
};
const step = (row, to) => {
  if (!to) return;
  row.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
};
element.addEventListener("click", ({ target }) => {
  if (target.matches("thead input")) {
    for (const row of rows()) box(row).checked = target.checked;
    told();
    return;
  }
  const row = target.closest("tr[data-session]");
  if (!row) return;
  if (target.matches("input")) told();
  else if (target.closest("button")) trigger("submit", { id: row.dataset.session });
  else if (!String(getSelection())) choose(row);
});
element.addEventListener("keydown", (event) => {
  const row = event.target;
  if (!row.matches("tr[data-session]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = rows(), at = all.indexOf(row);
  const act = {
    ArrowDown: () => step(row, all[at + 1]),
    ArrowUp: () => step(row, all[at - 1]),
    Home: () => step(row, all[0]),
    End: () => step(row, all.at(-1)),
    Enter: () => choose(row),
    o: () => trigger("submit", { id: row.dataset.session }),
    " ": () => { box(row).checked = !box(row).checked; told(); },
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
"""

KEYS: Final = (
    "<kbd>↑</kbd><kbd>↓</kbd> move <kbd>Enter</kbd> show <kbd>o</kbd> open in Compare "
    "<kbd>Space</kbd> mark"
)

_END: Final = 14
"""Of a model's name these characters are always shown."""

_HEADS: Final = (
    # class, words, what it means
    ("time", "time", "when it was asked, UTC"),
    ("model", "model", "who answered"),
    ("words", "question", "its first words"),
    ("figure", "TTFT", DEFINITIONS["ttft_s"]),
    ("figure", "tok/s", DEFINITIONS["decode_tps"]),
    ("figure wb-wide", "tokens", "output tokens; ~ where the runtime did not count them"),
    ("status", "status", "how it ended"),
    ("wb-wide", "mode", "timing mode, and how much of it another generation ran beside"),
)


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The list; empty without rows.

    Args:
        rows: of :func:`workbench.store.search.search`.
    """
    if not rows:
        return ""
    heads = "".join(
        f'<th class="{kind}" title="{escape(meaning)}">{words}</th>'
        for kind, words, meaning in _HEADS
    )
    lines = "".join(_row(row, first=place == 0) for place, row in enumerate(rows))
    return (
        '<table class="wb-found" role="grid" aria-label="Sessions, the newest first" '
        'aria-multiselectable="false"><thead><tr>'
        '<th><input type="checkbox" aria-label="Mark all shown"></th>'
        f'{heads}<th aria-label="open"></th></tr></thead><tbody>{lines}</tbody></table>'
    )


def _row(row: Mapping[str, Any], *, first: bool) -> str:
    session, model = str(row["session_id"]), str(row["model"])
    at = dt.datetime.fromisoformat(row["created_at"]).astimezone(dt.UTC)
    provider = str(row["provider"])
    stands_in = (
        f' <span class="wb-mark" title="{escape(row["fallback_from"])} failed; this one answered '
        'in its place">fallback</span>'
        if row["fallback_from"]
        else ""
    )
    words = figures.shorten(row["prompt"] or "", 160)
    count, exact = row["output_tokens"], row["count_source"] == "runtime"
    share = figures.percent(row["overlap_s"] or 0.0, row["e2e_s"])
    late = figures.lateness(row)
    why = {f"contended {share} %": DEFINITIONS["overlap_s"]} if row["contended"] else {}
    why |= {late: figures.LATE} if late else {}
    marks = "".join(
        f' <span class="wb-contended" title="{escape(meaning)}">{escape(mark)}</span>'
        for mark, meaning in why.items()
    )
    doubt = f' title="{escape("; ".join(why))}"' if why else ""  # the marks need a wide window
    status = " ".join(str(part) for part in (row["status"], row["error_code"]) if part)
    return (
        f'<tr data-session="{escape(session)}" data-status="{escape(row["status"])}" '
        f'data-contended="{str(bool(row["contended"])).lower()}" '
        f'data-late="{str(bool(late)).lower()}" '
        f'tabindex="{0 if first else -1}" aria-selected="false">'
        '<td><input type="checkbox" tabindex="-1" aria-label="Mark"></td>'
        f'<td class="time" title="{at:%Y-%m-%d %H:%M:%S} UTC">{at:%m-%d %H:%M:%S}</td>'
        f'<td class="model" title="{escape(model)}"><span class="wb-dot" '
        f'data-provider="{escape(provider)}"></span>{_cut(model)}{stands_in}</td>'
        f'<td class="words" title="{escape(words)}">{escape(words) or DASH}</td>'
        f'<td class="figure"{doubt}>{figures.seconds(row["ttft_s"])}</td>'
        f'<td class="figure"{doubt}>{_bare(figures.rate(row["decode_tps"]))}</td>'
        f'<td class="figure wb-wide">{_bare(figures.tokens(count, exact=exact))}</td>'
        f'<td class="status" title="{escape(status)}">{escape(row["status"])}</td>'
        f'<td class="wb-wide">{escape(row["timing_mode"])}{marks}</td>'
        '<td><button type="button" tabindex="-1" title="Open in Compare as it was">open'
        "</button></td></tr>"
    )


def _cut(model: str) -> str:
    """A name that loses its middle where there is no room: forms of one model differ at the end."""
    head, tail = model[:-_END], model[-_END:]
    return f'<span class="wb-cut"><span>{escape(head)}</span><span>{escape(tail)}</span></span>'


def _bare(figure: str) -> str:
    """Without the unit that stands in the column's head."""
    return figure.removesuffix(" tok/s").removesuffix(" tok")
