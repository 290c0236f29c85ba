"""Downloads from a real HTTP server that speaks as the hub does, with all that can go wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from tests.hf import tiny
from tests.hf.downloads import REPO, Run, contents, model_files
from tests.hub_standin import Hub, sha256
from workbench.errors import ErrorCode
from workbench.hf import files
from workbench.settings import Settings


@pytest.fixture
def run(online: Settings) -> Run:
    return Run(online)


def visible(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if not path.name.startswith(".")]


# -- what comes ------------------------------------------------------------------------------------


def test_a_model_comes_whole_pinned_and_recorded(standin: Hub, run: Run, tmp_path: Path) -> None:
    given = model_files(tmp_path)
    commit = standin.repo(REPO, given).branches["main"]
    done = run()
    root = run.settings.hf_model_path
    assert {p.name for p in (root / REPO).iterdir()} == {
        "config.json", "tokenizer.json", "model.safetensors", "README.md", "workbench-source.json",
    }  # fmt: skip
    assert (root / REPO / "model.safetensors").read_bytes() == given["model.safetensors"]
    assert done["revision"] == commit
    assert done["id"] == "huggingface/org/name"
    record = json.loads((root / REPO / "workbench-source.json").read_text())
    assert (record["revision"], record["requested_revision"]) == (commit, "main")
    assert record["licence"] == "apache-2.0"
    assert {n: e["sha256"] for n, e in record["files"].items()} == {
        name: sha256(given[name]) for name in record["files"]
    }
    (info,) = files.scan(root)
    assert (info.status, info.name, info.details["licence"]) == ("available", REPO, "apache-2.0")
    # Nothing but the wanted was even asked for, and every file at the commit, not at a branch.
    gets = [path for method, path, _ in standin.requests if "/resolve/" in path]
    assert all(f"/resolve/{commit}/" in path for path in gets)
    assert len(gets) == 4
    figures = [(done, total) for _, done, total in run.steps if done is not None]
    assert figures == sorted(figures)
    assert figures[-1][0] == figures[-1][1] == done["size_bytes"] == done["downloaded_bytes"]
    assert visible(root) == ["org"]


def test_a_tag_is_resolved_to_its_commit(standin: Hub, run: Run, tmp_path: Path) -> None:
    repo = standin.repo(REPO, model_files(tmp_path, 1))
    old = repo.push(model_files(tmp_path, 2), "v1.0")
    assert run(revision="v1.0")["revision"] == old
    (info,) = files.scan(run.settings.hf_model_path)
    assert info.details["source"] == f"hub org/name@{old}"


def test_a_second_pull_asks_for_no_file(standin: Hub, run: Run, tmp_path: Path) -> None:
    standin.repo(REPO, model_files(tmp_path))
    run()
    asked = len(standin.sent("/resolve/"))
    assert run()["downloaded_bytes"] == 0
    assert len(standin.sent("/resolve/")) == asked


def test_a_newer_revision_replaces_the_old_and_brings_only_what_changed(
    standin: Hub, run: Run, tmp_path: Path
) -> None:
    repo = standin.repo(REPO, {**model_files(tmp_path, 1), "LICENSE": b"old"})
    run()
    new = model_files(tmp_path, 2)
    commit = repo.push(new)
    standin.requests.clear()
    assert run()["revision"] == commit
    folder = run.settings.hf_model_path / REPO
    assert (folder / "model.safetensors").read_bytes() == new["model.safetensors"]
    assert not (folder / "LICENSE").exists()
    assert len(standin.sent("/resolve/")) == 1


def test_a_damaged_file_is_mended_by_the_next_pull(standin: Hub, run: Run, tmp_path: Path) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, given)
    run()
    weights = run.settings.hf_model_path / REPO / "model.safetensors"
    weights.write_bytes(given["model.safetensors"][:-1] + b"\xff")
    standin.requests.clear()
    run()
    assert weights.read_bytes() == given["model.safetensors"]
    assert len(standin.sent("/resolve/")) == 1


def test_one_gguf_comes_by_its_name_beside_another(standin: Hub, run: Run, tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "g" / "a.gguf")
    given = contents(tmp_path / "g")
    standin.repo(REPO, {**given, "b.gguf": given["a.gguf"], "config.json": b"{}"})
    assert run("org/name/a.gguf")["id"] == "huggingface/org/name/a.gguf"
    assert run(gguf_file="b.gguf")["name"] == "org/name/b.gguf"
    infos = files.scan(run.settings.hf_model_path)
    assert [(i.name, i.status) for i in infos] == [
        ("org/name/a.gguf", "available"), ("org/name/b.gguf", "available"),
    ]  # fmt: skip
    record = json.loads((run.settings.hf_model_path / REPO / "workbench-source.json").read_text())
    assert {"a.gguf", "b.gguf"} <= record["files"].keys()


def test_shards_come_with_their_index(standin: Hub, run: Run, tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    given = model_files(tmp_path)
    raw = given.pop("model.safetensors")
    table = {"weight_map": {"t0": names[0], "t1": names[1]}}
    given |= {
        names[0]: raw,
        names[1]: raw,
        "model.safetensors.index.json": json.dumps(table).encode(),
    }
    standin.repo(REPO, given)
    run()
    (info,) = files.scan(run.settings.hf_model_path)
    assert info.status == "available", info.problem
    # Equal content is fetched once.
    assert len(standin.sent("model-0000")) == 1


def test_a_private_model_comes_with_a_token(
    standin: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.repo(REPO, model_files(tmp_path)).access = "private"
    monkeypatch.setenv("HF_TOKEN", standin.token)
    assert run()["id"] == "huggingface/org/name"


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(
    standin: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.repo(REPO, model_files(tmp_path))
    standin.faults.redirect = True
    standin.faults.break_after = [10_000]
    monkeypatch.setenv("HF_TOKEN", standin.token)
    assert run()["id"] == "huggingface/org/name"
    assert standin.keys_seen == {
        ("127.0.0.1", f"Bearer {standin.token}"),
        ("localhost", None),
    }
    assert "bytes=10000-" in standin.sent("model.safetensors")


# -- broken off, stopped, taken up again -----------------------------------------------------------


def test_a_broken_connection_is_taken_up_at_the_byte_where_it_broke(
    standin: Hub, run: Run, tmp_path: Path
) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, given)
    standin.faults.break_after = [10_000, 20_000]
    done = run()
    assert standin.sent("model.safetensors") == [None, "bytes=10000-", "bytes=30000-"]
    weights = run.settings.hf_model_path / REPO / "model.safetensors"
    assert weights.read_bytes() == given["model.safetensors"]
    assert done["downloaded_bytes"] == done["size_bytes"]


def test_a_busy_hub_is_asked_again(standin: Hub, run: Run, tmp_path: Path) -> None:
    standin.repo(REPO, model_files(tmp_path))
    standin.faults.status = [503]
    assert run()["id"] == "huggingface/org/name"


def test_a_stopped_download_leaves_nothing_visible_and_is_resumed(
    standin: Hub, run: Run, tmp_path: Path
) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, given)
    standin.faults.hold_after = 40_960

    def stop() -> None:
        if run.steps[-1][0] == "model.safetensors" and (run.steps[-1][1] or 0) > 30_000:
            run.cancelled.set()
            standin.faults.go_on.set()

    run.on_step = stop
    assert run.fails().code is ErrorCode.CANCELLED
    root = run.settings.hf_model_path
    assert visible(root) == []
    assert files.scan(root) == []
    standin.faults.hold_after = None
    again = Run(run.settings)
    done = again()
    (span,) = standin.sent("model.safetensors")[1:]
    assert span is not None
    start = int(span.removeprefix("bytes=").rstrip("-"))
    assert start > 20_000
    assert done["downloaded_bytes"] == len(given["model.safetensors"]) - start
    assert (root / REPO / "model.safetensors").read_bytes() == given["model.safetensors"]
    assert [p.name for p in (root / ".downloads").iterdir()] == ["org--name.lock"]


def test_a_hub_without_ranges_starts_the_file_again(standin: Hub, run: Run, tmp_path: Path) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, given)
    standin.faults.break_after = [10_000]
    standin.faults.ignore_ranges = True
    run()
    weights = run.settings.hf_model_path / REPO / "model.safetensors"
    assert weights.read_bytes() == given["model.safetensors"]


def test_a_damaged_beginning_of_an_earlier_try_costs_a_new_start_only(
    standin: Hub, run: Run, tmp_path: Path
) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, given)
    weights = given["model.safetensors"]
    partial = run.settings.hf_model_path / ".downloads" / "org--name"
    partial.mkdir(parents=True)
    (partial / f"{sha256(weights)}.part").write_bytes(b"?" * 5000)
    run()
    assert standin.sent("model.safetensors") == ["bytes=5000-", None]
    assert (run.settings.hf_model_path / REPO / "model.safetensors").read_bytes() == weights


def test_a_hub_that_goes_away_is_named_and_what_came_is_kept(
    standin: Hub, online: Settings, tmp_path: Path
) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, given)
    run = Run(online.model_copy(update={"workbench_download_attempts": 2}))
    standin.faults.break_after = [10_000, 0, 0, 0]
    error = run.fails()
    assert error.code is ErrorCode.HF_HUB_UNREACHABLE
    assert "kept" in error.fix
    assert visible(run.settings.hf_model_path) == []
    standin.faults.break_after = []
    Run(online)()
    assert standin.sent("model.safetensors")[-1] == "bytes=10000-"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_file_is_refused(standin: Hub, run: Run, tmp_path: Path, name: str) -> None:
    """Of small files the hub gives only git's hash."""
    standin.repo(REPO, model_files(tmp_path))
    standin.faults.corrupt = {name}
    error = run.fails()
    assert error.code is ErrorCode.HF_DOWNLOAD_FAILED
    assert name in error.message
    assert "checksum" in error.message
    assert visible(run.settings.hf_model_path) == []


