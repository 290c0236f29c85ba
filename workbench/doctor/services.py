"""What runs: the server and its port, the log, Ollama, and the models each runtime has."""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psutil

from workbench.discovery import database, other_sharing, running_server, server_file
from workbench.doctor.findings import Finding, State
from workbench.errors import WorkbenchError
from workbench.figures import count
from workbench.settings import Settings, unknown_variables

_TRIED_OLLAMA: Final = (0, 33)
"""Its protocol was recorded for the tests; older ones may not know all that we ask of them."""
_PRIVILEGED: Final = 1024
_AHEAD: Final = dt.timedelta(minutes=5)
_CHECKED_BYTES: Final = 2**28
"""A log up to this size is read whole."""
_UNCHECKED: Final = "blocks not checked: run workbench db verify"
_MAKE_FOLDER: Final = "Set HF_MODEL_PATH to where your models are; a download makes it."
_GET_DEMO: Final = "Get a small one with: workbench models pull demo."


def address(settings: Settings) -> Finding:
    """Settings that are valid one by one may still not go together."""
    from workbench.api.security import check_address

    try:
        check_address(settings)
    except WorkbenchError as error:
        return Finding("settings", "bad", error.message, error.fix)
    return Finding("settings", "ok", "all valid")


def doubtful(settings: Settings) -> Iterator[Finding]:
    """Settings that are valid, but hardly what was meant."""
    for name, meant in unknown_variables().items():
        fix = f"Did you mean {meant}?" if meant else "Remove it; docs/reference lists all."
        yield Finding("settings", "note", f"{name} is no setting, and has no effect", fix)
    budget, machine = settings.workbench_memory_budget, psutil.virtual_memory().total
    if budget is not None and budget > machine:
        yield Finding(
            "settings",
            "note",
            f"WORKBENCH_MEMORY_BUDGET is {budget / 1e9:.0f} GB, the machine has"
            f" {machine / 1e9:.0f}",
            "Take it away: the default is what is free at the start, less a reserve.",
        )


def from_inside(settings: Settings) -> Iterator[Finding]:
    """The server that asks is there, and holds the log."""
    yield Finding("server", "ok", f"this one (pid {os.getpid()})")
    yield Finding("log", "ok", f"{database(settings)}, held by this server; {_UNCHECKED}")


def server_and_log(settings: Settings) -> Iterator[Finding]:
    """Whether a server runs or could be started, and whether the log can be read."""
    running = running_server(settings)
    if running is not None:
        where = f"running at {running['url']} (pid {running['pid']})"
        yield Finding("server", "ok", f"{where}; what follows is as this shell is set")
        theirs = list(as_served(settings).ollama_servers.values())
        ours = list(settings.ollama_servers.values())
        if theirs != ours:
            yield Finding(
                "ollama",
                "note",
                f"the server speaks to {', '.join(theirs)}, which is looked at here; this shell's "
                f"is {', '.join(ours)}",
                "Set OLLAMA_HOST (and OLLAMA_HOSTS) to the same in both, or restart the server.",
            )
        if different := other_sharing(settings, running):
            yield Finding(
                "shared log",
                "note",
                f"the server shares otherwise than {' and '.join(different)} of this shell says",
                "Set it to the same in both and restart the server, or leave it out here.",
            )
        yield Finding("log", "ok", f"{database(settings)}, held by the server; {_UNCHECKED}")
        return
    stale = server_file(settings)
    if stale.exists():
        yield Finding(
            "server",
            "note",
            f"{stale} was left by a server that is gone",
            "Nothing needs to be done: the next start replaces it.",
        )
    yield port(settings)
    yield log(settings)


def as_served(settings: Settings) -> Settings:
    """The settings with the Ollama servers that a running server speaks to."""
    running = running_server(settings) or {}
    theirs = {
        "ollama_host": running.get("ollama", settings.ollama_host),
        "ollama_hosts": running.get("ollama_hosts", settings.ollama_hosts),
    }
    return settings.model_copy(update=theirs)


def repairs(settings: Settings) -> Iterator[Finding]:
    """What starts found damaged, until what they kept is deleted."""
    from workbench.store.repair import reports

    for told in reports(database(settings)):
        yield Finding("log", "note", f"{told.details['at']}: {told.message}", told.fix)


def port(settings: Settings) -> Finding:
    """Whether a server could listen."""
    number = settings.workbench_port
    if number < _PRIVILEGED and os.geteuid() != 0:
        return Finding(
            "server",
            "bad",
            f"only root may listen on port {number}",
            "Set WORKBENCH_PORT to 1024 or more.",
        )
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", number)) == 0
    if taken and _is_workbench(number):
        return Finding(
            "server",
            "bad",
            f"a workbench listens on port {number}, with another log than {database(settings)}",
            "Set WORKBENCH_DB to its log to use it, or WORKBENCH_PORT to start another beside it.",
        )
    if taken:
        return Finding(
            "server",
            "bad",
            f"something else listens on port {number}",
            "Stop it, or set WORKBENCH_PORT.",
        )
    return Finding("server", "note", "not running", "Start it with: workbench serve.")


