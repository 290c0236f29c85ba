"""Loading and unloading: shared loads, time limits, retries, and processes that really end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.hf.asking import ask
from tests.hf.conftest import MakeProvider
from tests.hf.tiny import save_model
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import client as client_module
from workbench.hf.client import WorkerClient
from workbench.hf.manager import HuggingFaceModelManager
from workbench.hf.protocol import Load, Loaded
from workbench.hf.spawner import Lease
from workbench.hf.verdicts import FILE, Verdicts
from workbench.providers.huggingface import HuggingFaceProvider

MODEL = "org/endless"
ROOT = Path(__file__).parents[2]


async def test_ten_loads_at_once_are_one_worker(manager: HuggingFaceModelManager) -> None:
    workers = await asyncio.gather(*(manager.load(MODEL) for _ in range(10)))
    assert len({worker.client.pid for worker in workers}) == 1
    assert manager.metadata(MODEL).load_count == 1


async def test_a_caller_that_gives_up_does_not_end_the_others_load(
    manager: HuggingFaceModelManager,
) -> None:
    first = asyncio.create_task(manager.load(MODEL))
    second = asyncio.create_task(manager.load(MODEL))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).client.alive
    assert manager.metadata(MODEL).load_count == 1


async def test_two_models_are_two_processes_and_both_end(manager: HuggingFaceModelManager) -> None:
    workers = [await manager.load(name) for name in (MODEL, "ends")]
    pids = {worker.client.pid for worker in workers}
    status = manager.cache_status()
    assert len(pids) == 2
    assert set(status.loaded) == {MODEL, "ends"}
    assert status.memory_usage > 10_000_000
    await manager.clear_cache()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert manager.cache_status().loaded == ()


async def test_a_load_that_takes_too_long_is_a_timeout_and_its_worker_is_killed(
    make_provider: MakeProvider, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = []
    load = WorkerClient.load

    async def frozen(self: WorkerClient, wanted: Load) -> Loaded:
        pids.append(self.pid)
        os.kill(self.pid, signal.SIGSTOP)
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", frozen)
    manager = make_provider(tiny_models, hf_model_timeout_ms=100).manager
    with pytest.raises(WorkbenchError) as caught:
        await manager.load(f"{MODEL}?dtype=float32")
    assert caught.value.code is ErrorCode.HF_TIMEOUT
    assert f"huggingface/{MODEL}?dtype=float32 took longer than 0.1 s" in caught.value.message
    assert len(pids) == 1  # a timeout is not tried again
    assert not psutil.pid_exists(pids[0])


async def test_first_quality_check_does_not_count_against_the_time_of_a_load(
    make_provider: MakeProvider, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "own"
    shutil.copytree(tiny_models, root)
    (root / FILE).unlink(missing_ok=True)
    load = WorkerClient.load

    async def slow(self: WorkerClient, wanted: Load) -> Loaded:
        await asyncio.sleep(0.2)
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", slow)
    manager = make_provider(root, hf_model_timeout_ms=100).manager
    await manager.load(MODEL)
    await manager.unload(MODEL)
    with pytest.raises(WorkbenchError, match=f"huggingface/{MODEL} took longer than 0.1 s"):
        await manager.load(MODEL)  # the verdict is known now


async def test_unloading_gives_up_a_load_under_way(
    manager: HuggingFaceModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    load = WorkerClient.load

    async def frozen(self: WorkerClient, wanted: Load) -> Loaded:
        os.kill(self.pid, signal.SIGSTOP)
        started.set_result(self.pid)
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", frozen)
    loading = asyncio.create_task(manager.load(MODEL))
    pid = await started
    await manager.unload(MODEL)
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert not psutil.pid_exists(pid)


async def test_a_crash_while_loading_is_tried_again(
    manager: HuggingFaceModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0
    load = WorkerClient.load

    async def crashing(self: WorkerClient, wanted: Load) -> Loaded:
        nonlocal crashes
        crashes += 1
        if crashes < 3:
            os.kill(self.pid, signal.SIGABRT)
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", crashing)
    worker = await manager.load(MODEL)
    assert crashes == 3
    assert worker.client.alive


async def test_a_broken_model_is_not_tried_again(
    make_provider: MakeProvider, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0
    load = WorkerClient.load

    async def counting(self: WorkerClient, wanted: Load) -> Loaded:
        nonlocal attempts
        attempts += 1
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", counting)
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in (tiny_models / MODEL).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    with pytest.raises(WorkbenchError) as caught:
        await make_provider(tmp_path).manager.load("bad")
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED
    assert attempts == 1


async def test_a_failing_gpu_falls_back_to_the_cpu_with_a_warning_on_every_answer(
    provider: HuggingFaceProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted_gpus = []
    load = WorkerClient.load

    async def without_gpu(self: WorkerClient, wanted: Load) -> Loaded:
        wanted_gpus.append(wanted.gpu)
        if wanted.gpu == "auto":
            raise WorkbenchError(
                ErrorCode.HF_MEMORY_EXCEEDED, "No room on the GPU.", details={"device": "cuda"}
            )
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", without_gpu)
    for _ in range(2):
        answer = await ask(provider, MODEL, max_tokens=2)
        assert [warning.code for warning in answer.warnings] == ["GPU_FALLBACK"]
        assert "No room on the GPU" in answer.warnings[0].message
    assert wanted_gpus == ["auto", "false"]


async def test_a_gpu_that_is_demanded_but_absent_is_an_error(
    make_provider: MakeProvider, tiny_models: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(WorkbenchError) as caught:
        await make_provider(tiny_models, hf_enable_gpu="true").manager.load(MODEL)
    assert caught.value.code is ErrorCode.HF_INVALID_CONFIG


async def test_metadata_counts_requests_errors_and_time(provider: HuggingFaceProvider) -> None:
    await ask(provider, MODEL, max_tokens=3)
    await ask(provider, MODEL, max_tokens=3)
    with pytest.raises(WorkbenchError):
        await ask(provider, "nan")
    data = provider.manager.metadata(MODEL)
    assert (data.is_loaded, data.request_count, data.error_count) == (True, 2, 0)
    assert data.last_used_at is not None
    assert (data.average_response_time or 0) > 0
    assert (data.memory_usage or 0) > 10_000_000
    assert provider.manager.metadata("nan").error_count == 1
    await provider.unload(MODEL)
    data = provider.manager.metadata(MODEL)
    assert (data.is_loaded, data.memory_usage, data.request_count) == (False, None, 2)


async def test_a_dead_zygote_is_replaced_and_its_worker_that_hangs_is_ended(
    provider: HuggingFaceProvider, zygote: Lease
) -> None:
    """Nobody tells of that one's end any more: it was taken for ended, and a request hung on it."""
    worker = (await provider.manager.load(MODEL)).client
    worker.cancel_grace_s = 0.1
    process, first = psutil.Process(worker.pid), zygote.zygote()
    os.kill(first.pid, signal.SIGKILL)
    while not first.closed:
        await asyncio.sleep(0.01)
    os.kill(worker.pid, signal.SIGSTOP)
    asking = asyncio.create_task(ask(provider, MODEL))
    while not worker.busy:
        await asyncio.sleep(0.01)
    asking.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([asking])
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
    assert len((await ask(provider, MODEL, max_tokens=2)).tokens) == 2
    assert zygote.zygote().pid != first.pid


