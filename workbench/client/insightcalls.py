"""Why models differ, by plain calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.client.following import Following
from workbench.client.insight import climb, request_of

if TYPE_CHECKING:
    from workbench.bench.road import Road
    from workbench.insight import Divergence, ParitySheet
    from workbench.insight.ladder import Ladder


class InsightCalls(Following):
    """The part of :class:`workbench.client.Workbench` that explains differences."""

    def parity(
        self, a: str, b: str, prompt: str, *, system: str | None = None, **options: Any
    ) -> ParitySheet:
        """What two models make of one prompt before they answer, and why they will differ.

        Args:
            a: model id or a bare name.
            b: the other one.
            prompt: the user's message.
            system: system prompt of both.
            options: sampling options; temperature 0 unless given.

        Returns:
            The sheet; its ``causes`` are ranked, and a notebook shows it as tables.

        Raises:
            WorkbenchError: of either model.
        """
        request = request_of(a, prompt, system, "python", options)
        return self._transport.parity(request, b)

    def diverge(
        self,
        a: str,
        b: str,
        prompt: str,
        *,
        system: str | None = None,
        repeats: int = 2,
        **options: Any,
    ) -> Divergence:
        """Where two answers to one prompt part, and whether that was a coin toss.

        Both models answer alone on the machine, with the probabilities of the 20 likeliest tokens;
        then ``b`` is made to read ``a``'s answer token by token.

        Args:
            a: model id or a bare name.
            b: the other one.
            prompt: the user's message.
            system: system prompt of both.
            repeats: further answers of each, to see whether it always says the same.
            options: sampling options; greedy and 64 tokens unless given.

        Raises:
            WorkbenchError: of either model.
        """
        request = request_of(a, prompt, system, "python", options)
        return self._transport.diverge(request, b, repeats)

    def ladder(
        self,
        models: Sequence[str],
        *,
        passages: str | Path | None = None,
        on_stage: Callable[[str], None] = lambda stage: None,
        on_ladder: Callable[[Ladder], None] = lambda ladder: None,
    ) -> Ladder:
        """One model in several forms: perplexity, agreement, bytes and speed, with intervals.

        Args:
            models: ids, the one that others are held to first.
            passages: a JSONL file with ``id``, ``prompt``, ``text``; default texts of our own.
            on_stage: told in a few words what is being done, several times a second.
            on_ladder: given the ladder so far after each form, so that a stopped one is not lost;
                called from another thread.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, or of a model.
        """
        sizes = {model: self._transport.show(model).size_bytes for model in models}
        stages = [""]
        path = None if passages is None else Path(passages)

        async def work(road: Road) -> Ladder:
            return await climb(road, models, path, sizes, stages.append, on_ladder)

        return self._transport.drive(work, lambda: on_stage(stages[-1]))
