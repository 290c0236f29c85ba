"""The server file: how the command line and notebooks find the server that holds a database."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.store.serving import Serving


def database(settings: Settings) -> Path:
    """The log's file, absolute."""
    return settings.workbench_db.expanduser().absolute()


def server_file(settings: Settings) -> Path:
    """Where a server that holds this database writes how to reach it."""
    return database(settings).with_name("server.json")


def running_server(settings: Settings) -> dict[str, Any] | None:
    """The server that holds this database, if one is alive: ``pid``, ``url``, ``token``, ``log``.

    ``ollama`` is the address of its Ollama server, ``endpoints`` the names of its other servers,
    ``sharing`` says where its log goes. ``log`` has the ``uri`` and the ``token`` for DuckDB's
    Quack protocol, or is None.

    A file that a killed server left behind is told by the start time of its process.
    """
    try:
        found: dict[str, Any] = json.loads(server_file(settings).read_text())
        alive = abs(psutil.Process(found["pid"]).create_time() - found["started"]) < 2
        same = Path(found["db"]) == database(settings)
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return found if alive and same else None


def other_sharing(settings: Settings, running: Mapping[str, Any]) -> list[str]:
    """Sharing that is set here and is not as the running server does it, as its variables.

    A server of an older version does not tell; then there are none.
    """
    theirs = running.get("sharing")
    if theirs is None:
        return []
    key = settings.workbench_shared_log_key
    pairs = {
        "WORKBENCH_SHARED_LOG": (settings.workbench_shared_log, theirs["url"]),
        "WORKBENCH_WRITER_ID": (settings.workbench_writer_id, theirs["writer_id"]),
        "WORKBENCH_SHARED_LOG_KEY": (_mark(key, running["token"]), theirs["key_mark"]),
    }
    return [name for name, (ours, other) in pairs.items() if ours is not None and ours != other]


def _mark(key: str | None, token: str) -> str | None:
    """What tells whether two keys are the same, and not what they are."""
    return key and hmac.digest(token.encode(), key.encode(), "sha256").hex()


def announce(settings: Settings, url: str, token: str, serving: Serving) -> None:
    """Write the server file for this process, readable by its user only."""
    path = server_file(settings)
    body = {
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "url": url,
        "token": token,
        "db": str(database(settings)),
        "ollama": settings.ollama_host,
        "ollama_hosts": settings.ollama_hosts,
        "endpoints": [endpoint.name for endpoint in settings.openai_compat_endpoints],
        "sharing": {
            "url": settings.workbench_shared_log,
            "writer_id": settings.writer_id,
            "key_mark": _mark(settings.workbench_shared_log_key, token),
        },
        "log": {"uri": serving.local_uri, "token": serving.token} if serving.uri else None,
    }
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(body, file)
    temporary.replace(path)
