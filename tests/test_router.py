"""From a name to a provider."""

from __future__ import annotations

import pytest

from tests.test_spread import Host, host
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


@pytest.mark.parametrize("asked", ["", "   ", None])
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


async def refusal(router: ModelRouter, asked: str) -> tuple[str, str, str | None]:
    """Message, fix and operation of the error for a name."""
    with pytest.raises(WorkbenchError) as caught:
        await router.resolve(asked)
    return caught.value.message, caught.value.fix, caught.value.operation


async def offer(router: ModelRouter, asked: str) -> tuple[str, list[str]]:
    """Fix and candidates of the error for a name."""
    with pytest.raises(WorkbenchError) as caught:
        await router.resolve(asked)
    return caught.value.fix, caught.value.details["candidates"]


def with_models(*names: str, provider: str = "huggingface") -> ModelRouter:
    made = ModelRouter()
    made.register_provider(ScriptedProvider(dict.fromkeys(names, EMPTY), name=provider))
    return made


async def test_each_error_says_what_is_wrong_and_what_helps(router: ModelRouter) -> None:
    assert (await refusal(router, " "))[:2] == (
        "No model was given.",
        "Name one as provider/name.",
    )
    assert await refusal(router, "shared") == (
        "'shared' names 2 models.",
        "Use one of huggingface/shared, scripted/shared.",
        "resolve",
    )
    assert await refusal(with_models("tiny"), "tinny") == (
        "No provider has a model 'tinny'.",
        "Did you mean huggingface/tiny? See: workbench models list.",
        "resolve",
    )
    assert await refusal(ModelRouter(), "tiny") == (
        "No provider has a model 'tiny'.",
        "Run: workbench models pull demo. See: workbench models list.",
        "resolve",
    )
    router.register_provider(Silent(name="ollama"))
    router.register_provider(Silent(name="openai"))
    message, _, _ = await refusal(router, "zzz")
    assert message == (
        "No provider has a model 'zzz'; ollama could not be asked (OLLAMA_UNREACHABLE); "
        "openai could not be asked (OLLAMA_UNREACHABLE)."
    )


async def test_up_to_three_names_are_offered_the_nearest_or_any_real_ones() -> None:
    _, fix, _ = await refusal(with_models("model-1", "model-2", "model-3", "model-4"), "model-x")
    assert fix.count(" or ") == 2
    far = with_models("qwen", "gemma", "llama", "phi")
    far.register_provider(ScriptedProvider({"steady": EMPTY}))
    _, fix, _ = await refusal(far, "0000")
    assert fix.startswith(
        "There is, for example, huggingface/qwen or huggingface/gemma or huggingface/llama."
    ), "none that plays a schedule, and none is meant"
    _, fix, _ = await refusal(with_models("smollm2-instruct", provider="ollama"), "smol2")
    assert fix.startswith("Did you mean ollama/smollm2-instruct?"), "half alike is near enough"


async def test_what_the_fix_offers_is_in_the_details_too() -> None:
    router = with_models("model-1", "model-2", "model-3")
    again = dict.fromkeys(("model-1", "model-2", "model-3"), EMPTY)
    router.register_provider(ScriptedProvider(again, name="openai"))
    fix, offered = await offer(router, "model-x")
    assert len(offered) == 3
    assert fix.startswith(f"Did you mean {' or '.join(offered)}?")
    far = ModelRouter()
    far.register_provider(ScriptedProvider({"steady": EMPTY}))
    far.register_provider(ScriptedProvider({"qwen": EMPTY, "phi": EMPTY}, name="huggingface"))
    fix, offered = await offer(far, "0000")
    assert offered == ["huggingface/qwen", "huggingface/phi"]
    assert fix.startswith("There is, for example, huggingface/qwen or huggingface/phi.")


@pytest.mark.parametrize(
    ("name", "asked", "found"),
    [
        ("a/b/tiny", "tiny", True),
        ("a/b/tiny", "b/tiny", False),
        ("a/b/tiny", "a/b/tiny", True),
    ],
)
async def test_the_last_part_of_a_path_is_a_name(name: str, asked: str, found: bool) -> None:
    router = with_models(name)
    if found:
        assert (await router.resolve(asked)).model == f"huggingface/{name}"
    else:
        await refusal(router, asked)


async def test_a_model_may_be_named_like_a_runtime() -> None:
    assert (await with_models("huggingface").resolve("huggingface")).model == (
        "huggingface/huggingface"
    )


async def test_how_to_load_it_follows_a_bare_name_too(router: ModelRouter) -> None:
    route = await router.resolve("x:1b?quantization=int8?x")
    assert route.model == "scripted/x:1b?quantization=int8?x"
    _, fix, _ = await refusal(with_models("x", provider="ollama"), "ollama/x?a=1?b")
    assert fix == "Use ollama/x."