# -- refused ---------------------------------------------------------------------------------------


def test_too_little_disk_is_said_with_figures_before_anything_comes(
    standin: Hub, online: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.repo(REPO, model_files(tmp_path))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 1_050_000))
    run = Run(online.model_copy(update={"workbench_disk_reserve": 10**6}))
    error = run.fails()
    assert error.code is ErrorCode.DISK_FULL
    assert all(part in error.message for part in ("0.1 MB", "1.0 MB", "WORKBENCH_DISK_RESERVE"))
    assert standin.sent("/resolve/") == []


def test_a_model_folder_that_cannot_be_written_is_told_as_such(
    standin: Hub, online: Settings, tmp_path: Path
) -> None:
    """On a read-only disk that was an INTERNAL error, a defect of ours."""
    standin.repo(REPO, model_files(tmp_path))
    (tmp_path / "file").touch()
    error = Run(online.model_copy(update={"hf_model_path": tmp_path / "file" / "models"})).fails()
    assert error.code is ErrorCode.HF_DOWNLOAD_FAILED
    assert "cannot be written" in error.message
    assert "HF_MODEL_PATH" in error.fix


def test_pickle_weights_alone_are_refused(standin: Hub, run: Run, tmp_path: Path) -> None:
    given = model_files(tmp_path)
    standin.repo(REPO, {n: c for n, c in given.items() if not n.endswith(".safetensors")})
    error = run.fails()
    assert error.code is ErrorCode.UNSAFE_FILE
    assert "pytorch_model.bin" in error.message
    assert "safetensors" in error.fix
    assert standin.sent("/resolve/") == []


