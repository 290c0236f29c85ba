"""``workbench doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import asyncio

from workbench.doctor import machine, services
from workbench.doctor.findings import Finding
from workbench.errors import WorkbenchError
from workbench.settings import Settings, load_settings

__all__ = ["Finding", "examine"]


def examine(settings: Settings | None = None) -> list[Finding]:
    """Look at every part in turn; one that fails does not hide the others.

    Blocks, and needs a thread without an event loop.

    Args:
        settings: of the running server that asks; None: as a start would read them now.
    """
    inside = settings is not None
    try:
        settings = settings or load_settings()
    except WorkbenchError as error:
        return [Finding("settings", "bad", error.message, error.fix), *machine.software()]
    return [
        services.address(settings),
        *services.doubtful(settings),
        *machine.software(),
        *machine.memory(),
        machine.clock(),
        machine.open_files(),
        *machine.disk(settings),
        *machine.permissions(settings),
        *machine.gpu(settings.hf_enable_gpu),
        *(services.from_inside(settings) if inside else services.server_and_log(settings)),
        *services.repairs(settings),
        *asyncio.run(services.ollama(services.as_served(settings))),
        *([] if inside else asyncio.run(services.endpoints(settings))),
        *asyncio.run(services.models(services.as_served(settings))),
    ]