async def test_provider_is_registered_once(router: ModelRouter) -> None:
    with pytest.raises(ValueError, match="scripted"):
        router.register_provider(ScriptedProvider())


async def test_load_options_on_an_ollama_model_are_told_to_be_hugging_faces() -> None:
    made = ModelRouter()
    made.register_provider(ScriptedProvider({"x:1b": EMPTY}, name="ollama"))
    with pytest.raises(WorkbenchError) as caught:
        await made.resolve("ollama/x:1b?dtype=float32")
    assert caught.value.message == (
        "Load options (?...) are for Hugging Face models; Ollama has a name per quantisation."
    )
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.fix == "Use ollama/x:1b."


async def test_a_runtime_alone_is_no_model(router: ModelRouter) -> None:
    with pytest.raises(WorkbenchError, match="names no model") as caught:
        await router.resolve("huggingface/")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.fix == "Name one as huggingface/NAME."


# -- several hosts of one runtime


def with_hosts(**models: list[str]) -> ModelRouter:
    made = ModelRouter()
    made.register_hosts([host(name, *names) for name, names in models.items()])
    return made


@pytest.mark.parametrize(
    ("asked", "model", "chosen"),
    [
        ("ollama/x:1b", "ollama@a/x:1b", True),
        ("x:1b", "ollama@a/x:1b", True),
        ("ollama/y", "ollama@b/y", True),
        ("y", "ollama@b/y:latest", False),
        ("ollama@b/x:1b", "ollama@b/x:1b", False),
    ],
)
async def test_a_runtime_means_any_of_its_hosts(asked: str, model: str, chosen: bool) -> None:
    route = await with_hosts(a=["x:1b"], b=["x:1b", "y:latest"]).resolve(asked)
    assert (route.model, route.chosen) == (model, chosen)


async def test_the_host_with_least_to_do_is_chosen_as_it_is_known_then() -> None:
    assert (await with_hosts(a=["x:1b"]).resolve("ollama/x:1b")).chosen, "of one too"
    router = with_hosts(a=["x:1b"], b=["x:1b"])
    router.busy = {"ollama@a": 1, "ollama@b": 0}.__getitem__
    assert (await router.resolve("ollama/x:1b")).provider.name == "ollama@b"


def test_a_model_id_may_begin_with_a_host_or_its_runtime() -> None:
    router = with_hosts(a=[], b=[])
    assert [*router.providers] == ["ollama@a", "ollama@b"]
    assert all(router.knows(prefix) for prefix in ("ollama", "ollama@a", "ollama@b"))
    assert not router.knows("ollama@c")


async def test_names_that_differ_or_are_elsewhere_too_are_ambiguous() -> None:
    router = with_hosts(a=["tiny"], b=["org/tiny", "x"], c=["x"])
    router.register_provider(ScriptedProvider({"x": EMPTY}))
    assert (await refusal(router, "tiny"))[1] == "Use one of ollama@a/tiny, ollama@b/org/tiny."
    assert (await refusal(router, "x"))[1] == "Use one of ollama@b/x, ollama@c/x, scripted/x."
    assert (await refusal(router, "ollama/"))[1] == "Name one as ollama/NAME."
    assert (await refusal(with_hosts(a=["x"], b=["x"]), "x?a=1"))[1] == "Use ollama/x."


async def test_another_host_is_one_that_has_it_and_has_not_failed() -> None:
    router = with_hosts(a=["x"], b=["y"], c=["x"])
    route = await router.resolve("ollama/x")
    other = await router.another(route, ["ollama@a"])
    assert other is not None
    assert (other.model, other.chosen) == ("ollama@c/x", True)
    assert await router.another(route, ["ollama@a", "ollama@c"]) is None


async def test_nothing_more_is_sent_to_a_host_that_was_lost_or_is_not_listed() -> None:
    router = with_hosts(a=["x"], b=["x"], c=["x"])
    router.lost("ollama@a", WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, "away"))
    router.lost("scripted", WorkbenchError(ErrorCode.INTERNAL, "of which there is one"))
    assert (await router.resolve("ollama/x")).provider.name == "ollama@b"
    silent = router.providers["ollama@b"]
    assert isinstance(silent, Host)
    silent.away()
    assert (await router.list_models()).problems.keys() == {"ollama@b"}
    # a has been listed and answered.
    assert (await router.resolve("ollama/x")).provider.name == "ollama@a"
    assert await router.another(await router.resolve("ollama/x"), ["ollama@a"]) is not None
    assert silent.asked == 2
