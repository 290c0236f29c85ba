"""The unit of a dataset: one thing to ask, and what is known of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import invalid
from workbench.types import Message


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a dataset.

    ``messages`` is what the model is asked, the question last. Items that share a source (a text,
    a template) share a ``cluster``: their scores are not independent. None is a cluster of its own.
    ``expected`` is the right answer as text, ``choices`` what may be chosen from. ``meta`` holds
    everything else that its scorer knows of: a schema, a tolerance, tests of code.
    """

    id: str
    messages: tuple[Message, ...]
    cluster: str | None = None
    expected: str | None = None
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages:
            raise invalid(f"Item {self.id!r} asks nothing.", fix="Give a prompt or messages.")

    @property
    def prompt(self) -> str:
        """The last message: the question itself."""
        return self.messages[-1].content

    @property
    def family(self) -> str:
        """What its score hangs together with: its cluster, or itself alone."""
        return self.cluster or self.id

    @classmethod
    def of(cls, id: str, prompt: str, **rest: Any) -> Item:
        """An item of one user message."""
        return cls(id, (Message("user", prompt),), **rest)
