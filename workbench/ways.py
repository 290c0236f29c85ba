"""The way to a model, and whether it is one for what is wanted of it."""

from __future__ import annotations

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.hosts import family
from workbench.providers.guard import blamed
from workbench.router import ModelRouter, Route
from workbench.types import ChatRequest


class Ways:
    """Finds models by their names.

    Args:
        router: knows the providers.
    """

    def __init__(self, router: ModelRouter) -> None:
        self._router = router

    async def to_memory(self, model: str) -> Route:
        """The way to a model whose memory is ours to give and take."""
        route = await self._router.resolve(model)
        self._named(route)
        if not route.provider.loads:
            raise invalid(
                f"What {route.provider.name} has in memory is decided where its server runs.",
                fix="Load, keep or unload it there.",
                model=route.model,
            )
        return route

    def _named(self, route: Route) -> None:
        """Refuse what must not be done on whichever host has least to do."""
        if route.chosen:
            self.host(family(route.provider.name))

    def host(self, provider: str) -> str:
        """The provider of one host, or ``INVALID_REQUEST`` where it is to be said which."""
        if provider not in self._router.providers:
            known = [name for name in self._router.providers if family(name) == family(provider)]
            raise invalid(
                f"There are several hosts of {family(provider)}, and {provider} is none of them.",
                fix=f"Say which one: {' or '.join(f'{name}/NAME' for name in known)}.",
            )
        return provider

    async def to_disk(self, model: str) -> tuple[str, str]:
        """Provider and name of a model that lies on a disk."""
        try:
            route = await self._router.resolve(model)
        except WorkbenchError as error:
            # What has not come whole is in no list, but can be deleted.
            if error.code is ErrorCode.MODEL_NOT_FOUND and "/" in model:
                return "huggingface", model
            raise
        self._named(route)
        if family(route.provider.name) not in ("huggingface", "ollama"):
            raise invalid(
                f"{route.model} lies on no disk.",
                fix="Only models of Hugging Face and Ollama do.",
            )
        return route.provider.name, route.name

    async def to_answer(self, request: ChatRequest, model: str) -> Route:
        """The way to a model that can take the request.

        Raises:
            WorkbenchError: as ``router.resolve``; ``INVALID_REQUEST`` for images to one that is
                blind.
        """
        route = await self._router.resolve(model)
        if any(message.images for message in request.messages):
            with blamed(route.provider.name, "show"):
                info = await route.provider.show(route.name)
            if not info.takes_images:
                raise invalid(
                    f"{route.model} takes no images.",
                    fix="Choose a model whose runtime says that it sees (Ollama: `vision` among "
                    "the capabilities of `ollama show`), or leave the images out.",
                    capability="images",
                    model=route.model,
                )
        return route
