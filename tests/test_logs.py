"""What is logged: who did what, under one id from the edge to the worker, and no content."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.hf import tiny
from tests.hf.downloads import REPO, model_files
from tests.hub_standin import Hub
from tests.live import LiveServer
from workbench import logs

PROMPT, ANSWER_KEY, HUB_TOKEN = "zebra-prompt-5591", "zebra-key-7712", "zebra-token-8823"


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
    logs._secrets.clear()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.timeout(120)
def test_a_whole_journey_logs_who_and_what_but_no_content(tmp_path: Path) -> None:
    """At DEBUG: answers, failures, refusals, a download, an unload, a deletion."""
    tiny.save_model(tmp_path / "models" / "mine")
    with Hub() as hub:
        hub.repo(REPO, model_files(tmp_path))
        with LiveServer(
            tmp_path,
            WORKBENCH_LOG_LEVEL="DEBUG",
            WORKBENCH_API_KEY=ANSWER_KEY,
            HF_TOKEN=HUB_TOKEN,
            HF_ENDPOINT=hub.url,
            HF_MODEL_PATH=str(tmp_path / "models"),
            WORKBENCH_OFFLINE="false",
            WORKBENCH_DISK_RESERVE="0",
            WORKBENCH_THREADS="1",
        ) as server:
            with server.client() as http:
                http.headers["X-Correlation-ID"] = "journey-1"
                options = {"max_tokens": 5, "seed": 1}
                for model in ("huggingface/mine", "scripted/error", "none"):
                    body = {"model": model, "message": PROMPT, "system": PROMPT, "options": options}
                    got = http.post("/api/v1/stream-message", json=body)
                    assert got.headers["x-correlation-id"] == "journey-1"
                http.post("/api/v1/stream-message", json={"model": "a", "mess": PROMPT})
                http.post("/api/v1/stream-message", content=f'{{"{PROMPT}')
                http.get(f"/{PROMPT}")
                http.get("/health", headers={"Authorization": f"Bearer {ANSWER_KEY}x"})
                unload = {"model": "huggingface/mine"}
                headers = {"X-Correlation-ID": "journey-2", "X-Workbench-Source": "cli"}
                assert http.post("/api/v1/models/unload", json=unload, headers=headers).is_success
                headers = {"X-Correlation-ID": "journey-3"}
                job = http.post("/api/v1/models/download", json={"model": REPO}, headers=headers)
                while http.get(f"/api/v1/jobs/{job.json()['id']}").json()["ended_at"] is None:
                    pass
                headers = {"X-Correlation-ID": "journey-4"}
                gone = http.delete(f"/api/v1/models/huggingface/{REPO}", headers=headers)
                assert gone.is_success, gone.text
            events = server.query(
                "SELECT event, ok, correlation_id, source, client FROM model_events "
                "WHERE provider = 'huggingface' ORDER BY created_at"
            )
            rows = server.query("SELECT DISTINCT correlation_id FROM stream_sessions")
            token = server.announced()["token"]
            server.stop()
            assert server._process is not None
            assert server._process.stdout is not None
            printed = server._process.stdout.read()
            log = server.read_log()
    for secret in (PROMPT, ANSWER_KEY, HUB_TOKEN, token):
        assert secret not in log, [line for line in log.splitlines() if secret in line]
        assert secret not in printed
    assert rows == [["journey-1"]]
    assert events == [
        ["load", True, "journey-1", "api", "127.0.0.1"],
        ["unload", True, "journey-2", "cli", "127.0.0.1"],
        ["download", True, "journey-3", "api", "127.0.0.1"],
        ["delete", True, "journey-4", "api", "127.0.0.1"],
    ]
    written = lines(log)
    audited = [
        [line["operation"], line["ok"], line["correlation_id"], line["source"], line["client"]]
        for line in written
        if line["event"] == "model_operation" and line["model"].startswith("huggingface/")
    ]
    assert audited == events, "the log tells of the same operations"
    from_worker = [line for line in written if line["module"] == "workbench.hf.worker"]
    assert {"worker_loaded", "worker_finished"} <= {line["event"] for line in from_worker}
    assert {line["correlation_id"] for line in from_worker} == {"journey-1"}
    assert {line["pid"] for line in from_worker} != {server.pid}


def test_tracebacks_name_places_and_classes_only(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO")
    try:
        try:
            int(PROMPT)
        except ValueError as error:
            raise RuntimeError(PROMPT) from error
    except RuntimeError:
        logs.get("x").exception("failed")
    (line,) = lines(capsys.readouterr().err)
    assert [link["type"] for link in line["traceback"]] == [
        "builtins.ValueError",
        "builtins.RuntimeError",
    ]
    assert all("test_logs.py" in place for link in line["traceback"] for place in link["at"])
    assert PROMPT not in str(line)


def test_secrets_are_blotted_out(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logs.hide('quoted"grüße', "", None, "abc")
    logs.get("x").info("abc", url='http://h/?key=quoted"grüße', deep={"a": ['quoted"grüße']})
    text = capsys.readouterr().err
    assert "quoted" not in text
    assert lines(text)[0]["event"] == "abc", "what is too short to be a secret hides no words"


def test_other_packages_log_in_our_form_from_warnings_on(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("DEBUG")
    logging.getLogger("uvicorn.error").warning("Invalid %s", "request")
    logging.getLogger("httpx").info("GET http://x/?secret")
    (line,) = lines(capsys.readouterr().err)
    assert line["module"] == "uvicorn.error"
    assert (line["event"], line["level"]) == ("Invalid request", "warning")


def test_lines_carry_what_is_bound(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    with logs.correlation("cor_1", source="ui"):
        logs.get("x").info("inside")
        assert logs.bound("source") == "ui"
    assert logs.bound("correlation_id") is None
    assert lines(capsys.readouterr().err)[0]["correlation_id"] == "cor_1"


def test_lines_go_to_the_stderr_of_the_moment(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that ran inside another program leaves a closed stderr behind."""
    with io.StringIO() as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        logs.configure("INFO")
    now = io.StringIO()
    monkeypatch.setattr(sys, "stderr", now)
    logs.get("x").error("still_heard")
    assert "still_heard" in now.getvalue()
