"""From the composer and the panes to the engine's requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.errors import invalid
from workbench.live import LiveAnswer
from workbench.types import ChatRequest, new_id
from workbench.ui.composer import Ask
from workbench.ui.conversation import Turn, conversation_id, to_send, turn_of
from workbench.ui.pane import LETTERS

SOURCE = "ui"
"""What the log says about where these requests came from."""


@dataclass(frozen=True)
class Plan:
    """One question to several panes. The mappings go by pane number."""

    ask: Ask
    shown: tuple[int, ...]
    """The panes on the page; only these are asked."""
    models: Mapping[int, str | None]
    earlier: Mapping[int, tuple[Turn, ...]]
    """The histories of all panes before the question."""
    requests: Mapping[int, ChatRequest]
    answers: Mapping[int, LiveAnswer]
    kept: Mapping[int, LiveAnswer] = field(default_factory=dict)
    """The last answers of the panes that are not asked this time."""

    @property
    def comparison_id(self) -> str | None:
        """What the log calls these answers together."""
        return next((call.comparison_id for call in self.requests.values()), None)

    @property
    def figures(self) -> Mapping[int, LiveAnswer]:
        """The answers whose figures the panes show."""
        return {**self.kept, **self.answers}

    def latest(self, pane: int) -> LiveAnswer | None:
        """The answer whose figures the pane shows."""
        return self.figures.get(pane)

    def turns(self, pane: int) -> tuple[Turn, ...]:
        """The pane's history with the answer as far as it has come.

        A refused question is no turn: nobody was asked.
        """
        answer = self.answers.get(pane)
        if answer is None or answer.phase == "rejected":
            return self.earlier[pane]
        return (*self.earlier[pane], turn_of(answer))


def plan(
    ask: Ask,
    shown: Sequence[int],
    models: Mapping[int, str | None],
    turns: Mapping[int, tuple[Turn, ...]],
    *,
    only: int | None = None,
    kept: Mapping[int, LiveAnswer] | None = None,
) -> Plan:
    """One request per pane, each with its own history.

    Args:
        ask: the question.
        shown: the panes on the page.
        models: model id by pane.
        turns: history by pane.
        only: the one pane that is asked; None: all on the page.
        kept: the answers that the panes show now; those of panes that are not asked stay.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` when a pane that is asked has no model.
    """
    asked = shown if only is None else [only]
    chosen = {pane: model for pane in asked if (model := models[pane])}
    if not chosen:
        raise invalid(
            "No model is chosen.",
            fix="Choose one in a pane; `workbench models pull demo` brings a first one.",
        )
    if without := [LETTERS[pane - 1] for pane in asked if pane not in chosen]:
        raise invalid(
            f"Pane {' and '.join(without)} {'has' if len(without) == 1 else 'have'} no model; "
            "nothing was sent.",
            fix="Choose one, or remove the pane.",
        )
    comparison, now = new_id("cmp"), time.monotonic_ns()
    requests = {
        pane: ChatRequest(
            model=model,
            messages=to_send(turns[pane], model, ask.system, ask.prompt, ask.images),
            options=ask.of(pane),
            timing_mode=ask.mode,
            conversation_id=conversation_id(turns[pane], model),
            comparison_id=comparison,
            source=SOURCE,
        )
        for pane, model in chosen.items()
    }
    answers = {
        pane: LiveAnswer(
            model=request.model,
            prompt=ask.prompt,
            images=ask.images,
            conversation_id=request.conversation_id,
            asked=now,
        )
        for pane, request in requests.items()
    }
    others = {pane: answer for pane, answer in (kept or {}).items() if pane not in answers}
    return Plan(ask, tuple(shown), models, turns, requests, answers, others)


def without_last(turns: Sequence[Turn], prompt: str) -> tuple[Turn, ...]:
    """The history before this question was asked, to ask it again under the same conditions.

    A second answer must not have seen the first one. The one taken back stays in the log.
    """
    kept = turns[:-1] if turns and turns[-1].prompt == prompt else turns
    return tuple(kept)