def _is_workbench(port: int) -> bool:
    """Whether what listens answers as a workbench does to those without a key."""
    import httpx

    sent = {"X-Correlation-ID": f"doctor-{os.getpid()}"}
    try:
        with httpx.Client(timeout=2, trust_env=False) as http:
            answer = http.get(f"http://127.0.0.1:{port}/health/live", headers=sent)
            alive = bool(answer.json() == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False
    return alive and answer.headers.get("X-Correlation-ID") == sent["X-Correlation-ID"]


def log(settings: Settings) -> Finding:
    """Whether the log can be read, is as it was written, and agrees with the clock."""
    from workbench.store import Store
    from workbench.store.blocks import DatabaseFile

    path: Path = database(settings)
    try:
        if not path.exists():
            return Finding("log", "note", "nothing is logged yet")
        with closing(DatabaseFile(path)) as file, Store.open_readonly(path) as store:
            (row,) = store.rows(
                "SELECT count(*) AS n, max(created_at) AS last FROM stream_sessions"
            )
            small = file.size_bytes <= _CHECKED_BYTES
            broken = file.read_state(blocks=True).broken if small else ()
    except WorkbenchError as error:
        return Finding("log", "bad", error.message, error.fix)
    except OSError as error:
        return Finding("log", "bad", f"{path} cannot be read: {error.strerror}")
    if broken:
        return Finding(
            "log",
            "bad",
            f"{path} is not as it was written: {', '.join(broken)}",
            "Run: workbench db verify. A restart of the workbench repairs what can be repaired.",
        )
    if row["last"] is not None and row["last"] > dt.datetime.now(dt.UTC) + _AHEAD:
        return Finding(
            "log",
            "note",
            f"its newest row is of {row['last']:%Y-%m-%d %H:%M} UTC, which is to come",
            "Check the clock: it is behind now, or was ahead then.",
        )
    checked = "blocks as they were written" if small else _UNCHECKED
    return Finding("log", "ok", f"{path}, {count(row['n'], 'session')}, {checked}")


async def endpoints(settings: Settings) -> list[Finding]:
    """The OpenAI-compatible servers of a running server that this shell's settings do not name.

    It is asked itself: it has their keys.
    """
    running = running_server(settings)
    if running is None:
        return []
    import httpx

    headers = {"Authorization": f"Bearer {running['token']}"}
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False, headers=headers) as http:
            parts = (await http.get(f"{running['url']}/health")).json()["parts"]
            served = {name: parts[name] for name in running.get("endpoints", ())}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return [
            Finding(
                "server",
                "note",
                f"it does not tell how its endpoints are ({type(error).__name__})",
                f"Look at {running['url']}/health.",
            )
        ]
    known = {one.name for one in settings.openai_compat_endpoints}
    return [_told(name, part) for name, part in served.items() if name not in known]


def _told(name: str, part: Mapping[str, Any]) -> Finding:
    """A part of a server's health."""
    if part["status"] == "ok":
        return Finding(name, "ok", f"{count(part['models'], 'model')}, as the server says")
    fix = str(part.get("fix") or "")
    reason = str(part.get("reason") or part["status"]).removesuffix(fix).strip()
    return Finding(name, "note", f"the server says: {reason}", fix)


async def ollama(settings: Settings) -> list[Finding]:
    """The version of each running Ollama; an absent one is told with its models."""
    servers = settings.ollama_servers.items()
    return [found for name, url in servers if (found := await _version(name, url)) is not None]


async def _version(name: str, url: str) -> Finding | None:
    import httpx

    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            answer = await http.get(f"{url}/api/version")
            version = str(answer.json()["version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    numbers = tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal())
    if numbers and numbers[:2] < _TRIED_OLLAMA and numbers != (0, 0, 0):  # 0.0.0: built by hand
        wanted = ".".join(map(str, _TRIED_OLLAMA))
        return Finding(
            name,
            "note",
            f"version {version} is older than {wanted}, with which the workbench was tried",
            "If something fails, update Ollama; an old one cuts long prompts without a word.",
        )
    return Finding(name, "ok", f"version {version}")


async def models(settings: Settings) -> list[Finding]:
    """What each runtime has, and what keeps one from telling."""
    from workbench.registration import build_router

    router = build_router(settings)
    try:
        listing = await router.list_models()
    finally:
        for provider in router.providers.values():
            await provider.close()
    findings = []
    where = {"huggingface": str(settings.hf_model_path), **settings.ollama_servers}
    where |= {one.name: one.base_url for one in settings.openai_compat_endpoints}
    for name, place in where.items():
        if (problem := listing.problems.get(name)) is not None:
            findings.append(Finding(name, "note", problem.message, problem.fix))
            continue
        if name == "huggingface" and not settings.hf_model_path.expanduser().exists():
            there_is_none = f"the folder {place} does not exist"
            findings.append(Finding(name, "note", there_is_none, f"{_MAKE_FOLDER} {_GET_DEMO}"))
            continue
        own = [model for model in listing.models if model.provider == name]
        usable = [model for model in own if model.status != "unusable"]
        fix = "" if usable or name != "huggingface" else _GET_DEMO
        status: State = "ok" if usable else "note"
        findings.append(Finding(name, status, f"{count(len(usable), 'model')} at {place}", fix))
        findings += [
            Finding(name, "note", model.id, model.problem) for model in own if model.problem
        ]
    return findings
