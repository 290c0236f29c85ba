"""The facade in a script of a user's: no main guard, nothing closed, Ctrl+C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.live import LiveServer, run_cli
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


HALF = "a\ud800"
"""Half of a surrogate pair, as JSON can carry it and no file can."""

PLACES = [
    ("scripted/chunks", {"stop": ["x", HALF]}, "stop.1"),
    ("scripted/chunks", {"system": HALF}, "system"),
    ("scripted/chunks", {"response_format": {"type": "json_object", HALF: 1}}, "response_format"),
    ("scripted/chunks", {"fallback": HALF}, "fallback"),
    ("scripted/chunks", {"conversation_id": HALF}, "conversation_id"),
    (f"ollama/{HALF}", {}, "model"),
    (HALF, {}, "model"),
]


def refused_halves(wb: Workbench) -> None:
    for model, arguments, place in PLACES:
        with pytest.raises(WorkbenchError, match=rf"{place}.* half of a surrogate pair") as told:
            wb.chat(model, "Hi", **arguments)
        assert told.value.code == "INVALID_REQUEST"
    for ask in (wb.load, wb.unload, wb.show):
        with pytest.raises(WorkbenchError, match="model holds half of a surrogate pair"):
            ask(HALF)
    with pytest.raises(WorkbenchError, match="half of a surrogate pair"):
        wb.sql("SELECT $text", {"text": HALF})


def test_half_of_a_surrogate_pair_is_refused_by_the_name_of_its_field() -> None:
    with Workbench() as wb:
        refused_halves(wb)
        assert wb.sql("FROM stream_sessions").empty


def test_so_it_is_on_the_way_to_a_server_and_by_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveServer(tmp_path) as server:
        monkeypatch.setenv("WORKBENCH_DB", server.environment["WORKBENCH_DB"])
        with Workbench(remote=True) as wb:
            refused_halves(wb)
        asked = {"model": "scripted/chunks", "messages": [{"role": "user", "content": "Hi"}]}
        answer = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=json.dumps({**asked, "stop": [HALF]}),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "INVALID_REQUEST"
        assert answer.json()["error"]["param"] == "stop.0"


def test_a_model_may_say_half_of_a_surrogate_pair() -> None:
    script = (
        "from workbench.cli import main; from workbench.providers import scripted as s; "
        "s.SCHEDULES['half'] = s.Schedule((s.Step(0, 'so \\ud83d it goes'),)); "
        "main(['chat', 'scripted/half', 'Hi'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "so \\ud83d it goes\n", done.stderr
    assert done.returncode == 0


def test_leaving_the_loop_stops_the_model() -> None:
    with Workbench() as wb:
        for event in wb.stream("scripted/stall", "Hi"):
            if event.type == "token":
                break
        wb.chat("scripted/chunks", "Hi")
        rows = wb.sql("SELECT status FROM latencies ORDER BY created_at")
    assert rows.status.tolist() == ["cancelled", "ok"]
