"""The hosts of one runtime as one catalogue: who answers, who has a model, who takes a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from workbench import hosts
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hosts import Host
from workbench.providers.base import Provider
from workbench.providers.listing import Lister
from workbench.providers.ollama_wire import canonical
from workbench.types import ModelInfo

_FRESH_S: Final = 30.0
"""What a host lists is believed for so long; a page or the health of a server asks anyway."""
_AGAIN_S: Final = 5.0
"""A host that did not answer is asked again after so long, beside the requests."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    names: frozenset[str]
    problem: WorkbenchError | None = None


class Spread:
    """Knows what the hosts last said. Belongs to one event loop.

    Args:
        providers: one a host, by name, in the order of registration.
        busy: how many requests a provider has, running and waiting.
        lister: how they are asked for their models.
    """

    def __init__(
        self, providers: Mapping[str, Provider], busy: Callable[[str], int], lister: Lister
    ) -> None:
        self._providers = providers
        self._busy = busy
        self._lister = lister
        self._seen: dict[str, _Seen] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def heard(self, name: str, answer: Sequence[ModelInfo] | WorkbenchError) -> None:
        """A host has listed its models, or did not answer."""
        now = time.monotonic()
        if isinstance(answer, WorkbenchError):
            self._seen[name] = _Seen(now, frozenset(), answer)
        else:
            self._seen[name] = _Seen(now, frozenset(canonical(info.name) for info in answer))

    async def choose(self, model: str, without: Collection[str] = ()) -> Provider:
        """The host that takes a request for a model.

        Args:
            model: its name there.
            without: hosts that have failed at this request.

        Raises:
            WorkbenchError: ``OLLAMA_MODEL_NOT_FOUND`` where none that answers has it, else why the
                first does not answer.
        """
        await self._ask([name for name in self._providers if self._stale(name)])
        chosen = hosts.choose(self._hosts(model, without))
        if chosen is None:  # somebody may have come back, or pulled it
            await self._ask([name for name in self._providers if name not in without])
            chosen = hosts.choose(self._hosts(model, without))
        if chosen is None:
            raise self._nobody(model)
        return self._providers[chosen]

    def _stale(self, name: str) -> bool:
        """Whether it must be asked first. One that was silent is asked in the background."""
        seen = self._seen.get(name)
        if seen is None:
            return True
        age_s = time.monotonic() - seen.at
        if seen.problem is None:
            return age_s > _FRESH_S
        if age_s > _AGAIN_S:
            self._begin(name)
        return False

    def _begin(self, name: str) -> asyncio.Task[None]:
        """Ask a host, once for all who want to know."""
        if name not in self._asking:
            task = asyncio.create_task(self._list(name), name=f"list {name}")
            task.add_done_callback(lambda done: self._asking.pop(name))
            self._asking[name] = task
        return self._asking[name]

    async def _ask(self, names: Collection[str]) -> None:
        if names:
            await asyncio.wait([self._begin(name) for name in names])

    async def _list(self, name: str) -> None:
        try:
            self.heard(name, await self._lister.ask(self._providers[name]))
        except WorkbenchError as error:
            self.heard(name, error)

    def _hosts(self, model: str, without: Collection[str]) -> list[Host]:
        key = canonical(model)
        found = []
        for name, provider in self._providers.items():
            seen = self._seen.get(name)
            if name in without or seen is None:
                continue
            resident = provider.resident(model) is not None
            has = key in seen.names
            found.append(Host(name, seen.problem is None, has, resident, self._busy(name)))
        return found

    def _nobody(self, model: str) -> WorkbenchError:
        silent = [seen.problem for seen in self._seen.values() if seen.problem is not None]
        if len(silent) == len(self._providers):
            return silent[0]
        names = ", ".join(self._providers)
        unasked = f" ({len(silent)} of them did not answer)" if silent else ""
        return WorkbenchError(
            ErrorCode.OLLAMA_MODEL_NOT_FOUND,
            f"None of {names} has a model {model!r}{unasked}.",
            fix=f"Pull it on one of them: workbench models pull {next(iter(self._providers))}/"
            f"{model}.",
            operation="resolve",
            provider=hosts.family(next(iter(self._providers))),
        )
