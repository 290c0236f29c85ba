"""Sheets and divergences as HTML, for the page and for notebooks alike.

Styled by attributes, as a notebook has no sheet of ours, and in translucent colours, which read on
light and dark. What colour says is said in words too, in a mark or in the title of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from workbench.analysis.frames import rows_of
from workbench.analysis.timing import PARTS
from workbench.insight.probabilities import NOT_TOLD, Step, shares
from workbench.insight.spelling import is_told

if TYPE_CHECKING:
    from workbench.insight.divergence import Answer, Divergence
    from workbench.insight.seconds import Seconds
    from workbench.insight.sheet import ParitySheet

_BADGE: Final = (
    "display:inline-block;min-width:64px;padding:0 6px;border-radius:4px;text-align:center;"
    "font-size:11px;background:rgba(138,138,148,.22)"
)
_EFFECT: Final = {
    "decisive": "background:rgba(197,48,48,.25)",
    "large": "background:rgba(183,121,31,.28)",
    "some": "background:rgba(124,92,191,.22)",
    "small": "",
}
_TEXT: Final = (
    "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;font-family:"
    "ui-monospace,Menlo,Consolas,monospace;font-size:12.5px"
)
_CELL: Final = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;overflow-wrap:anywhere"
_HEAT: Final = "183,121,31"
_LONG: Final = 600
"""Characters of a stretch that both prompts share, of which the middle is left out."""
_SHOWN: Final = 5


def sheet(sheet: ParitySheet) -> str:
    """The parity sheet: causes, prompts, facts."""
    parts = [_sides(sheet.a.model, sheet.b.model), _causes(sheet), _prompts(sheet), _facts(sheet)]
    return f'<div class="wb-insight">{"".join(parts)}</div>'


def divergence(found: Divergence) -> str:
    """The verdict, both answers coloured by surprise, and the figures."""
    parting = found.parting or (-1, -1)
    parts = [
        f'<p class="wb-verdict"><strong>{escape(found.verdict.replace("_", " "))}</strong> '
        f"{escape(found.says)}</p>",
        _answer("A", found.a, parting[0], found.steady(found.a)),
        _answer("B", found.b, parting[1], found.steady(found.b)),
    ]
    if found.forced:
        words = f"A's answer as {escape(found.b.model)} reads it"
        parts.append(f"<h4>{words}</h4>{tokens(found.forced)}")
    lines = "".join(
        f'<tr><th style="{_CELL};font-weight:400">{escape(name)}</th>'
        f'<td style="{_CELL};font-variant-numeric:tabular-nums">{escape(value)}</td></tr>'
        for name, value in found.figures()
    )
    if lines:
        parts.append(f"<table>{lines}</table>")
    note = "The darker a token, the less likely it was; point at one to see what was likelier."
    return f'<div class="wb-insight">{"".join(parts)}<p class="wb-dim">{note}</p></div>'


def seconds(found: Seconds) -> str:
    """What took longest, and the parts of each answer in seconds."""
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.sentences())
    rows = list(rows_of(found.ledger))
    if not rows:
        return '<div class="wb-insight"><p>No answer reached a runtime.</p></div>'
    head = "".join(
        f'<th style="{_CELL}">{chr(65 + i)} {escape(row.model)}</th>' for i, row in enumerate(rows)
    )
    named = {**PARTS, "wall_s": "together", "ttft_s": "time to first token"}
    lines = "".join(
        f'<tr><th style="{_CELL};font-weight:400">{escape(word)}</th>'
        + "".join(_cell(getattr(row, column), " s") for row in rows)
        + "</tr>"
        for column, word in named.items()
    )
    for column, word in (
        ("decode_tps", "tokens per second, our clock"),
        ("runtime_decode_tps", "tokens per second, the runtime's clock"),
    ):
        cells = "".join(_cell(getattr(row, column), "", digits=1) for row in rows)
        lines += f'<tr><th style="{_CELL};font-weight:400">{word}</th>{cells}</tr>'
    for column, word in (
        ("prompt_tokens", "tokens of the prompt"),
        ("output_tokens", "tokens of the answer"),
    ):
        cells = "".join(_cell(getattr(row, column), "", digits=0) for row in rows)
        lines += f'<tr><th style="{_CELL};font-weight:400">{word}</th>{cells}</tr>'
    return (
        f'<div class="wb-insight"><ul style="margin:6px 0;padding-left:18px">{said}</ul>'
        f"<table><tr><th></th>{head}</tr>{lines}</table>"
        '<p class="wb-dim">A runtime that has read the same prompt shortly before may keep what it '
        "made of it (Ollama does): its prompt time is then that of the rest.</p></div>"
    )


def _cell(value: float, unit: str, *, digits: int = 3) -> str:
    known = value == value  # NaN is not
    words = f"{value:.{digits}f}{unit}" if known else "-"
    return f'<td style="{_CELL};font-variant-numeric:tabular-nums">{words}</td>'


def tokens(steps: Sequence[Step], marked: int = -1) -> str:
    """Tokens on a ground that is the darker, the less likely each was; one may be framed."""
    drawn = "".join(_token(step, framed=i == marked) for i, step in enumerate(steps))
    return f'<div style="{_TEXT}">{drawn}</div>'


def _token(step: Step, *, framed: bool) -> str:
    surprise = 1 - math.exp(step.at_most) if step.at_most is not None else 0.0
    frame = ";outline:2px solid rgba(197,48,48,.8)" if framed else ""
    style = f"background:rgba({_HEAT},{0.75 * surprise:.2f});border-radius:2px{frame}"
    return f'<span style="{style}" title="{escape(_told(step))}">{escape(step.text)}</span>'


def _told(step: Step) -> str:
    if step.at_most is None:
        return "probability unknown"
    bound = "under " if step.logprob is None else ""
    others = ", ".join(
        f"{name!r} {share:.0%}"
        for name, share in list(shares(step.top).items())[:_SHOWN]
        if name != step.name
    )
    name = step.name if is_told(step.name) else NOT_TOLD
    return f"{name!r}: {bound}{math.exp(step.at_most):.1%}" + (f"; else {others}" if others else "")


def _answer(letter: str, answer: Answer, marked: int, steady: str) -> str:
    steady = f" · {escape(steady)}" if steady else ""
    ended = ""
    if marked >= len(answer.steps):
        ended = '<p class="wb-dim">It ends where the other goes on.</p>'
    head = f"<h4>{letter} {escape(answer.model)}{steady}</h4>"
    return head + tokens(answer.steps, marked) + ended


def _sides(a: str, b: str) -> str:
    return f'<p class="wb-dim">A {escape(a)} · B {escape(b)}</p>'


def _causes(sheet: ParitySheet) -> str:
    if not sheet.causes:
        return "<p>Nothing was found that would make the answers differ.</p>"
    lines = "".join(
        f'<tr><td style="{_CELL}"><span style="{_BADGE};{_EFFECT[cause.effect]}">{cause.effect}'
        f'</span></td><td style="{_CELL}">{escape(cause.says)}<br>'
        f'<span class="wb-dim">→ {escape(cause.fix)}</span></td></tr>'
        for cause in sheet.causes
    )
    return f"<h4>Why the answers will differ, the likeliest first</h4><table>{lines}</table>"


def _prompts(sheet: ParitySheet) -> str:
    counts = [
        f"{letter} {len(one.token_ids):,} tokens" if one.token_ids is not None else ""
        for letter, one in (("A", sheet.a), ("B", sheet.b))
    ]
    said = " · ".join(count for count in counts if count)
    if sheet.same_prompt:
        head = f"The same prompt, id by id ({said.partition(' · ')[0].removeprefix('A ')})"
    else:
        head = f"The prompts ({said})" if said else "The prompts"
    stretches = sheet.stretches()
    if not stretches:
        untold = [
            f"{one.model}: {one.untold['rendered']}"
            for one in (sheet.a, sheet.b)
            if one.untold.get("rendered")
        ]
        return f'<h4>{head}</h4><p class="wb-dim">{escape("; ".join(untold))}</p>'
    drawn = "".join(
        _shared(one.a)
        if one.same
        else f'<del style="background:rgba(197,48,48,.22)">{escape(one.a)}</del>'
        f'<ins style="background:rgba(47,133,90,.25)">{escape(one.b)}</ins>'
        for one in stretches
    )
    legend = ""
    if any(not one.same for one in stretches):
        legend = '<p class="wb-dim">Struck through: only A. Underlined: only B.</p>'
    return f'<h4>{head}</h4><div style="{_TEXT}">{drawn}</div>{legend}'


def _shared(text: str) -> str:
    if len(text) <= _LONG:
        return escape(text)
    half = _LONG // 2
    left_out = f" ... {len(text) - _LONG:,} characters ... "
    return f"{escape(text[:half])}<em>{left_out}</em>{escape(text[-half:])}"


def _facts(sheet: ParitySheet) -> str:
    lines = "".join(
        f'<tr><th style="{_CELL};font-weight:400">{"≠ " if fact.differs else ""}{escape(fact.name)}'
        f"</th>"
        + "".join(
            f'<td style="{_CELL};{"font-weight:600" if fact.differs else ""}">{escape(side)}</td>'
            for side in (fact.a, fact.b)
        )
        + "</tr>"
        for fact in sheet.facts()
    )
    head = "".join(f'<th style="{_CELL}">{name}</th>' for name in ("", "A", "B"))
    return f"<h4>All that the runtimes tell</h4><table><tr>{head}</tr>{lines}</table>"
