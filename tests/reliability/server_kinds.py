"""The server itself: stopped, killed, hanging, without descriptors, without its files."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from tests.reliability.asking import Told, until
from tests.reliability.kinds import Case, Kind
from tests.reliability.stage import MODELS, OLLAMA, SERVER, Stage, kill

MANY = 400
"""Tokens of an answer that something happens in."""


def server(name: str, how: str, inject: Any, *expects: str, weight: float = 0.05) -> Kind:
    """A fault that everybody feels."""
    return Kind(
        name, "the server", how, frozenset(expects), inject, MODELS, (SERVER,), weight, quick=False
    )  # fmt: skip


async def answering(case: Case, act: Callable[[], Awaitable[None]]) -> list[Told]:
    """Every model answers somebody when something happens."""
    going: set[str] = set()
    ready = asyncio.Event()

    async def listen(kind: str, told: Told) -> None:
        if kind in ("token", "error", "done"):
            going.add(told.model)
            if going == set(MODELS):
                ready.set()

    asked = [
        asyncio.create_task(case.ask(model=model, tokens=MANY, on_event=listen)) for model in MODELS
    ]
    await asyncio.wait_for(ready.wait(), 60)
    await act()
    return list(await asyncio.gather(*asked))


async def terminated(case: Case) -> None:
    """Everybody is told, everything ends, and afterwards it is there again."""
    await answering(case, lambda: case.stage.stop(signal.SIGTERM))
    await case.stage.start()


async def killed(case: Case) -> None:
    """What was answered so far is in the log after the next start, and no worker is left."""
    stage = case.stage
    told = await answering(case, lambda: stage.stop(signal.SIGKILL))
    await stage.start()
    ids = ", ".join(f"'{one.session_id}'" for one in told if one.outcome == "cut")

    async def recovered() -> bool:
        sql = f"SELECT count(*) FROM stream_sessions WHERE session_id IN ({ids})"
        rows = await stage.users.query(sql + " AND status IN ('interrupted', 'ok')")
        return bool(rows[0][0] == ids.count(",") + 1)

    if ids:
        await until(recovered, f"{ids} are in the log as interrupted", 30)


async def sleeps(case: Case) -> None:
    """As when the lid of a laptop is closed: SIGSTOP for a second, in the middle of answers."""
    process = psutil.Process(case.stage.server.pid)

    async def act() -> None:
        kill(process, signal.SIGSTOP)
        try:
            await asyncio.sleep(1)
        finally:
            kill(process, signal.SIGCONT)

    await answering(case, act)


def descriptors(limit: Callable[[int], int]) -> Any:
    """All models are to be loaded anew with few file descriptors; after a while there are more."""

    async def inject(case: Case) -> None:
        stage = case.stage
        process = psutil.Process(stage.server.pid)
        for model in MODELS:
            await stage.users.post("/api/v1/models/unload", model=model)
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (limit(process.num_fds()), before[1]))
        try:
            asked = [asyncio.create_task(case.ask(model=model)) for model in MODELS]
            await asyncio.wait(asked, timeout=3)
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, before)
        await asyncio.gather(*asked)

    return inject


def clock_steps(seconds: int) -> Any:
    """The wall clock jumps while all models answer, and back: no figure is the worse for it."""

    async def inject(case: Case) -> None:
        stage = case.stage
        assert stage.clock is not None
        clock = stage.clock
        began = time.monotonic()

        async def act() -> None:
            with clock.stepped(seconds):
                await asyncio.sleep(0.3)
                # Ollama's models answer one request at a time.
                others = [model for model in MODELS if model not in OLLAMA]
                await asyncio.gather(*(case.ask(model=model) for model in others))

        told = await answering(case, act)
        took_s = time.monotonic() - began
        ids = ", ".join(f"'{one.session_id}'" for one in told)
        rows = await stage.users.query(
            f"SELECT count(*) FROM latencies WHERE session_id IN ({ids}) "
            f"AND wall_s BETWEEN 0 AND {took_s} AND e2e_s BETWEEN 0 AND {took_s} "
            "AND ttft_s BETWEEN 0 AND e2e_s"
        )
        assert rows[0][0] == len(told), f"{rows[0][0]} of {len(told)} rows have true figures"

    return inject


def file_of_the_log(stage: Stage) -> None:
    """The database and its write-ahead log are deleted."""
    for path in stage.log_folder.glob("workbench.duckdb*"):
        if path.is_file():
            path.unlink()


def folder_of_the_log(stage: Stage) -> None:
    """The whole folder is deleted, with the spool and the copy."""
    shutil.rmtree(stage.log_folder)


def without(delete: Callable[[Stage], None], number: int) -> Any:
    """Something is deleted under the server, which goes on and says so; it is ended by a signal."""

    async def inject(case: Case) -> None:
        stage = case.stage
        delete(stage)
        await asyncio.gather(*(case.ask(model=model) for model in MODELS))

        async def told() -> bool:
            store = (await stage.users.get("/health"))["parts"]["store"]
            return "was deleted" in str(store)

        await until(told, "health says that the log was deleted", 30, 0.2)
        await stage.stop(number)
        await stage.start()

    return inject


ALL_GOOD = ("ok",)
CLOCK = "clock-steps"

KINDS = [
    server("server-terminated", "SIGTERM while all models answer", terminated,
           "SERVER_STOPPING", "ok"),
    server("server-killed", "SIGKILL while all models answer", killed, "cut", "ok"),
    server(f"{CLOCK}-forward", "the wall clock jumps an hour ahead and back",
           clock_steps(3600), "ok"),
    server(f"{CLOCK}-back", "the wall clock jumps a day back and ahead",
           clock_steps(-86_400), "ok"),
    server("server-sleeps", "SIGSTOP for a second while all models answer", sleeps, *ALL_GOOD),
    server("64-descriptors", "RLIMIT_NOFILE 64, all loads anew", descriptors(lambda _: 64), "ok"),
    server("no-descriptors", "RLIMIT_NOFILE at what is open, all loads anew",
           descriptors(lambda opened: opened + 1), "ok", "cut",
           "HF_PIPELINE_ERROR", "HF_MODEL_LOAD_FAILED", "TOO_MANY_FILES"),
    server("database-deleted-stopped", "the file is deleted, then SIGTERM",
           without(file_of_the_log, signal.SIGTERM), *ALL_GOOD),
    server("database-deleted-killed", "the file is deleted, then SIGKILL",
           without(file_of_the_log, signal.SIGKILL), *ALL_GOOD),
    server("log-folder-deleted-stopped", "the folder of the log is deleted, then SIGTERM",
           without(folder_of_the_log, signal.SIGTERM), *ALL_GOOD),
    server("log-folder-deleted-killed", "the folder of the log is deleted, then SIGKILL",
           without(folder_of_the_log, signal.SIGKILL), *ALL_GOOD),
]  # fmt: skip
