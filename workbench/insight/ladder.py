"""One model in several forms: what each costs in quality, bytes and speed.

Quality is how likely each form finds the same texts (perplexity), and how often it finds the same
token likeliest as the first form does. Every figure has its interval over the passages.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from workbench.analysis.statistics import MIN_PROMPTS, Estimate, estimate, exponential, share
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.hosts import family
from workbench.insight.alignment import stretches
from workbench.insight.asking import N_TOP, SOURCE, Tell, add_tokens, settled
from workbench.insight.passages import Passage
from workbench.insight.probabilities import Step, divergence_nats
from workbench.insight.spelling import pieces
from workbench.types import (
    ChatRequest,
    Message,
    Options,
    Priority,
    StreamEvent,
    StreamSession,
    TimingMode,
    TokenEvent,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.bench.road import Road

SYSTEM: Final = "You are a helpful assistant."
"""Said to all forms, so that no template adds a system prompt of its own."""
SPEED_PROMPTS: Final = 6
SPEED_TOKENS: Final = 64
MAX_RUNGS: Final = 16

Texts = Mapping[str, tuple[Step, ...]]
"""By passage, its tokens with what the model thought."""


@dataclass(frozen=True, slots=True)
class Rung:
    """What was measured of one form.

    Attributes:
        model: model id.
        texts: the passages, token by token.
        decode_tps: tokens per second of each answer of its own, by prompt.
        ttft_s: time to first token of the same.
        memory_bytes: the most that its processes held while it answered; None if unknown.
        size_bytes: on disk; None if unknown.
    """

    model: str
    texts: Texts
    decode_tps: Mapping[str, float]
    ttft_s: Mapping[str, float]
    memory_bytes: int | None = None
    size_bytes: int | None = None

    @property
    def perplexity(self) -> Estimate:
        """Exponential of the mean over passages of the mean negative logprob of a token."""
        return exponential(_mean(_nats(self.texts)))

    @property
    def bounded(self) -> bool:
        """Whether some tokens were not among the likeliest: the perplexity is at least this."""
        return any(_is_bound(step) for steps in self.texts.values() for step in steps)


@dataclass(frozen=True, slots=True)
class Ladder:
    """The forms in the order in which they were named; the first is what others are held to."""

    rungs: tuple[Rung, ...]
    clusters: Mapping[str, str]
    """The kind of each passage."""

    def frame(self) -> pd.DataFrame:
        """A row a form; ``_low`` and ``_high`` bound 95 % intervals.

        ``perplexity_ratio`` is to the first form, paired by passage; None where the two cut the
        passages into other tokens, or are bounds both. ``perplexity_ratio_bound`` is ``>=`` or
        ``<=`` where one is a bound. ``agreement`` is the share of tokens at which both find the
        same one likeliest, ``divergence_nats`` the mean divergence from the first form, at least.
        """
        import pandas as pd

        return pd.DataFrame([self.row(rung) for rung in self.rungs])

    def figure(self) -> go.Figure:
        """Perplexity against bytes on disk, with intervals; labels say how fast each form is."""
        return _plot(self)

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-ready values."""
        rows = self.frame().astype(object)
        records = rows.where(rows.notna(), None).to_dict("records")
        return {"rungs": records, "notes": list(self.notes())}

    def notes(self) -> Sequence[str]:
        """What the figures do not say by themselves, in sentences."""
        passages, kinds = len(self.clusters), len(set(self.clusters.values()))
        if passages < MIN_PROMPTS:
            return (f"No intervals: they need {MIN_PROMPTS} passages, and there are {passages}.",)
        if kinds < MIN_PROMPTS:
            return (
                f"No intervals of the same token: they need passages of {MIN_PROMPTS} kinds "
                f"(cluster), and there are {kinds}.",
            )
        return ()

    def row(self, rung: Rung) -> dict[str, Any]:
        """The row of one form."""
        first = self.rungs[0]
        row: dict[str, Any] = {
            "model": rung.model,
            "size_bytes": rung.size_bytes,
            "memory_bytes": rung.memory_bytes,
            **_columns("perplexity", rung.perplexity),
            "perplexity_is_bound": rung.bounded,
        }
        same_cut = rung is not first and _same_cut(first.texts, rung.texts)
        apart = _nats_apart(first.texts, rung.texts) if same_cut else {}
        low, high = _bounds(first.texts, rung.texts)
        known = bool(apart) and not (low and high)
        row |= _columns("perplexity_ratio", exponential(_mean(apart)) if known else None)
        # A perplexity is at least so much: a ratio has it above the line or below.
        row["perplexity_ratio_bound"] = (">=" if high else "<=" if low else None) if known else None
        row |= _columns("agreement", self._agreement(rung) if rung is not first else None)
        row["divergence_nats"] = _divergence(first.texts, rung.texts) if rung is not first else None
        row |= _columns("decode_tps", _geometric(rung.decode_tps))
        row |= _columns("ttft_s", _geometric(rung.ttft_s))
        return row

    def _agreement(self, rung: Rung) -> Estimate | None:
        families: dict[Hashable, list[float]] = defaultdict(list)
        for name, pairs in _pairs(self.rungs[0].texts, rung.texts).items():
            known = [(a.likeliest, b.likeliest) for a, b in pairs if a.top and b.top]
            if known:
                families[self.clusters[name]].append(sum(a == b for a, b in known) / len(known))
        return share(families) if families else None


