"""The facade in a script of a user's: no main guard, nothing closed, Ctrl+C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.live import run_cli
from workbench import Workbench
from workbench.errors import WorkbenchError

SCRIPT = """
from workbench import Workbench
wb = Workbench()
print(wb.chat("scripted/chunks", "Hi").text)
"""


def test_script_that_closes_nothing_ends_in_peace() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    rows = json.loads(run_cli("db", "query", "SELECT status FROM latencies", "--json").stdout)
    assert rows == [{"status": "ok"}]


HOLDER = """
from workbench.settings import load_settings
from workbench.store import Store
with Store.open(load_settings().workbench_db):
    print("held", flush=True)
    input()
"""


def test_a_log_that_another_process_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    looks = 0

    def no_server(settings: object) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:  # the first try has failed
            holder.communicate("\n")

    monkeypatch.setattr("workbench.discovery.running_server", no_server)
    with Workbench() as wb:
        assert wb.chat("scripted/chunks", "Hi").status == "ok"
    assert looks >= 2


def test_a_log_that_stays_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_LOG_WAIT_S", "0.1")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(WorkbenchError, match=f"held by another process .pid {holder.pid}"):
        Workbench()
    holder.communicate("\n")


def test_ctrl_c_stops_the_models_and_still_prints_the_figures() -> None:
    command = [sys.executable, "-m", "workbench.cli", "chat", "scripted/stall", "Hi"]
    chat = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=0
    )
    assert chat.stdout is not None
    assert chat.stdout.read(3) == "The"
    chat.send_signal(signal.SIGINT)
    _, told = chat.communicate(timeout=60)
    assert chat.returncode == 130
    assert told.startswith("cancelled · TTFT")
    sql = "SELECT status, termination_reason FROM stream_sessions"
    rows = json.loads(run_cli("db", "query", sql, "--json").stdout)
    assert rows == [{"status": "cancelled", "termination_reason": "user"}]


def test_text_that_is_no_utf8_is_refused() -> None:
    command = [sys.executable, "-m", "workbench.cli", "chat", "scripted/chunks", "-"]
    done = subprocess.run(command, input=b"a\xff\xfeb", capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith(b"INVALID_REQUEST: Standard input is not UTF-8")
    with Workbench() as wb, pytest.raises(WorkbenchError, match="surrogate"):
        wb.chat("scripted/chunks", "a\udcff")


def test_leaving_the_loop_stops_the_model() -> None:
    with Workbench() as wb:
        for event in wb.stream("scripted/stall", "Hi"):
            if event.type == "token":
                break
        wb.chat("scripted/chunks", "Hi")
        rows = wb.sql("SELECT status FROM latencies ORDER BY created_at")
    assert rows.status.tolist() == ["cancelled", "ok"]
