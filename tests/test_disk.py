"""Pull, verify and rm as a user runs them, with and without a server, and a hub over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hf import tiny
from tests.hf.downloads import REPO, model_files
from tests.hub_standin import Hub
from tests.live import LiveServer, run_cli
from workbench.client import Workbench
from workbench.errors import WorkbenchError
from workbench.store import Store


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        hub.repo(REPO, model_files(tmp_path))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("WORKBENCH_OFFLINE", "false")
        monkeypatch.setenv("WORKBENCH_DISK_RESERVE", "0")
        yield hub


@pytest.fixture
def server(standin: Hub, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(
        tmp_path,
        HF_ENDPOINT=standin.url,
        WORKBENCH_OFFLINE="false",
        WORKBENCH_DISK_RESERVE="0",
        HF_MODEL_PATH=str(tmp_path / "models"),
    ) as running:
        yield running


def events(path: Path) -> list[tuple[str, str, bool]]:
    with Store.open_readonly(path) as store:
        frame = store.query("SELECT event, model, ok FROM model_events ORDER BY t_ns")
    return [tuple(row) for row in frame.itertuples(index=False)]


def test_pull_verify_rm_without_a_server(
    standin: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODEL_TIMEOUT_MS", "600000")  # a slow machine is not what this is about
    done = run_cli("models", "pull", REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "huggingface/org/name"
    tiny.write_folder(tmp_path / "models" / "own")
    mute = tiny.write_folder(tmp_path / "models" / "mute")
    (mute / "tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    checked = json.loads(run_cli("models", "verify", "--json").stdout)
    odd, whole, bare = checked["models"]
    assert (whole["ok"], whole["checked"], whole["tokenizer"]) == (True, 4, True)
    assert (odd["ok"], odd["tokenizer"], checked["ok"]) == (False, False, False)
    assert "tokenizer of mute cannot be read" in odd["problems"][0]
    assert (bare["ok"], bare["tokenizer"]) == (False, True)
    assert "lacks 12 tensors of its configuration" in bare["problems"][0]
    shutil.rmtree(mute)
    scanned = run_cli("models", "scan", "--json")  # what was found out is kept
    assert "comparing" not in scanned.stderr
    whole, bare = json.loads(scanned.stdout)["models"]
    assert (whole["id"], whole["status"]) == ("huggingface/org/name", "available")
    assert bare["status"] == "unusable"
    assert "own lacks 12 tensors of its configuration" in bare["problem"]
    assert "choose another revision" in bare["problem"]

    weights = tmp_path / "models" / REPO / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    broken = run_cli("models", "verify", "name")
    assert broken.returncode == 1
    assert "model.safetensors" in broken.stdout
    assert "workbench models pull org/name" in broken.stdout
    assert json.loads(run_cli("models", "pull", REPO, "--json").stdout)["downloaded_bytes"] > 0

    refused = run_cli("models", "rm", "name", stdin="y\n")
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert weights.exists()
    gone = json.loads(run_cli("models", "rm", "name", "--yes", "--json").stdout)
    assert gone["freed_bytes"] > 100_000
    assert not weights.parent.exists()
    name = "huggingface/org/name"
    assert events(tmp_path / "log" / "workbench.duckdb") == [
        ("download", name, True),
        ("download", name, True),
        ("delete", name, True),
    ]


def test_a_failed_pull_is_explained_and_logged(standin: Hub, tmp_path: Path) -> None:
    done = run_cli("models", "pull", REPO, "--revision", "v9", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "HF_MODEL_NOT_FOUND"
    assert events(tmp_path / "log" / "workbench.duckdb") == [
        ("download", "huggingface/org/name", False)
    ]


def test_offline_is_said_at_once(standin: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_OFFLINE", "true")
    done = run_cli("models", "pull", REPO)
    assert done.returncode == 1
    assert "WORKBENCH_OFFLINE" in done.stderr
    assert standin.requests == []


def until_written(partial: Path) -> None:
    """Wait until some of the weights are on disk."""
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 1000 for path in partial.glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_stops_and_the_next_pull_resumes(standin: Hub, tmp_path: Path) -> None:
    standin.faults.hold_after = 40_960
    command = [sys.executable, "-m", "workbench.cli", "models", "pull", REPO]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as pull:
        assert standin.faults.held.wait(60)
        until_written(tmp_path / "models" / ".downloads" / "org--name")
        pull.send_signal(signal.SIGINT)  # while the hub is silent, which must not keep it
        _, said = pull.communicate(timeout=60)
        assert pull.returncode == 130
    assert "next pull takes it up" in said
    assert "Traceback" not in said
    standin.faults.hold_after = None
    standin.faults.go_on.set()
    assert run_cli("models", "pull", REPO).returncode == 0
    assert str(standin.sent("model.safetensors")[-1]).startswith("bytes=")


def test_rm_asks_in_a_terminal(standin: Hub, tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "models" / "mine")
    for answer, code in (("n", 1), ("y", 0)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "workbench.cli", "models", "rm", "mine"]
        with subprocess.Popen(
            command, stdin=theirs, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            os.write(ours, f"{answer}\n".encode())
            _, said = process.communicate(timeout=60)
            assert process.returncode == code
        os.close(ours)
        os.close(theirs)
        assert "Delete huggingface/mine" in said
        assert (tmp_path / "models" / "mine").exists() == bool(code)


def test_with_a_server_it_runs_there_as_a_job(
    standin: Hub, server: LiveServer, tmp_path: Path
) -> None:
    standin.faults.hold_after = 8192
    with server.client() as http:
        first = http.post("/api/v1/models/download", json={"model": REPO})
        assert first.status_code == 202
        job = first.json()
        assert standin.faults.held.wait(60)
        again = http.post("/api/v1/models/download", json={"model": REPO}).json()
        assert again["id"] == job["id"]
        running = http.get(f"/api/v1/jobs/{job['id']}").json()
        assert running["status"] == "running"
        assert running["bytes_total"] > 100_000
        refused = http.delete(f"/api/v1/models/huggingface/{REPO}")
        assert refused.status_code >= 400
        stopped = http.delete(f"/api/v1/jobs/{job['id']}")
        assert stopped.status_code == 200
        standin.faults.go_on.set()
        standin.faults.hold_after = None
        done = server.cli("models", "pull", REPO, "--json")
        assert done.returncode == 0, done.stderr
        assert http.get(f"/api/v1/jobs/{job['id']}").json()["status"] == "cancelled"
        statuses = [entry["status"] for entry in http.get("/api/v1/jobs").json()["jobs"]]
        assert statuses == ["done", "cancelled"]
        assert http.get("/api/v1/jobs/job_none").status_code == 404

        plan = http.delete("/api/v1/models/org/name?dry_run=true").json()
        assert plan["size_bytes"] > 100_000
        card = tmp_path / "models" / "org" / "name" / "README.md"
        card.write_text(card.read_text().replace("apache", "epache"))
        checked = server.cli("models", "verify", "name")
        assert (checked.returncode, "README.md was changed" in checked.stdout) == (1, True)
        gone = http.delete("/api/v1/models/huggingface/org/name").json()
        assert gone["freed_bytes"] == plan["size_bytes"]
        assert http.get("/api/v1/models/huggingface/org/name").status_code == 404
    rows = server.query("SELECT event, ok FROM model_events ORDER BY t_ns")
    assert rows == [["download", False], ["download", True], ["delete", True]]


@pytest.mark.model
def test_a_resident_model_is_unloaded_before_it_goes(server: LiveServer, tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "models" / "mine")
    with server.client() as http:
        loaded = http.post("/api/v1/models/load", json={"model": "mine"})
        assert loaded.json()["status"] == "resident", loaded.text
        assert loaded.json()["was_resident"] is False
        gone = http.delete("/api/v1/models/mine")
        assert gone.json()["freed_bytes"] > 0
    events_seen = server.query("SELECT event, after_bytes FROM model_events ORDER BY t_ns")
    assert [row[0] for row in events_seen] == ["load", "unload", "delete"]
    held = loaded.json()["memory_bytes"]
    assert events_seen[0][1] == pytest.approx(held, rel=0.02), "one figure in the log and here"


@pytest.mark.model
def test_load_and_unload_say_what_they_did(server: LiveServer, tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "models" / "mine")
    loaded = server.cli("models", "load", "mine")
    assert re.fullmatch(
        r"huggingface/mine loaded in [\d.]+ m?s: [\d.]+ MB in memory\.\n", loaded.stdout
    ), loaded
    again = server.cli("models", "load", "mine")
    assert re.fullmatch(
        r"huggingface/mine was in memory already: [\d.]+ MB in memory\.\n", again.stdout
    ), again
    gone = server.cli("models", "unload", "mine")
    assert re.fullmatch(
        r"huggingface/mine unloaded in [\d.]+ m?s: all [\d.]+ MB of its own given back\.\n",
        gone.stdout,
    ), gone
    # There is nothing left to give back, which is no failure.
    again = server.cli("models", "unload", "mine", "--json")
    assert json.loads(again.stdout)["recovered_bytes"] == 0
    unloads = server.query("SELECT ok FROM model_events WHERE event = 'unload'")
    assert unloads == [[True]], "what was not in memory is no event"


def test_asking_what_would_go_never_deletes(server: LiveServer, tmp_path: Path) -> None:
    """A name may hold what ends an address or climbs in it."""
    folder = tiny.save_model(tmp_path / "models" / "org" / "name")
    with Workbench(remote=True, workbench_db=tmp_path / "workbench.duckdb") as wb:
        for suffix in ("?dtype=float32", "?dry_run=false", "/../name", "%3F"):
            with contextlib.suppress(WorkbenchError):
                wb.delete(f"huggingface/org/name{suffix}", dry_run=True)
            assert (folder / "config.json").is_file(), suffix
            with pytest.raises(WorkbenchError):
                wb.delete(f"huggingface/org/name{suffix}")
            assert (folder / "config.json").is_file(), suffix


def test_the_facade_downloads_with_progress(standin: Hub, tmp_path: Path) -> None:
    from workbench import Workbench

    seen: list[int] = []
    with Workbench(remote=False) as wb:
        done = wb.download(REPO, on_progress=lambda job: seen.append(job.bytes_done))
        assert seen[-1] == done["size_bytes"]
        assert wb.delete(REPO)["id"] == "huggingface/org/name"
    assert not (tmp_path / "models" / "org").exists()