async def ladder(
    road: Road,
    models: Sequence[str],
    passages: Sequence[Passage],
    *,
    sizes: Mapping[str, int | None],
    tell: Tell = lambda stage: None,
    climbed: Callable[[Ladder], None] = lambda ladder: None,
) -> Ladder:
    """Measure every form, one after the other, alone on the machine.

    Args:
        road: the way to the models.
        models: ids, the reference first.
        passages: what is read.
        sizes: bytes on disk by id.
        tell: told in a few words what is being done.
        climbed: given the ladder so far after each form.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, or of a model.
    """
    if not 2 <= len(models) <= MAX_RUNGS or len(set(models)) < len(models):
        raise invalid(
            f"A ladder of {len(models)} forms cannot be climbed.",
            fix=f"Name between 2 and {MAX_RUNGS} different forms, the best one first.",
        )
    rungs: list[Rung] = []
    # Those first that cut texts themselves: Ollama is then asked token by token.
    for place, model in enumerate(sorted(models, key=_asked_by_pieces), start=1):
        where = f"{model} ({place} of {len(models)})"
        texts: dict[str, tuple[Step, ...]] = {}
        for number, passage in enumerate(passages, start=1):
            tell(f"{where} reads passage {number} of {len(passages)}")
            given = _pieces(rungs, passage)
            texts[passage.id], _ = await _ask(road, model, passage.prompt, given)
        decode, first, held = {}, {}, 0
        for number, passage in enumerate(passages[:SPEED_PROMPTS], start=1):
            tell(f"{where} answers {number} of {min(len(passages), SPEED_PROMPTS)}")
            _, session = await _ask(road, model, passage.prompt, ())
            figures = session.metrics
            if speed := figures.get("decode_tps"):
                decode[passage.id] = float(speed)
            if wait := figures.get("ttft_s"):
                first[passage.id] = float(wait)
            held = max(held, int(figures.get("mem_peak_bytes") or 0))
        rungs.append(Rung(model, texts, decode, first, held or None, sizes.get(model)))
        found = Ladder(
            tuple(sorted(rungs, key=lambda rung: models.index(rung.model))),
            {one.id: one.cluster for one in passages},
        )
        climbed(found)
    return found


def _asked_by_pieces(model: str) -> bool:
    return family(model) == "ollama"


def _pieces(rungs: Sequence[Rung], passage: Passage) -> tuple[str, ...]:
    """The passage as the form before cut it, for runtimes that must be asked piece by piece."""
    if rungs:
        return pieces(rungs[0].texts[passage.id])
    return tuple(_words(passage.text))


def _words(text: str) -> list[str]:
    """Words with the space before them, as most tokenizers begin to cut."""
    return re.findall(r"\s*\S+|\s+$", text)


async def _ask(
    road: Road, model: str, prompt: str, forced: tuple[str, ...]
) -> tuple[tuple[Step, ...], StreamSession]:
    steps: list[Step] = []

    def take(event: StreamEvent) -> None:
        if isinstance(event, TokenEvent):
            add_tokens(steps, event)

    request = ChatRequest(
        model=model,
        messages=(Message("system", SYSTEM), Message("user", prompt)),
        options=Options(temperature=0.0, max_tokens=SPEED_TOKENS, logprobs=N_TOP if forced else 0),
        forced=forced,
        timing_mode=TimingMode.ISOLATED,
        priority=Priority.BENCHMARK,
        source=SOURCE,
    )
    session = await road.ask(request, take)
    if session.error is not None:
        raise session.error
    if forced and not steps:
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"{model} tells no probabilities.",
            fix="Choose another model.",
            operation="ladder",
        )
    return settled(steps), session


