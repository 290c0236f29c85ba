"""One zygote for all tests here, random models, and managers that are closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.hf import tiny
from tests.hub_standin import Hub
from workbench.hf.manager import HuggingFaceModelManager
from workbench.hf.spawner import Lease, waiting
from workbench.providers.huggingface import HuggingFaceProvider
from workbench.settings import Settings

MakeProvider = Callable[..., HuggingFaceProvider]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Lease]:
    """Keeps the zygote alive between the tests, each of which would else pay for its imports."""
    lease = Lease(waiting("auto"))
    lease.zygote()
    yield lease
    lease.release()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random models."""
    root = tmp_path_factory.mktemp("models")
    tiny.save_model(root / "org" / "endless")
    tiny.save_model(root / "ends", seed=3, end_token=True)
    tiny.save_model(root / "plain", chat_template=None)
    tiny.save_model(root / "nan", broken_numbers=True)
    tiny.save_model(root / "sharded", shards=True)
    tiny.save_model(
        root / "no-system",
        chat_template="{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + tiny.CHAT_TEMPLATE,
    )
    return root


@pytest.fixture
def standin() -> Iterator[Hub]:
    """A hub on this machine."""
    with Hub() as running:
        yield running


@pytest.fixture
def online(settings: Settings, standin: Hub) -> Settings:
    """Settings of a process that may ask that hub."""
    return settings.model_copy(
        update={
            "workbench_offline": False,
            "hf_endpoint": standin.url,
            "workbench_disk_reserve": 0,
            "workbench_hub_timeout_s": 10.0,
        }
    )


@pytest.fixture
async def make_provider(settings: Settings, zygote: Lease) -> AsyncIterator[MakeProvider]:
    """Build providers over a model folder; one compute thread, as other tests run beside."""
    made: list[HuggingFaceProvider] = []

    def make(root: Path, **changes: object) -> HuggingFaceProvider:
        update = {"hf_model_path": root, "workbench_threads": 1, **changes}
        provider = HuggingFaceProvider(settings.model_copy(update=update))
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(make_provider: MakeProvider, tiny_models: Path) -> HuggingFaceProvider:
    """A provider over the random models."""
    return make_provider(tiny_models)


@pytest.fixture
def manager(provider: HuggingFaceProvider) -> HuggingFaceModelManager:
    """The manager under that provider."""
    return provider.manager
