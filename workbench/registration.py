"""Which providers there are: the one place that names them all."""

from __future__ import annotations

from workbench.errors import invalid
from workbench.providers.base import Provider
from workbench.providers.listing import Lister
from workbench.router import ModelRouter
from workbench.settings import Settings


def build_router(settings: Settings, **providers: Provider) -> ModelRouter:
    """A router with the standard providers; starts nothing.

    Args:
        settings: of the process.
        providers: replacements by name, for tests (``scripted=...``).

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, ``WORKBENCH_FALLBACKS`` names an unknown provider.
    """
    from workbench.providers.huggingface import HuggingFaceProvider
    from workbench.providers.ollama import OllamaProvider
    from workbench.providers.openai_compat import OpenAICompatProvider
    from workbench.providers.scripted import ScriptedProvider

    router = ModelRouter(Lister(settings.workbench_listing_timeout_s))
    router.register_provider(providers.get("huggingface") or HuggingFaceProvider(settings))
    ollama = [OllamaProvider(settings, name) for name in settings.ollama_servers]
    if "ollama" in providers or len(ollama) == 1:
        router.register_provider(providers.get("ollama") or ollama[0])
    else:
        router.register_hosts(ollama)
    for endpoint in settings.openai_compat_endpoints:
        router.register_provider(OpenAICompatProvider(endpoint))
    router.register_provider(providers.get("scripted") or ScriptedProvider())
    _check_fallbacks(settings, router)
    return router


def _check_fallbacks(settings: Settings, router: ModelRouter) -> None:
    for pair in settings.workbench_fallbacks.items():
        for model in pair:
            if not router.knows(model.partition("/")[0]):
                raise invalid(
                    f"WORKBENCH_FALLBACKS names {model}, but there is no such provider.",
                    fix=f"The providers are {', '.join(router.providers)}.",
                )
