"""The whole app as its users have it, each part a real one, with a hand on every way between them.

A server process started as a user starts it, the Ollama stand-in with real llama.cpp behind a gate,
tiny Hugging Face models in worker processes, a hub of our own, and users who ask them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from tests.conftest import DEMO_GGUF
from tests.disks import NotPermitted, small_disk
from tests.hf import tiny
from tests.hf.downloads import REPO, model_files
from tests.hub_standin import Hub
from tests.live import LiveServer
from tests.ollama_standin.fixture import StandIn
from tests.reliability.asking import Told, Users, until
from tests.reliability.clock import Clock
from tests.reliability.gate import Gate
from tests.reliability.turns import Turns

OLLAMA: Final = ("ollama/a:135m", "ollama/b:135m")
HUGGING_FACE: Final = ("huggingface/one", "huggingface/two")
SCRIPTED: Final = ("scripted/steady", "scripted/chunks")
MODELS: Final = (*OLLAMA, *HUGGING_FACE, *SCRIPTED)
QUESTION: Final = "Name three colors."
ZYGOTE: Final = "workbench.hf.zygote"
SERVER: Final = "server"
"""What is taken by a fault that everybody feels."""

LOG_DISK_MB, MODEL_DISK_MB = 512, 64

SETTINGS: Final = {
    "WORKBENCH_RATE_LIMIT": "0",  # one machine plays all users
    "WORKBENCH_THREADS": "1",
    "WORKBENCH_CANCEL_GRACE_S": "1",
    "WORKBENCH_RUNTIME_WATCH_S": "1",
    "WORKBENCH_BODY_TIMEOUT_S": "2",
    "WORKBENCH_DETACH_GRACE_S": "1",
    "WORKBENCH_FAILED_LOAD_S": "0",
    "WORKBENCH_DISK_RESERVE": "0",
    "WORKBENCH_OFFLINE": "false",
    "WORKBENCH_HUB_TIMEOUT_S": "1",
    "WORKBENCH_DOWNLOAD_ATTEMPTS": "2",
    "HF_MAX_CACHED_MODELS": "4",
    "HF_MODEL_TIMEOUT_MS": "60000",
}


def grounds(model: str) -> tuple[str, str, str]:
    """What a request to a model stands on."""
    return SERVER, model.partition("/")[0], model


@dataclass
class Harm:
    """An innocent who got another answer than it should have."""

    what: str
    at: float = field(default_factory=time.time)


class Stage:
    """Everything, running.

    Args:
        folder: for all files.
        settings: of the server, beyond :data:`SETTINGS`.
        own_clock: the server gets a wall clock of its own where there is a C compiler; else
            ``clock`` is None.
        small_disks: log and models get disks of their own where that is permitted; else
            ``log_disk`` and ``model_disk`` are None.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        small_disks: bool = False,
        own_clock: bool = False,
    ) -> None:
        self.folder = folder
        self.models = folder / "model-disk" / "models"
        self.log_folder = folder / "log-disk" / "log"
        self.log_disk: Path | None = None
        self.model_disk: Path | None = None
        self._small_disks = small_disks
        self.clock: Clock | None = None
        if own_clock:
            with suppress(OSError):
                self.clock = Clock(folder)
        self.turns = Turns()
        self.said: dict[str, str] = {}
        """What each model answers to the question, undisturbed."""
        self.harm: list[Harm] = []
        self.starts = 0
        self._undivided: set[asyncio.Task[Any]] = set()
        self._settings = dict(settings or {})
        self._stack = ExitStack()
        self._later = AsyncExitStack()
        self._checked_seq = 0
        self._checked_asked = 0

    # -- life

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Start everything; :meth:`close` ends it, also where this fails or is cancelled."""
        if self._small_disks:
            with suppress(NotPermitted):
                mount = self._stack.enter_context
                self.log_disk = mount(small_disk(self.log_folder.parent, LOG_DISK_MB))
                self.model_disk = mount(small_disk(self.models.parent, MODEL_DISK_MB))
        self.log_folder.mkdir(parents=True, exist_ok=True)
        if not self.models.exists():
            for seed, name in enumerate(("one", "two")):
                tiny.save_model(self.models / name, seed=seed, context=32_768)
            tiny.save_model(self.models / "nan", broken_numbers=True)
        other = self.folder / "other.gguf"
        if not other.exists():
            shutil.copyfile(DEMO_GGUF, other)
            with other.open("ab") as file:
                file.write(b"\0")  # another digest, so another runner
        names = f"a:135m,b:135m={other}"
        self.standin = StandIn(DEMO_GGUF, "--models", names)
        await self.undivided(self._stack.enter_context, self.standin)
        self.gate = Gate(self.standin.port)
        await self.gate.open()
        self._later.push_async_callback(self.gate.shut)
        self.hub = self._stack.enter_context(Hub())
        self.hub.repo(REPO, model_files(self.folder))
        self.hub_gate = Gate(int(self.hub.url.rpartition(":")[2]))
        await self.hub_gate.open()
        self._later.push_async_callback(self.hub_gate.shut)
        self.server = LiveServer(
            self.folder,
            cold=True,  # pages that it shared with another process would come to it as it writes
            WORKBENCH_DB=str(self.log_folder / "workbench.duckdb"),
            OLLAMA_HOST=self.gate.url,
            HF_ENDPOINT=self.hub_gate.url,
            HF_MODEL_PATH=str(self.models),
            **{**SETTINGS, **self._settings},
            **(self.clock.environment if self.clock else {}),
        )
        await self.start()

    async def undivided(self, work: Callable[..., Any], *args: Any) -> Any:
        """Do something in a thread; whoever is cancelled meanwhile leaves it to :meth:`close`."""
        task = asyncio.ensure_future(asyncio.to_thread(work, *args))
        self._undivided.add(task)
        task.add_done_callback(self._undivided.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End all that was begun, in whatever state a fault that was cut short has left it."""
        await asyncio.gather(*self._undivided, return_exceptions=True)
        left = self._ours()
        for process in left:
            kill(process, signal.SIGCONT)
        if left:
            with suppress(AssertionError, psutil.Error, subprocess.TimeoutExpired, OSError):
                await self.stop(signal.SIGTERM)
        for process in _alive(left):
            kill(process, signal.SIGKILL)
        if (users := getattr(self, "users", None)) is not None:
            await users.close()
        await self._later.aclose()
        await asyncio.to_thread(self._stack.close)

    def _ours(self) -> list[psutil.Process]:
        """The server and all that it has started, also those whose parents are gone."""
        if (server := getattr(self, "server", None)) is None:
            return []
        log = server.environment["WORKBENCH_DB"]
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("WORKBENCH_DB") == log:
                    found.append(process)
        return found

    async def start(self) -> None:
        """Start the server; the ids of its users go on counting."""
        await self.undivided(self.server.__enter__)
        self.starts += 1
        token = self.server.announced()["token"]
        old = getattr(self, "users", None)
        self.users = Users(self.server.url, token)
        if old is not None:
            self.users.asked, self.users._numbers = old.asked, old._numbers
            await old.close()

    async def stop(self, number: int) -> None:
        """Stop the server by a signal, and wait until all that it had started is gone."""
        family = self.family()
        await self.undivided(self.server.stop, number)
        self.server.__exit__(None, None, None)
        log = self.folder / "server.log"
        log.rename(self.folder / f"server-{self.starts}.log")
        await until(lambda: _async(not _alive(family)), "the server's processes end", 60)

    async def warm(self) -> None:
        """Load everything, and note what each model says undisturbed."""
        for model in MODELS:
            told = await self.users.ask(model, QUESTION, 8)
            assert told.outcome == "ok", told
            self.said[model] = told.text

    # -- those who only want an answer

    async def innocent(self, model: str, **more: Any) -> None:
        """One who asks; being hurt is noted."""
        async with self.turns.take(shares=grounds(model)):
            told = await self.users.ask(model, QUESTION, 8, **more)
            if told.outcome != "ok" or told.text != self.said[model] or told.warnings:
                self.harm.append(Harm(f"{model}: {told}"))

    # -- what a fault must have left behind

    async def gone(self, told: Told) -> None:
        """Its session does not run any more."""

        async def over() -> bool:
            streams = (await self.users.get("/api/v1/streams"))["streams"]
            return all(one["correlation_id"] != told.correlation_id for one in streams)

        await until(over, f"{told.correlation_id} ends", 60)

    async def serves(self, model: str) -> None:
        """The next request is served, and well."""
        told = await self.users.ask(model, QUESTION, 8)
        assert told.outcome == "ok", f"the next request: {told}"
        if (said := self.said.get(model)) is not None:
            assert told.text == said, f"the next request: {told}"

    def family(self) -> list[psutil.Process]:
        """All processes that the server has started, itself included."""
        with suppress(psutil.Error):
            root = psutil.Process(self.server.pid)
            return [root, *root.children(recursive=True)]
        return []

    def workers(self) -> set[int]:
        """Process ids of the living workers, also of those whose zygote is gone."""
        found = {line["pid"] for line in self._loads()}
        for process in self.family()[1:]:
            with suppress(psutil.Error):
                if ZYGOTE in process.cmdline():
                    found.update(child.pid for child in process.children())
        return {pid for pid in found if _is_worker(pid)}

    def _loads(self) -> list[dict[str, Any]]:
        """The lines of the server's log about loads of Hugging Face models, the oldest first."""
        lines = self.server.read_log().splitlines()
        return [json.loads(text) for text in lines if '"model loaded"' in text]

    def zygote(self) -> psutil.Process:
        """The process that workers are forked from."""
        for process in self.family()[1:]:
            with suppress(psutil.Error):
                if ZYGOTE in process.cmdline() and process.ppid() == self.server.pid:
                    return process
        raise AssertionError("there is no zygote")

    async def worker(self, model: str) -> psutil.Process:
        """The process that holds a Hugging Face model, as the server's log has it."""
        for line in reversed(self._loads()):
            if line["model"] == model.partition("/")[2]:
                return psutil.Process(line["pid"])
        raise AssertionError(f"{model} was never loaded")

    async def at_rest(self) -> dict[str, Any]:
        """With everybody else kept away: nothing runs, nothing waits, nothing was left or lost.

        Returns:
            What the server holds now.
        """
        users = self.users

        async def idle() -> bool:
            streams = (await users.get("/api/v1/streams"))["streams"]
            queue = await users.get("/api/v1/queue")
            busy = [one for one in queue["residents"] if one["status"] not in ("idle",)]
            return not (streams or queue["waiting"] or busy)

        await until(idle, "nothing runs and nobody waits", 60)

        async def no_more() -> bool:
            residents = (await users.get("/api/v1/queue"))["residents"]
            held = sum(one["model"].startswith("huggingface/") for one in residents)
            return len(self.workers()) == held

        await until(no_more, "there is a worker for each model and none besides", 60)
        zombies = [one for one in self.family() if not _lives(one)]
        assert not zombies, f"left as zombies: {zombies}"
        runners = self.standin.runner_pids()
        assert len(runners) <= len(OLLAMA), f"runners: {runners}"
        await self.account()
        process = psutil.Process(self.server.pid)

        async def all_given_back() -> bool:
            await users.get("/api/v1/models")  # an HTTP client tidies up when it is used
            return not any(
                one.raddr
                and one.raddr.port == self.gate.port
                and one.status == psutil.CONN_CLOSE_WAIT
                for one in process.net_connections("tcp")
            )

        await until(all_given_back, "no connection is held that Ollama has closed", 60)
        with process.oneshot():
            return {
                "rss_mb": process.memory_info().rss / 1e6,
                "fds": process.num_fds(),
                "threads": process.num_threads(),
                "processes": len(self.family()),
            }

    async def account(self) -> None:
        """Every request has its row and no other, and the row says what its client was told."""
        asked = self.users.asked[self._checked_asked :]
        rows = await self.users.query(
            "SELECT s.seq, s.correlation_id, s.status, s.error_code, md5(m.content) "
            "FROM stream_sessions s LEFT JOIN messages m "
            "ON m.session_id = s.session_id AND m.role = 'assistant' "
            f"WHERE s.seq > {self._checked_seq} AND s.correlation_id LIKE 'rel-%' ORDER BY s.seq"
        )
        self._checked_asked += len(asked)
        found: dict[str, list[list[Any]]] = {}
        for row in rows:
            self._checked_seq = max(self._checked_seq, row[0])
            found.setdefault(row[1], []).append(row)
        problems = [p for told in asked for p in mismatch(told, found.pop(told.correlation_id, []))]
        problems += [f"a row that nobody asked for: {rows}" for rows in found.values()]
        assert not problems, f"{len(problems)} rows are wrong: {problems[:5]}"

    def totals(self) -> Counter[str]:
        """How many requests were told what."""
        return Counter(told.outcome for told in self.users.asked)


def mismatch(told: Told, rows: Collection[list[Any]]) -> list[str]:
    """What is wrong with the rows of one request."""
    if told.session_id is None and (told.left or told.outcome == "cut"):
        return [f"{told} has {rows}"] if len(rows) > 1 else []
    if told.session_id is None:
        return [f"{told} was refused and has {rows}"] if rows else []
    if len(rows) != 1:
        return [f"{told} has {rows}"]
    ((_, _, status, code, digest),) = rows
    if told.left or told.outcome == "cut":
        return []
    if code != (told.outcome if told.outcome not in ("ok", "cancelled") else None):
        return [f"{told} has the row {status} {code}"]
    if told.outcome == "ok" and digest != _digest(told.text):
        return [f"{told} is not the text in the log"]
    return []


def _digest(text: str) -> str:
    from hashlib import md5

    from workbench.wire import clean

    return md5(clean(text).encode(), usedforsecurity=False).hexdigest()


def _is_worker(pid: int) -> bool:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return _lives(process) and ZYGOTE in process.cmdline()
    return False


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in family if _lives(process)]


async def _async(value: bool) -> bool:
    return value


def kill(process: psutil.Process, number: int) -> None:
    """A signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
