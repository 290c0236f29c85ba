"""Answers that are Python code: run in the sandbox with the item's tests."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Final

from workbench.bench.items import Item
from workbench.bench.scorers import sandbox
from workbench.bench.scorers.base import Answer, Score, lacks, verdict
from workbench.errors import WorkbenchError, invalid

_FENCE: Final = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.I)
_AT_ONCE: Final = 2
"""Sandboxes beside each other: they compute, and so does what is measured."""

_REASONS: Final = {
    "failed": "the tests failed",
    "timeout": "not done within the time limit",
    "output": "wrote more than the limit",
    "died": "ended by a signal",
}


@dataclass(frozen=True, slots=True)
class Code:
    """Right if the item's ``tests`` (Python that raises) pass with the answer's code.

    The code is that of the first fenced block, or the whole answer. It runs in a sandbox, see
    :mod:`workbench.bench.scorers.sandbox`; where this machine allows no namespaces it does not run
    at all, unless ``uncontained`` says that limits are enough. ``details.contained`` tells.

    Attributes:
        limits: of one run.
        uncontained: run also where neither network nor files can be cut off.
    """

    limits: sandbox.Limits = field(default_factory=sandbox.Limits)
    uncontained: bool = False
    name: str = "code"
    logprobs: int = 0
    _turns: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_AT_ONCE), repr=False, compare=False
    )

    def tests(self, item: Item) -> str:
        """What an item's answer must pass.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, there is nothing.
        """
        tests = item.meta.get("tests")
        if not isinstance(tests, str) or not tests.strip():
            raise lacks(item, self.name, "tests")
        return tests

    async def score(self, item: Item, answer: Answer) -> Score:
        """Run it.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, no tests, or the code cannot be contained.
        """
        tests = self.tests(item)
        contained = await asyncio.to_thread(sandbox.can_contain)
        if not contained and not self.uncontained:
            raise forbidden()
        async with self._turns:
            outcome = await sandbox.run(code_of(answer.text), tests, self.limits, contain=contained)
        return verdict(
            outcome.ending == "ok",
            _REASONS.get(outcome.ending, ""),
            ending=outcome.ending,
            output=outcome.output,
            contained=outcome.contained,
        )


def code_of(text: str) -> str:
    """The first fenced block of Python, or all of it."""
    found = _FENCE.search(text)
    return found[1] if found else text


def forbidden() -> WorkbenchError:
    """The refusal of a machine that cannot keep code from its network and files."""
    return invalid(
        "A model's code cannot be run here: this machine allows no namespaces, so it could reach "
        "your files and the network.",
        fix="Allow unprivileged user namespaces (and install util-linux), or accept it with "
        "WORKBENCH_BENCH_UNCONTAINED_CODE=true.",
    )
