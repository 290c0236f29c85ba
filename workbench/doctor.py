"""``workbench doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import asyncio
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

import psutil

from workbench.discovery import database, running_server
from workbench.errors import WorkbenchError
from workbench.settings import Settings, load_settings

_LOW_DISK_BYTES = 5 * 10**9
_LOW_MEMORY_BYTES = 2 * 10**9
_GET_DEMO = "Get a small one with: workbench models pull demo."


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part: ``ok``, ``note`` (works without it) or ``bad``."""

    part: str
    status: Literal["ok", "note", "bad"]
    message: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at every part in turn; one that fails does not hide the others."""
    try:
        settings = load_settings()
    except WorkbenchError as error:
        return [Finding("settings", "bad", error.message, error.fix)]
    return [
        Finding("settings", "ok", "all valid"),
        _software(),
        _memory(),
        _disk(settings),
        *_server_and_log(settings),
        *asyncio.run(_models(settings)),
    ]


def _software() -> Finding:
    wanted = ("torch", "transformers", "gradio", "duckdb", "ollama")
    found, missing = [], []
    for name in wanted:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("software", "bad", f"{', '.join(missing)} missing", "Run: make install.")
    return Finding("software", "ok", f"Python {platform.python_version()}, {', '.join(found)}")


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    message = f"{free / 1e9:.1f} GB available"
    if free < _LOW_MEMORY_BYTES:
        return Finding("memory", "note", message, "Close other programs before loading models.")
    return Finding("memory", "ok", message)


def _disk(settings: Settings) -> Finding:
    folder = database(settings).parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    message = f"{free / 1e9:.1f} GB free at {folder}"
    if free < _LOW_DISK_BYTES:
        return Finding("disk", "note", message, "Make room before downloading models.")
    return Finding("disk", "ok", message)


def _server_and_log(settings: Settings) -> Iterator[Finding]:
    from workbench.store import Store

    server = running_server(settings)
    if server is not None:
        yield Finding("server", "ok", f"running at {server['url']} (pid {server['pid']})")
        yield Finding("log", "ok", f"{database(settings)}, held by the server")
        if server["log"]:
            yield Finding("log over Quack", "ok", f"served at {server['log']['uri']}")
        else:
            yield Finding(
                "log over Quack",
                "note",
                "not served; queries come over REST, large results are slower",
                "See not_served of the store in /health, or WORKBENCH_LOG_SERVING.",
            )
        return
    yield _quack()
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", settings.workbench_port)) == 0
    if taken:
        yield Finding(
            "server",
            "bad",
            f"something else listens on port {settings.workbench_port}",
            "Stop it, or set WORKBENCH_PORT.",
        )
    else:
        yield Finding("server", "note", "not running", "Start it with: workbench serve.")
    try:
        if not database(settings).exists():
            yield Finding("log", "note", "nothing is logged yet")
            return
        with Store.open_readonly(database(settings)) as store:
            count = store.rows("SELECT count(*) AS n FROM stream_sessions")[0]["n"]
        yield Finding("log", "ok", f"{database(settings)}, {count} sessions")
    except WorkbenchError as error:
        yield Finding("log", "bad", error.message, error.fix)


def _quack() -> Finding:
    from workbench.store.extension import NEEDED, packaged_file

    missing = [name for name in NEEDED if packaged_file(name) is None]
    if not missing:
        return Finding("log over Quack", "ok", "DuckDB's extension is installed")
    return Finding(
        "log over Quack",
        "note",
        f"no package of {', '.join(missing)} for this DuckDB; it is fetched from the network",
        "Without a network all comes over REST, large results slower.",
    )


async def _models(settings: Settings) -> list[Finding]:
    """What each runtime has, and what keeps one from telling."""
    from workbench.engine import build_router

    router = build_router(settings)
    try:
        listing = await router.list_models()
    finally:
        for provider in router.providers.values():
            await provider.close()
    findings = []
    where = {"huggingface": str(settings.hf_model_path), "ollama": settings.ollama_host}
    for name, place in where.items():
        if (problem := listing.problems.get(name)) is not None:
            findings.append(Finding(name, "note", problem.message, problem.fix))
            continue
        own = [model for model in listing.models if model.provider == name]
        usable = [model for model in own if model.status != "unusable"]
        fix = "" if usable or name != "huggingface" else _GET_DEMO
        status: Literal["ok", "note"] = "ok" if usable else "note"
        findings.append(Finding(name, status, f"{len(usable)} models at {place}", fix))
        findings += [
            Finding(name, "note", model.id, model.problem) for model in own if model.problem
        ]
    return findings
