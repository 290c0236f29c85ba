"""``workbench doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import asyncio

from workbench.doctor import machine, services
from workbench.doctor.findings import Finding
from workbench.errors import WorkbenchError
from workbench.settings import load_settings

__all__ = ["Finding", "examine"]


def examine() -> list[Finding]:
    """Look at every part in turn; one that fails does not hide the others."""
    try:
        settings = load_settings()
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
        *services.server_and_log(settings),
        *services.repairs(settings),
        *asyncio.run(services.ollama(services.as_served(settings))),
        *asyncio.run(services.models(services.as_served(settings))),
    ]
