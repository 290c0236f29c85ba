"""From names to models, for any catalogue of any providers."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tests.properties import times
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.router import ModelRouter, Route
from workbench.types import ModelInfo

NAME = st.sampled_from(
    ["tiny", "tiny:latest", "tiny:1b", "org/tiny", "org/tiny:1b", "other/tiny", "x", "ollama/x"]
)
PROVIDER = st.sampled_from(["huggingface", "ollama", "openai"])
CATALOGUE = st.dictionaries(PROVIDER, st.sets(NAME, max_size=5), min_size=1)
ASKED = NAME | st.builds("{}/{}".format, PROVIDER, NAME) | st.text(max_size=8)


class Runtime(ScriptedProvider):
    silent = False

    async def list_models(self) -> list[ModelInfo]:
        if self.silent:
            raise WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, "nobody there")
        return await super().list_models()


def router_of(catalogue: dict[str, set[str]], silent: set[str] = frozenset()) -> ModelRouter:  # type: ignore[assignment]
    router = ModelRouter()
    for provider, names in catalogue.items():
        made = Runtime({name: Schedule(()) for name in sorted(names)}, name=provider)
        made.silent = provider in silent
        router.register_provider(made)
    return router


def resolve(router: ModelRouter, model: str) -> Route | WorkbenchError:
    try:
        return asyncio.run(router.resolve(model))
    except WorkbenchError as error:
        return error


def meant(catalogue: dict[str, set[str]], asked: str) -> set[str]:
    """Ids of the models that a bare name may mean, by the rule that the README states."""
    return {
        f"{provider}/{name}"
        for provider, names in catalogue.items()
        for name in names
        if asked in (name, name.removesuffix(":latest"), name.split("/")[-1])
    }


@given(CATALOGUE, ASKED)
@times(3)
def test_a_name_means_one_model_or_the_error_says_which(
    catalogue: dict[str, set[str]], asked: str
) -> None:
    router, wanted = router_of(catalogue), asked.strip()
    found = resolve(router, asked)
    provider, _, name = wanted.partition("/")
    if not wanted:
        assert isinstance(found, WorkbenchError)
        assert found.code is ErrorCode.INVALID_REQUEST
    elif provider in catalogue and name:
        assert isinstance(found, Route), "whose prefix names a provider is that provider's"
        assert (found.provider.name, found.name) == (provider, name)
    elif len(candidates := meant(catalogue, wanted.partition("?")[0])) == 1:
        assert isinstance(found, Route)
        assert {found.model.partition("?")[0]} == candidates
        assert found.model.partition("?")[2] == wanted.partition("?")[2]
    elif candidates:
        assert isinstance(found, WorkbenchError)
        assert found.code is ErrorCode.MODEL_AMBIGUOUS
        assert set(found.details["candidates"]) == candidates
        assert all(one in str(found) for one in candidates), "the fix names each"
    else:
        assert isinstance(found, WorkbenchError)
        assert found.code is ErrorCode.MODEL_NOT_FOUND
        listed = {f"{p}/{n}" for p, names in catalogue.items() for n in names}
        assert set(found.details["candidates"]) <= listed, "no model that is not there is named"


@given(CATALOGUE, ASKED)
def test_what_it_answers_it_understands(catalogue: dict[str, set[str]], asked: str) -> None:
    """An id that was resolved, and each that an error offers, is the way to that very model."""
    router = router_of(catalogue)
    found = resolve(router, asked)
    offered = [found.model] if isinstance(found, Route) else found.details.get("candidates", [])
    for model in offered:
        again = resolve(router, model)
        assert isinstance(again, Route)
        assert again.model == model


@given(CATALOGUE, st.sets(PROVIDER), NAME)
def test_who_is_silent_hides_nobody_else(
    catalogue: dict[str, set[str]], silent: set[str], asked: str
) -> None:
    silent &= catalogue.keys()
    router = router_of(catalogue, silent)
    listing = asyncio.run(router.list_models())
    speaking = {p: names for p, names in catalogue.items() if p not in silent}
    assert {m.id for m in listing.models} == {f"{p}/{n}" for p, ns in speaking.items() for n in ns}
    assert listing.problems.keys() == silent
    prefix, _, name = asked.partition("/")
    found = resolve(router, asked)
    if prefix in catalogue and name:
        assert isinstance(found, Route), "a full id needs nobody's list"
    elif not meant(speaking, asked):
        assert isinstance(found, WorkbenchError)
        for provider in silent:
            assert f"{provider} could not be asked" in str(found)


@given(CATALOGUE)
def test_any_other_failure_of_a_provider_is_told_as_its_own(catalogue: dict[str, set[str]]) -> None:
    router = router_of(catalogue)
    broken = next(iter(router.providers.values()))

    async def fails() -> list[ModelInfo]:
        raise ZeroDivisionError

    broken.list_models = fails  # type: ignore[method-assign]
    listing = asyncio.run(router.list_models())
    others = {p: names for p, names in catalogue.items() if p != broken.name}
    assert {m.id for m in listing.models} == {f"{p}/{n}" for p, ns in others.items() for n in ns}
    assert listing.problems.keys() == {broken.name}
    problem = listing.problems[broken.name]
    assert problem.code is ErrorCode.INTERNAL
    assert f"defect of the provider {broken.name}" in problem.message
    assert "ZeroDivisionError" in problem.message