async def test_a_load_that_is_given_up_at_its_end_leaves_no_worker(
    make_provider: MakeProvider, zygote: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the verdict on its numbers was written, nobody had the worker on any list."""
    save_model(tmp_path / "models" / "tiny")
    manager = make_provider(tmp_path / "models").manager
    reached, go_on = threading.Event(), threading.Event()

    def put(*_: object) -> None:
        reached.set()
        go_on.wait(60)

    monkeypatch.setattr(Verdicts, "put", put)
    before = workers_of(zygote)
    load = asyncio.create_task(manager.load("tiny"))
    assert await asyncio.to_thread(reached.wait, 60)
    assert len(workers_of(zygote) - before) == 1
    await manager.unload("tiny")
    go_on.set()
    assert load.cancelled() or isinstance(load.exception(), asyncio.CancelledError)
    assert workers_of(zygote) == before


async def test_imports_begin_at_the_start_if_there_is_a_model(
    make_provider: MakeProvider, tiny_models: Path, tmp_path: Path
) -> None:
    """Its own environment, so that the zygote is nobody else's."""

    def zygotes() -> set[int]:
        return {child.pid for child in psutil.Process().children()}

    before = zygotes()
    make_provider(tmp_path / "none", workbench_wait_policy="active").prewarm()
    assert zygotes() <= before
    make_provider(tiny_models, workbench_wait_policy="active").prewarm()
    assert zygotes() - before


def workers_of(zygote: Lease) -> set[int]:
    return {child.pid for child in psutil.Process(zygote.zygote().pid).children()}


async def test_a_machine_without_descriptors_is_told_as_such(
    manager: HuggingFaceModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was an INTERNAL error, a defect of ours."""

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(client_module.socket, "socketpair", none_left)
        with pytest.raises(WorkbenchError, match="Too many open files") as caught:
            await manager.load(MODEL)
    assert caught.value.code is ErrorCode.HF_PIPELINE_ERROR
    assert "ulimit -n" in caught.value.fix
    assert (await manager.load(MODEL)).client.alive


def test_a_script_without_main_guard_works_and_leaves_nothing_when_it_is_killed(
    tiny_models: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    # Names of real modules beside the script must not be picked up by the helper processes.
    (tmp_path / "queue.py").write_text("raise SystemExit('wrong module')")
    script.write_text(
        f"""
import asyncio, os, sys
sys.path[0] = {str(ROOT)!r}
from pathlib import Path
from tests.hf.asking import ask
from workbench import logs
from workbench.hf import spawner
from workbench.providers.huggingface import HuggingFaceProvider
from workbench.settings import load_settings

logs.configure("ERROR")
print("script runs")

async def work():
    provider = HuggingFaceProvider(load_settings(
        _env_file=None, hf_model_path=Path({str(tiny_models)!r}), workbench_threads=1))
    answer = await ask(provider, {MODEL!r}, max_tokens=4)
    (zygote, _), = spawner._zygotes.values()
    print(len(answer.tokens), zygote.pid, *provider.pids({MODEL!r}))
    print("torch here:", "torch" in sys.modules, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(work())
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "script runs", done.stderr
    tokens, *pids = map(int, lines[1].split())
    assert len(lines) == 3  # the script's body ran once
    assert lines[2] == "torch here: False"
    assert tokens == 4
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(timeout=10)


async def test_more_threads_than_cores_are_refused(provider: HuggingFaceProvider) -> None:
    with pytest.raises(WorkbenchError, match="cores") as caught:
        await provider.load("org/endless?threads=1024", keep_alive_s=60)
    assert caught.value.code is ErrorCode.HF_INVALID_CONFIG


async def test_a_worker_that_was_trimmed_still_answers(
    manager: HuggingFaceModelManager, provider: HuggingFaceProvider
) -> None:
    before = await ask(provider, MODEL)
    await manager.trim()
    assert (await ask(provider, MODEL)).text == before.text


async def test_a_worker_is_known_while_it_loads(
    manager: HuggingFaceModelManager, provider: HuggingFaceProvider
) -> None:
    assert provider.residents() == []
    load = asyncio.create_task(manager.load(MODEL))
    async with asyncio.timeout(20):
        while not provider.pids(MODEL):
            await asyncio.sleep(0.005)
    assert provider.residents() == [MODEL]
    worker = await load
    assert list(provider.pids(MODEL)) == [worker.client.pid]