def test_custom_code_is_refused_before_the_weights_come(
    standin: Hub, run: Run, tmp_path: Path
) -> None:
    config = {"model_type": "mine_own", "auto_map": {"AutoConfig": "x.Mine"}}
    standin.repo(REPO, {**model_files(tmp_path), "config.json": json.dumps(config).encode()})
    error = run.fails()
    assert error.code is ErrorCode.UNSAFE_FILE
    assert "mine_own" in error.message
    assert standin.sent("model.safetensors") == []


def test_weights_that_transformers_does_not_look_for_are_not_brought(
    standin: Hub, run: Run, tmp_path: Path
) -> None:
    given = model_files(tmp_path)
    del given["consolidated.safetensors"]
    weights = given.pop("model.safetensors")
    standin.repo(REPO, {**given, "gptq_model-4bit-128g.safetensors": weights})
    error = run.fails()
    assert error.code is ErrorCode.HF_MODEL_LOAD_FAILED
    assert "gptq_model-4bit-128g.safetensors" in error.message
    assert "--revision" in error.fix
    assert error.details["repo"] == REPO
    assert standin.sent("gptq_model") == []


def test_gguf_files_have_to_be_named(standin: Hub, run: Run) -> None:
    standin.repo(REPO, {"a.Q4.gguf": b"x", "b.gguf": b"y"})
    assert "--gguf a.Q4.gguf" in run.fails().fix
    error = run.fails(gguf_file="c.gguf")
    assert error.code is ErrorCode.HF_MODEL_NOT_FOUND
    assert "a.Q4.gguf, b.gguf" in error.message


