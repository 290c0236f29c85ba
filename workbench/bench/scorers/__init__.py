"""How good an answer is: scorers by the names that specs use.

A spec names a scorer (``"exact"``), or gives it options too
(``{scorer = "numeric", tolerance = 0.5}``).
``"item"`` takes for each item the scorer that the item itself names in its ``scorer``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from workbench.bench.items import Item
from workbench.bench.scorers import judge as judges
from workbench.bench.scorers import sandbox
from workbench.bench.scorers.base import Answer, Ask, Pure, Score, Scorer, lacks, score_row
from workbench.bench.scorers.choice import Choice
from workbench.bench.scorers.code import Code
from workbench.bench.scorers.judge import Judge
from workbench.bench.scorers.rules import rules
from workbench.bench.scorers.structure import json_schema
from workbench.bench.scorers.text import contains, exact, numeric, regex
from workbench.errors import WorkbenchError, invalid

if TYPE_CHECKING:
    from workbench.settings import Settings

__all__ = [
    "NAMES",
    "Answer",
    "Ask",
    "Judge",
    "Score",
    "Scorer",
    "build",
    "lack",
    "score_row",
]

_PURE: Final[Mapping[str, Callable[..., Scorer]]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "choice": lambda *, needs_logprobs=False: Choice(needs_logprobs),
}

_SEARCHING: Final[Mapping[str, Callable[..., Scorer]]] = {
    "regex": regex,
    "json_schema": json_schema,
    "rules": rules,
}
"""Those that search for patterns, which may take for ever: their first argument is the limit."""

NAMES: Final = (*_PURE, *_SEARCHING, "code", "judge", "item")
"""The scorers that a spec may name."""


def build(spec: str | Mapping[str, Any], settings: Settings, ask: Ask | None = None) -> Scorer:
    """The scorer that a spec names.

    Args:
        spec: its name, or its name as ``scorer`` with its options.
        settings: limits of the sandbox and of searches.
        ask: reaches models, for a judge.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, an unknown name or option.
    """
    given = {"scorer": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("scorer", None)
    makers: dict[str, Callable[..., Scorer]] = {
        **_PURE,
        **{
            each: partial(maker, settings.workbench_bench_regex_s)
            for each, maker in _SEARCHING.items()
        },
        "code": lambda: Code(_limits(settings), settings.workbench_bench_uncontained_code),
        "judge": partial(judges.judge, ask),
        "item": lambda: Own(settings, ask),
    }
    if name not in makers:
        raise invalid(f"There is no scorer {name!r}.", fix=f"The scorers are {', '.join(NAMES)}.")
    maker = makers[name]
    known = _options(maker)
    if unknown := sorted(given.keys() - known):
        raise invalid(
            f"The scorer {name!r} has no option {unknown[0]!r}.",
            fix=f"Its options are {', '.join(sorted(known))}." if known else "It has none.",
        )
    return maker(**given)


def lack(scorer: Scorer, item: Item) -> str:
    """What an item lacks that a scorer needs; empty if nothing, or if only scoring can tell."""
    try:
        if isinstance(scorer, Own):
            return lack(scorer.own(item), item)
        if isinstance(scorer, Code):
            scorer.tests(item)
        elif isinstance(scorer, Pure | Choice):
            scorer.of(item, Answer(""))
    except WorkbenchError as error:
        return str(error.details.get("needs", ""))
    except Exception:  # a scorer's defect, which costs its score alone
        return ""
    return ""


def _options(maker: Callable[..., Scorer]) -> set[str]:
    given = inspect.signature(maker).parameters.values()
    return {option.name for option in given if option.kind is option.KEYWORD_ONLY}


def _limits(settings: Settings) -> sandbox.Limits:
    return sandbox.Limits(
        time_s=settings.workbench_bench_code_s,
        memory_bytes=settings.workbench_bench_code_memory,
        output_bytes=settings.workbench_bench_code_output,
    )


@dataclass(frozen=True, slots=True)
class Own:
    """Each item is scored by the scorer that it names."""

    settings: Settings
    ask: Ask | None
    name: str = "item"
    logprobs: int = 0  # probabilities cost time at every token: whoever wants them asks for them
    _built: dict[str, Scorer] = field(default_factory=dict, repr=False, compare=False)

    def own(self, item: Item) -> Scorer:
        """The scorer that the item names.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, it names none that there is.
        """
        spec = item.meta.get("scorer")
        if not isinstance(spec, str | Mapping):
            raise lacks(item, self.name, "scorer")
        key = repr(spec)
        if key not in self._built:
            self._built[key] = build(spec, self.settings, self.ask)
        return self._built[key]

    async def score(self, item: Item, answer: Answer) -> Score:
        """By its own scorer; ``details.scorer`` says which."""
        own = self.own(item)
        scored = await own.score(item, answer)
        return Score(scored.value, {**scored.details, "scorer": own.name})
