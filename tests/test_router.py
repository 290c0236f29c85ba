"""From a name to a provider."""

from __future__ import annotations

import pytest

from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.router import ModelRouter
from workbench.types import ModelInfo

EMPTY = Schedule(())


class Silent(ScriptedProvider):
    """A runtime that cannot be reached."""

    async def list_models(self) -> list[ModelInfo]:
        raise WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, "nobody there", provider="ollama")


@pytest.fixture
def router() -> ModelRouter:
    made = ModelRouter()
    made.register_provider(
        ScriptedProvider({"org/tiny": EMPTY, "shared": EMPTY}, name="huggingface")
    )
    made.register_provider(ScriptedProvider({"tiny:latest": EMPTY, "shared": EMPTY, "x:1b": EMPTY}))
    return made


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("scripted/x:1b", "scripted/x:1b"),
        ("x:1b", "scripted/x:1b"),
        (" x:1b ", "scripted/x:1b"),
        ("org/tiny", "huggingface/org/tiny"),
        ("huggingface/org/tiny", "huggingface/org/tiny"),
        ("huggingface/not-there", "huggingface/not-there"),
    ],
)
async def test_resolves(router: ModelRouter, asked: str, model: str) -> None:
    assert (await router.resolve(asked)).model == model


async def test_name_in_two_providers_lists_the_candidates(router: ModelRouter) -> None:
    for asked in ("shared", "tiny"):
        with pytest.raises(WorkbenchError) as caught:
            await router.resolve(asked)
        assert caught.value.code is ErrorCode.MODEL_AMBIGUOUS
        assert len(caught.value.details["candidates"]) == 2


@pytest.mark.parametrize("asked", ["", "   "])
async def test_no_name_is_refused(router: ModelRouter, asked: str) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await router.resolve(asked)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_silent_provider_hides_no_other_and_is_named(router: ModelRouter) -> None:
    router.register_provider(Silent(name="ollama"))
    listing = await router.list_models()
    assert {model.provider for model in listing.models} == {"huggingface", "scripted"}
    assert listing.problems["ollama"].code is ErrorCode.OLLAMA_UNREACHABLE
    with pytest.raises(WorkbenchError, match="ollama could not be asked"):
        await router.resolve("llama")


async def test_provider_is_registered_once(router: ModelRouter) -> None:
    with pytest.raises(ValueError, match="scripted"):
        router.register_provider(ScriptedProvider())


async def test_load_options_on_an_ollama_model_are_told_to_be_hugging_faces() -> None:
    made = ModelRouter()
    made.register_provider(ScriptedProvider({"x:1b": EMPTY}, name="ollama"))
    with pytest.raises(WorkbenchError, match="are for Hugging Face models") as caught:
        await made.resolve("ollama/x:1b?dtype=float32")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.fix == "Use ollama/x:1b."
