"""ModelRouter: from a model id to the provider that has it, and one list of all models."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from workbench import hosts
from workbench.errors import ErrorCode, WorkbenchError, invalid, require_text
from workbench.providers.base import Provider
from workbench.providers.listing import Lister
from workbench.spread import Spread
from workbench.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the provider and the model's name there.

    ``chosen``: several hosts have the model, and nobody said which one.
    """

    provider: Provider
    name: str
    chosen: bool = field(default=False, compare=False)

    @property
    def model(self) -> str:
        """The full model id."""
        return f"{self.provider.name}/{self.name}"


@dataclass(frozen=True, slots=True)
class Listing:
    """All models, and what kept a provider from telling its own."""

    models: Sequence[ModelInfo]
    problems: Mapping[str, WorkbenchError]


class ModelRouter:
    """Knows the providers. Holds no state of models: it asks their owner each time.

    Args:
        lister: how they are asked.
    """

    def __init__(self, lister: Lister | None = None) -> None:
        self._lister = lister or Lister()
        self._providers: dict[str, Provider] = {}
        self._spreads: dict[str, Spread] = {}
        self.busy: Callable[[str], int] = lambda provider: 0
        """How many requests a provider has; the engine knows."""

    @property
    def providers(self) -> Mapping[str, Provider]:
        """Registered providers by name."""
        return self._providers

    def register_provider(self, provider: Provider) -> None:
        """Add a provider; its name becomes the prefix of its model ids."""
        if provider.name in self._providers:
            raise ValueError(f"provider {provider.name!r} is registered already")
        self._providers[provider.name] = provider

    def register_hosts(self, providers: Sequence[Provider]) -> None:
        """Add several hosts of one runtime; a model id may name one, or leave it to us which."""
        for provider in providers:
            self.register_provider(provider)
        by_name = {provider.name: provider for provider in providers}
        family = hosts.family(providers[0].name)
        self._spreads[family] = Spread(by_name, lambda name: self.busy(name), self._lister)

    def knows(self, prefix: str) -> bool:
        """Whether a model id may begin with this: a provider, or a runtime of several hosts."""
        return prefix in self._providers or prefix in self._spreads

    def canonical(self, model: str) -> str:
        """The one spelling of a full model id; as it is where no provider has its prefix.

        Raises:
            WorkbenchError: ``HF_INVALID_CONFIG``, it says what cannot be.
        """
        prefix, _, name = model.partition("/")
        owners = (p for p in self._providers.values() if prefix in (p.name, hosts.family(p.name)))
        owner = next(owners, None)
        return model if owner is None else f"{prefix}/{owner.canonical(name)}"

    async def another(self, route: Route, failed: Collection[str]) -> Route | None:
        """Another host that has the model, if there is one that answers.

        Args:
            route: as it was chosen.
            failed: the providers that could not serve it.
        """
        spread = self._spreads[hosts.family(route.provider.name)]
        try:
            return Route(await spread.choose(route.name, failed), route.name, chosen=True)
        except WorkbenchError:
            return None

    def lost(self, provider: str, error: WorkbenchError) -> None:
        """A host does not answer: nothing more is sent there until it does."""
        if (spread := self._spreads.get(hosts.family(provider))) is not None:
            spread.heard(provider, error)

    async def list_models(self) -> Listing:
        """Ask all providers at once; one that fails or is silent does not hide the others."""
        names = list(self._providers)
        answers = await asyncio.gather(*(self._heard(self._providers[name]) for name in names))
        models: list[ModelInfo] = []
        problems: dict[str, WorkbenchError] = {}
        for name, answer in zip(names, answers, strict=True):
            if (spread := self._spreads.get(hosts.family(name))) is not None:
                spread.heard(name, answer)
            if isinstance(answer, WorkbenchError):
                problems[name] = answer
            else:
                models += answer
        return Listing(models, problems)

    async def _heard(self, provider: Provider) -> Sequence[ModelInfo] | WorkbenchError:
        try:
            return await self._lister.ask(provider)
        except WorkbenchError as error:
            return error

    async def resolve(self, model: str) -> Route:
        """Find the provider of a model id or of a bare name.

        A bare name must be found in exactly one provider, of several hosts of one runtime in any.
        It matches a model's name, its name without the tag ``:latest``, or the last part of a path.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for an empty id, ``MODEL_AMBIGUOUS`` with the
                candidates, ``MODEL_NOT_FOUND`` with the nearest names.
        """
        if not isinstance(model, str) or not model.strip():
            raise invalid("No model was given.", fix="Name one as provider/name.")
        require_text(model, "model")
        model = model.strip()
        prefix, _, name = model.partition("/")
        if name and prefix in self._providers:
            return _route(self._providers[prefix], name)
        if name and prefix in self._spreads:
            return _route(await self._spreads[prefix].choose(name), name, chosen=True)
        if model == f"{prefix}/" and prefix in {*self._providers, *self._spreads}:
            raise invalid(f"{model!r} names no model.", fix=f"Name one as {prefix}/NAME.")
        listing = await self.list_models()
        # How to load it may follow the name (NAME?quantization=int8): that is its provider's.
        bare, mark, how = model.partition("?")
        candidates = [info for info in listing.models if _matches(info.name, bare)]
        if len(candidates) == 1:
            return _route(self._providers[candidates[0].provider], candidates[0].name + mark + how)
        names = {info.name for info in candidates}
        families = {hosts.family(info.provider) for info in candidates}
        if len(names) == 1 and families <= self._spreads.keys():
            name = names.pop()
            host = await self._spreads[families.pop()].choose(name)
            return _route(host, name + mark + how, chosen=True)
        if candidates:
            ids = [info.id for info in candidates]
            raise WorkbenchError(
                ErrorCode.MODEL_AMBIGUOUS,
                f"{model!r} names {len(ids)} models.",
                fix=f"Use one of {', '.join(ids)}.",
                operation="resolve",
                details={"candidates": ids},
            )
        raise self._not_found(model, listing)

    def _not_found(self, model: str, listing: Listing) -> WorkbenchError:
        ids = [info.id for info in listing.models]
        names: dict[str, list[str]] = {}
        for info in listing.models:
            names.setdefault(info.name, []).append(info.id)
        like = difflib.get_close_matches(model, [*names], cutoff=0.45)
        near = [one for name in like for one in names[name]][:3]
        others = [known for known in ids if not known.startswith("scripted/")][:3]
        fix = "Run: workbench models pull demo."
        if near:
            fix = f"Did you mean {' or '.join(near)}?"
        elif others:  # none is like it: that it is one of these would be a guess
            fix = f"There is, for example, {' or '.join(others)}."
        silent = [f"{name} could not be asked ({e.code})" for name, e in listing.problems.items()]
        return WorkbenchError(
            ErrorCode.MODEL_NOT_FOUND,
            f"No provider has a model {model!r}{'; ' if silent else ''}{'; '.join(silent)}.",
            fix=fix + " See: workbench models list.",
            operation="resolve",
            details={"candidates": near or others},
        )


def _route(provider: Provider, name: str, *, chosen: bool = False) -> Route:
    if hosts.family(provider.name) == "ollama" and "?" in name:
        bare = name.partition("?")[0]
        raise invalid(
            "Load options (?...) are for Hugging Face models; Ollama has a name per quantisation.",
            fix=f"Use ollama/{bare}.",
        )
    return Route(provider, provider.canonical(name), chosen)


def _matches(name: str, wanted: str) -> bool:
    return wanted in (name, name.removesuffix(":latest"), name.rpartition("/")[2])
