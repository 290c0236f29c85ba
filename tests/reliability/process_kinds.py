"""Processes that die, hang or run out of memory: workers, the zygote, Ollama and its runners."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.reliability.asking import Told, until
from tests.reliability.kinds import OWN, Case, Kind
from tests.reliability.stage import HUGGING_FACE, OLLAMA, kill

DIED, LATE = "HF_PIPELINE_ERROR", "HF_TIMEOUT"


def process(name: str, how: str, inject: Any, *expects: str, **more: Any) -> Kind:
    """A fault of a worker, or of what belongs to one."""
    models, hurts = more.pop("models", HUGGING_FACE), more.pop("hurts", (OWN,))
    family = more.pop("family", "workers")
    return Kind(
        name, family, how, frozenset(expects), inject, models, hurts, quick=False, **more
    )  # fmt: skip


def at(
    when: str, act: Callable[[Case], Awaitable[None]], tokens: int = 2000, **timeouts: float
) -> Any:
    """Something happens at the first event of a type."""

    async def inject(case: Case) -> None:
        done = False

        async def listen(kind: str, told: Told) -> None:
            nonlocal done
            if kind == when and not done:
                done = True
                await act(case)

        await case.ask(tokens=tokens, on_event=listen, timeouts=timeouts)
        assert done, f"there was no {when}"

    return inject


def signalled(number: int) -> Callable[[Case], Awaitable[None]]:
    """The model's worker gets a signal."""

    async def act(case: Case) -> None:
        kill(await case.stage.worker(case.model), number)

    return act


async def dies_before_a_word(case: Case) -> None:
    """Stopped, asked, killed by a signal that is no out-of-memory: it is tried once more."""
    worker = await case.stage.worker(case.model)
    kill(worker, signal.SIGSTOP)

    async def listen(kind: str, told: Told) -> None:
        if kind == "prompt" and worker.is_running():
            kill(worker, signal.SIGABRT)
            kill(worker, signal.SIGCONT)

    await case.ask(on_event=listen)


async def memory_runs_out(case: Case) -> None:
    """The worker may map no more memory than it has; a long prompt needs more."""
    worker = await case.stage.worker(case.model)
    before = worker.rlimit(psutil.RLIMIT_AS)
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + 2**20, before[1]))
    try:
        await case.ask("word " * 6_000, tokens=64)
    finally:
        with suppress(psutil.Error):
            worker.rlimit(psutil.RLIMIT_AS, before)


async def zygote_dies(case: Case) -> None:
    """Then a model is loaded that was not in memory."""
    stage = case.stage
    await stage.users.post("/api/v1/models/unload", model=case.model)
    kill(stage.zygote(), signal.SIGKILL)
    await case.ask()


async def zygote_dies_then_worker_hangs(case: Case) -> None:
    """Nobody is left who could tell how that worker ends: it must be ended all the same."""
    stage = case.stage
    worker = await stage.worker(case.model)
    kill(stage.zygote(), signal.SIGKILL)
    kill(worker, signal.SIGSTOP)

    async def gone() -> bool:
        return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE

    try:
        await case.ask(timeouts={"first_token_s": 0.3})
        await until(gone, "the worker that hangs is ended", 20)
    finally:
        kill(worker, signal.SIGKILL)


async def numbers_overflow(case: Case) -> None:
    await case.ask(model="huggingface/nan")


# -- files of models -------------------------------------------------------------------------------


@contextmanager
def copied(case: Case) -> Iterator[Path]:
    """A copy of the model, to be harmed."""
    folder = case.stage.models / f"copy-{case.number}"
    shutil.copytree(case.stage.models / case.name, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def harmed(harm: Callable[[Path], None]) -> Any:
    """A copy of the model is harmed, then asked."""

    async def inject(case: Case) -> None:
        with copied(case) as folder:
            harm(folder)
            await case.ask(model=f"huggingface/{folder.name}")

    return inject


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def bad_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[8:16] = b"\xff" * 8
    weights.write_bytes(data)


def huge_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 2**62) + weights.read_bytes()[8:])


def bad_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')


def other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))


def unknown_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody-knows"}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def bad_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def bad_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.nothing.here }}")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")