@pytest.mark.parametrize(
    ("access", "code", "words"),
    [
        ("gated", ErrorCode.HF_HUB_FORBIDDEN, "hf auth login"),
        ("private", ErrorCode.HF_MODEL_NOT_FOUND, "HF_TOKEN"),
        ("forbidden", ErrorCode.HF_HUB_FORBIDDEN, "HF_TOKEN"),
    ],
)
def test_closed_models_say_how_to_get_in(
    standin: Hub, run: Run, tmp_path: Path, access: str, code: ErrorCode, words: str
) -> None:
    standin.repo(REPO, model_files(tmp_path)).access = access
    error = run.fails()
    assert error.code is code
    assert words in error.fix


def test_what_does_not_exist_is_named(standin: Hub, run: Run, tmp_path: Path) -> None:
    standin.repo(REPO, model_files(tmp_path))
    missing = run.fails("org/other")
    assert (missing.code, "org/other" in missing.message) == (ErrorCode.HF_MODEL_NOT_FOUND, True)
    revision = run.fails(revision="v9")
    assert revision.code is ErrorCode.HF_MODEL_NOT_FOUND
    assert "v9" in revision.message


def test_offline_and_without_network(standin: Hub, online: Settings) -> None:
    offline = Run(online.model_copy(update={"workbench_offline": True})).fails()
    assert offline.code is ErrorCode.HF_HUB_UNREACHABLE
    assert "WORKBENCH_OFFLINE" in offline.message
    standin.stop()
    nobody = Run(online).fails()
    assert nobody.code is ErrorCode.HF_HUB_UNREACHABLE
    assert "network" in nobody.fix


def test_somebody_else_s_folder_is_not_overwritten(standin: Hub, run: Run, tmp_path: Path) -> None:
    standin.repo(REPO, model_files(tmp_path))
    own = tiny.write_folder(run.settings.hf_model_path / REPO)
    before = contents(own)
    error = run.fails()
    assert error.code is ErrorCode.INVALID_REQUEST
    assert "workbench models rm org/name" in error.fix
    assert contents(own) == before


@pytest.mark.parametrize(
    "name",
    ["smollm2:135m", "ollama/x/y", "../etc/passwd", "a/../b", "org/name/../../x.gguf", "a/b/c"],
)
def test_bad_names_never_reach_the_hub(standin: Hub, run: Run, name: str) -> None:
    assert run.fails(name).code in (ErrorCode.INVALID_REQUEST, ErrorCode.FORBIDDEN_PATH)
    assert standin.requests == []


def test_hostile_file_names_are_not_taken(standin: Hub, run: Run, tmp_path: Path) -> None:
    evil = {"../../config.json": b"{}", "/etc/x.safetensors": b"x", "a/../../y.safetensors": b"y"}
    standin.repo(REPO, {**model_files(tmp_path), **evil})
    run()
    assert {p.name for p in tmp_path.rglob("y.safetensors")} == set()
    assert not any(".." in path for _, path, _ in standin.requests)


# -- side by side ----------------------------------------------------------------------------------


def test_another_process_is_waited_for(standin: Hub, run: Run, tmp_path: Path) -> None:
    """The second one finds the model there and brings nothing itself."""
    standin.repo(REPO, model_files(tmp_path))
    standin.faults.hold_after = 8192
    code = (
        "import threading, sys\n"
        "from workbench.hf import hub\nfrom workbench.hf.listing import Wanted\n"
        "from workbench.settings import load_settings\n"
        "settings = load_settings(_env_file=None, workbench_offline=False, "
        f"hf_endpoint={standin.url!r}, workbench_disk_reserve=0)\n"
        f"done = hub.download(settings, Wanted.parse({REPO!r}, None, None), "
        "lambda *a: None, threading.Event())\n"
        "print(done['downloaded_bytes'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as first:
        assert standin.faults.held.wait(30)

        def release() -> None:
            if "another process" in run.steps[-1][0]:
                standin.faults.go_on.set()

        run.on_step = release
        assert run()["downloaded_bytes"] == 0
        assert first.stdout is not None
        assert int(first.stdout.read()) > 100_000
    assert any("another process" in message for message, _, _ in run.steps)
    assert len(standin.sent("model.safetensors")) == 1