# -- figures ---------------------------------------------------------------------------------------


def _nats(texts: Texts) -> dict[str, float]:
    """Mean negative logprob of a token, by passage."""
    found = {}
    for name, steps in texts.items():
        values = [value for step in steps if step.is_known and (value := step.at_most) is not None]
        if values:
            found[name] = -math.fsum(values) / len(values)
    return found


def _nats_apart(first: Texts, other: Texts) -> dict[str, float]:
    """By how much the mean negative logprob is greater, over what both tell, by passage."""
    found = {}
    for name, steps in first.items():
        known = [one for one in stretches(steps, other.get(name, ())) if one.is_known]
        if known:
            one, two = (
                [step.at_most or 0.0 for part in known for step in (part.a, part.b)[side]]
                for side in (0, 1)
            )
            found[name] = math.fsum(one) / len(one) - math.fsum(two) / len(two)
    return found


def _bounds(first: Texts, other: Texts) -> tuple[bool, bool]:
    """Whether each one's perplexity, of what both tell, is a bound."""
    known = [
        one
        for name, steps in first.items()
        for one in stretches(steps, other.get(name, ()))
        if one.is_known
    ]
    return (
        any(_is_bound(step) for one in known for step in one.a),
        any(_is_bound(step) for one in known for step in one.b),
    )


def _is_bound(step: Step) -> bool:
    return step.logprob is None and step.is_known


def _mean(values: Mapping[str, float]) -> Estimate:
    return estimate(list(values.values()), len(values))


def _geometric(values: Mapping[str, float]) -> Estimate | None:
    if not values:
        return None
    return exponential(_mean({name: math.log(value) for name, value in values.items()}))


def _same_cut(first: Texts, other: Texts) -> bool:
    """Whether both have the same tokens, as far as both tell them."""
    return all(
        name in other
        and all(
            not one.is_known or len(one.a) == len(one.b) == 1
            for one in stretches(steps, other[name])
        )
        for name, steps in first.items()
    )


def _pairs(first: Texts, other: Texts) -> dict[str, list[tuple[Step, Step]]]:
    """Tokens that begin at the same place and are told, by passage."""
    return {
        name: [one.heads for one in stretches(steps, other.get(name, ())) if one.is_known]
        for name, steps in first.items()
    }


def _divergence(first: Texts, other: Texts) -> float | None:
    values = [
        value
        for pairs in _pairs(first, other).values()
        for one, two in pairs
        if (value := divergence_nats(one.top, two.top)) is not None
    ]
    return math.fsum(values) / len(values) if values else None


def _columns(name: str, found: Estimate | None) -> dict[str, float | None]:
    return {
        name: found.value if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
    }


def _plot(found: Ladder) -> go.Figure:
    import plotly.graph_objects as go

    from workbench.analysis.drawing import empty, short, styled, styles, whiskers

    title = "perplexity against size"
    rows = [row for row in map(found.row, found.rungs) if row["size_bytes"]]
    if not rows:
        return empty(title, "no form has a size on disk")
    looks = styles(row["model"] for row in rows)
    figure = go.Figure()
    for row in rows:
        model, look = row["model"], looks[row["model"]]
        low, high = (row[f"perplexity_{side}"] or math.nan for side in ("low", "high"))
        speed = f", {row['decode_tps']:.0f} tok/s" if row["decode_tps"] else ""
        figure.add_scatter(
            x=[row["size_bytes"] / 1e6],
            y=[row["perplexity"]],
            error_y=whiskers([row["perplexity"]], [low], [high]),
            mode="markers+text",
            marker={"color": look.colour, "symbol": look.mark, "size": 11},
            text=[f"{short(model)}{speed}"],
            textposition="middle right",
            name=short(model),
        )
    figure = styled(figure, title, height=340)
    figure.update_xaxes(title="bytes on disk (MB)", rangemode="tozero")
    figure.update_yaxes(title="perplexity of the passages (less is better)")
    return figure
