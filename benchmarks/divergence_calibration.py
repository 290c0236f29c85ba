"""How far apart are forms of one model, and how far other models or prompts? Sets the verdicts.

    python -m benchmarks.divergence_calibration -m MODEL -m "MODEL?quantization=int8" -m OTHER

The first model answers the prompts of our own passages; every model, the first one included, then
reads these answers token by token: under the same system prompt, and under one that asks for
something else. Printed per reading: divergence from the first model in nats (at least), and the
share of places where both find the same token likeliest, as the means over the answers with the
least and the greatest. ``workbench.insight.divergence`` takes
its bounds between the two groups.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from statistics import fmean

from workbench.engine import Engine, build
from workbench.insight import Divergence
from workbench.insight.asking import N_TOP, SOURCE, add_tokens, settled
from workbench.insight.divergence import Answer
from workbench.insight.passages import read
from workbench.insight.probabilities import Step
from workbench.insight.spelling import pieces
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ChatRequest, ErrorEvent, Message, Options, TimingMode, TokenEvent

PLAIN = "You are a helpful assistant."
OTHERS = (
    "Answer in the words of a pirate.",
    "Answer with a list of ten numbers and nothing else.",
)
TOKENS = 48


def main() -> None:
    """Print one line a model and system prompt."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("--prompts", type=int, default=8)
    arguments = parser.parse_args()
    prompts = [one.prompt for one in read()[: arguments.prompts]]
    asyncio.run(compare(arguments.model, prompts))


async def compare(models: Sequence[str], prompts: Sequence[str]) -> None:
    """Let the first model answer and all of them read."""
    settings = load_settings()
    engine = build(settings, Store.open(settings.workbench_db))
    try:
        answers = [await steps(engine, models[0], PLAIN, prompt) for prompt in prompts]
        print("| model | system prompt | nats, at least | same token likeliest |")
        print("|---|---|---|---|")
        for model in models:
            for system in (PLAIN, *OTHERS):
                nats, same = [], []
                for prompt, answer in zip(prompts, answers, strict=True):
                    given = pieces(answer)
                    reading = await steps(engine, model, system, prompt, given)
                    own = Answer(models[0], tuple(answer))
                    found = Divergence(own, Answer(model, ()), tuple(reading))
                    nats.append(found.mean_divergence_nats or 0.0)
                    same.append(found.agreement or 0.0)
                print(
                    f"| {model} | {system} | {fmean(nats):.3f} [{min(nats):.3f}, {max(nats):.3f}] "
                    f"| {fmean(same):.0%} [{min(same):.0%}, {max(same):.0%}] |",
                    flush=True,
                )
    finally:
        await engine.close()


async def steps(
    engine: Engine, model: str, system: str, prompt: str, forced: tuple[str, ...] = ()
) -> list[Step]:
    """The tokens of an answer, the model's own or a given one."""
    request = ChatRequest(
        model,
        (Message("system", system), Message("user", prompt)),
        Options(max_tokens=TOKENS, temperature=0.0, logprobs=N_TOP),
        forced=forced,
        timing_mode=TimingMode.ISOLATED,
        source=SOURCE,
    )
    found: list[Step] = []
    async with aclosing(engine.stream(request)) as events:
        async for event in events:
            if isinstance(event, ErrorEvent):
                raise event.error
            if isinstance(event, TokenEvent):
                add_tokens(found, event)
    return list(settled(found))


if __name__ == "__main__":
    main()