def out_of_the_folder(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to("/etc/hostname")


async def deleted_while_it_answers(case: Case) -> None:
    """What is in memory goes on; the next load says that nothing is there."""
    with copied(case) as folder:
        model = f"huggingface/{folder.name}"

        async def listen(kind: str, told: Told) -> None:
            if kind == "token" and folder.exists():
                shutil.rmtree(folder)

        told = await case.ask(model=model, tokens=50, on_event=listen)
        assert told.outcome == "ok", told
        await case.stage.users.post("/api/v1/models/unload", model=model)
        case.victims.clear()
        await case.ask(model=model)


MISSING = ("HF_MODEL_NOT_FOUND",)
UNLOADABLE = ("HF_MODEL_LOAD_FAILED", "HF_INVALID_CONFIG", "UNSAFE_FILE", "HF_MODEL_NOT_FOUND")


def file_of(name: str, how: str, inject: Any, *expects: str) -> Kind:
    """A fault of a model's files; nobody else uses the copy."""
    return process(name, how, inject, *expects, family="files of models", hurts=(), weight=0.5)


# -- Ollama's processes ----------------------------------------------------------------------------


async def ollama_killed(case: Case) -> None:
    """Its server is killed in the middle of an answer and started again."""
    stage = case.stage

    async def act(case: Case) -> None:
        await stage.undivided(stage.standin.kill)

    await at("token", act)(case)
    await stage.undivided(stage.standin.start)


async def ollama_hangs(case: Case) -> None:
    server = psutil.Process(case.stage.standin.pid)
    try:

        async def act(case: Case) -> None:
            kill(server, signal.SIGSTOP)

        await at("token", act, between_tokens_s=0.4)(case)
    finally:
        kill(server, signal.SIGCONT)


def runner(number: int, **timeouts: float) -> Any:
    """Every runner gets a signal in the middle of an answer."""

    async def inject(case: Case) -> None:
        found: list[psutil.Process] = []

        async def act(case: Case) -> None:
            found.extend(psutil.Process(pid) for pid in case.stage.standin.runner_pids())
            for one in found:
                kill(one, number)

        try:
            await at("token", act, **timeouts)(case)
        finally:
            for one in found:
                kill(one, signal.SIGCONT)

    return inject


def ollama(name: str, how: str, inject: Any, *expects: str, weight: float = 0.3) -> Kind:
    """A fault of Ollama's processes."""
    return process(
        name, how, inject, *expects, models=OLLAMA, hurts=("ollama",),
        family="Ollama's processes", weight=weight,
    )  # fmt: skip


KINDS = [
    process("worker-killed", "SIGKILL in the answer", at("token", signalled(signal.SIGKILL)), DIED),
    # Killed before it had the prompt, nothing was asked of it yet: another worker answers.
    process("worker-killed-in-prompt", "SIGKILL when the prompt was sent",
            at("prompt", signalled(signal.SIGKILL)), DIED, "ok"),
    process("worker-crashes", "SIGSEGV in the answer",
            at("token", signalled(signal.SIGSEGV)), DIED),
    process("worker-terminated", "SIGTERM in the answer",
            at("token", signalled(signal.SIGTERM)), DIED),
    process("worker-dies-before-a-word", "SIGABRT in the prompt", dies_before_a_word, "ok"),
    process("worker-hangs", "SIGSTOP in the answer",
            at("token", signalled(signal.SIGSTOP), between_tokens_s=0.3), LATE, weight=0.5),
    process("worker-out-of-memory", "RLIMIT_AS at what it has, a long prompt", memory_runs_out,
            "HF_MEMORY_EXCEEDED", "HF_GENERATION_FAILED", DIED, hurts=("huggingface", "ollama"),
            weight=0.2),
    process("zygote-killed", "SIGKILL, then a load", zygote_dies, "ok", DIED,
            hurts=("huggingface",), weight=0.1),
    process("zygote-killed-worker-hangs", "SIGKILL for the one, SIGSTOP for the other",
            zygote_dies_then_worker_hangs, LATE, hurts=("huggingface",), weight=0.1),
    process("numbers-overflow", "a model whose head is NaN", numbers_overflow,
            "HF_GENERATION_FAILED", hurts=()),
    file_of("weights-cut", "half of the weights are missing", harmed(cut_weights), *UNLOADABLE),
    file_of("weights-gone", "no weights at all", harmed(no_weights), *UNLOADABLE),
    file_of("header-damaged", "eight bytes of the header", harmed(bad_header), *UNLOADABLE),
    file_of("header-huge", "a header of 4 exabytes, it says", harmed(huge_header), *UNLOADABLE),
    file_of("config-damaged", "config.json breaks off", harmed(bad_config), *UNLOADABLE),
    file_of("config-of-another", "config.json has another width", harmed(other_shape), *UNLOADABLE),
    file_of("family-unknown", "a family that nobody knows", harmed(unknown_family), *UNLOADABLE),
    file_of("tokenizer-gone", "no tokenizer", harmed(no_tokenizer), *UNLOADABLE),
    file_of("tokenizer-damaged", "tokenizer.json is empty", harmed(bad_tokenizer), *UNLOADABLE),
    file_of("template-damaged", "the chat template does not end", harmed(bad_template),
            *UNLOADABLE, "HF_GENERATION_FAILED", "INVALID_REQUEST"),
    file_of("pickle", "only a pickle", harmed(pickled), *UNLOADABLE),
    file_of("link-out", "the weights are a link out of the folder", harmed(out_of_the_folder),
            *UNLOADABLE, "FORBIDDEN_PATH"),
    file_of("deleted-while-it-answers", "the folder goes in the middle of an answer",
            deleted_while_it_answers, *MISSING),
    ollama("ollama-killed", "SIGKILL for Ollama in an answer, started again", ollama_killed,
           "OLLAMA_STREAM_BROKEN"),
    ollama("ollama-hangs", "SIGSTOP for Ollama in an answer", ollama_hangs, "OLLAMA_TIMEOUT"),
    ollama("runner-killed", "SIGKILL for the runners in an answer", runner(signal.SIGKILL),
           "OLLAMA_GENERATION_FAILED"),
    ollama("runner-hangs", "SIGSTOP for the runners in an answer",
           runner(signal.SIGSTOP, between_tokens_s=0.4), "OLLAMA_TIMEOUT"),
]  # fmt: skip
