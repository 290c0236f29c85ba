"""The main job with real parts: a transformers model beside Ollama, every figure in DuckDB."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import DEMO_GGUF
from tests.live import LiveServer, run_cli
from tests.ollama_standin.fixture import StandIn
from workbench import Workbench
from workbench.types import DoneEvent, ErrorEvent, TokenEvent, WarningEvent

pytestmark = pytest.mark.model
OLLAMA = "ollama/smollm2:135m"
COLORS = "Name three colors."


@pytest.fixture(scope="module")
def ollama(demo_folder: Path) -> Iterator[StandIn]:
    with StandIn(DEMO_GGUF) as running:
        yield running


@pytest.fixture
def real_models(monkeypatch: pytest.MonkeyPatch, demo_folder: Path, ollama: StandIn) -> None:
    """The environment of a user who has the demo model and a running Ollama."""
    monkeypatch.setenv("HF_MODEL_PATH", str(demo_folder))
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    monkeypatch.setenv("HF_MODEL_TIMEOUT_MS", "120000")


def test_compare_on_the_command_line(real_models: None, demo_safetensors: str) -> None:
    done = run_cli(
        "compare", "-m", demo_safetensors, "-m", OLLAMA, COLORS, "--temperature", "0", "--json"
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)["answers"]
    # The same weights and the same greedy choice, through two runtimes.
    assert [answer["text"].split() for answer in answers] == [
        ["1.", "Red", "2.", "Blue", "3.", "Green"]
    ] * 2
    sql = (
        "select model, status, ttft_s, output_tps, mem_peak_bytes, wall_s, queue_s + load_s "
        "+ dispatch_s + prefill_s + think_s + answer_s + finish_s as phases from latencies"
    )
    rows = json.loads(run_cli("db", "query", sql, "--json").stdout)
    assert len(rows) == 2
    for row in rows:
        assert row["status"] == "ok"
        assert row["ttft_s"] > 0
        assert row["output_tps"] > 0
        assert row["mem_peak_bytes"] > 50e6, "measured in the process that holds the model"
        assert row["phases"] == pytest.approx(row["wall_s"], rel=0.01)


def test_stop_reaches_both_runtimes_within_two_tokens(
    real_models: None, demo_safetensors: str
) -> None:
    models = [demo_safetensors, OLLAMA]
    with Workbench() as wb:
        for model in models:
            wb.load(model)
        seen = dict.fromkeys(range(2), 0)
        sessions: dict[int, str] = {}
        asked_at: dict[int, int] = {}
        final = {}
        for index, event in wb.compare_events(models, "Write a very long story.", max_tokens=2000):
            sessions[index] = event.session_id
            if isinstance(event, TokenEvent):
                seen[index] += event.n_tokens
                if min(seen.values()) >= 4 and not asked_at:
                    asked_at = dict(seen)
                    for session_id in sessions.values():
                        assert wb.cancel(session_id)
            if isinstance(event, DoneEvent | ErrorEvent):
                final[index] = event.session
        for index, session in final.items():
            assert session.status == "cancelled"
            assert session.text
            # What was on its way when the reader asked counts as seen.
            assert session.streamed_tokens <= asked_at[index] + 4


def test_killed_worker_leaves_a_row_and_the_next_prompt_works(
    real_models: None, demo_safetensors: str
) -> None:
    with Workbench() as wb:
        events = wb.stream(demo_safetensors, "Write a very long story.", max_tokens=2000, seed=1)
        killed = False
        for event in events:
            if isinstance(event, TokenEvent) and event.seq >= 8 and not killed:
                (worker,) = worker_pids()
                os.kill(worker, signal.SIGKILL)
                killed = True
            if isinstance(event, ErrorEvent):
                failed = event
        assert failed.error.code == "HF_PIPELINE_ERROR"
        assert failed.error.fix
        row = wb.sql(
            "SELECT status, error_code, content FROM stream_sessions JOIN messages "
            "USING (session_id) WHERE role = 'assistant'"
        ).iloc[0]
        assert (row.status, row.error_code) == ("error", "HF_PIPELINE_ERROR")
        assert row.content == failed.session.text != ""
        assert wb.chat(demo_safetensors, COLORS, max_tokens=8, temperature=0).text.startswith("1.")


def worker_pids() -> list[int]:
    """Workers of this process: what its zygote forked."""
    return [
        child.pid
        for zygote in psutil.Process().children()
        if "workbench.hf.zygote" in zygote.cmdline()
        for child in zygote.children()
    ]


def test_follow_up_carries_its_own_history(real_models: None, demo_safetensors: str) -> None:
    from workbench.types import Message

    with Workbench() as wb:
        first = wb.chat(OLLAMA, COLORS, max_tokens=24, temperature=0)
        history = [Message("user", COLORS), Message("assistant", first.text)]
        wb.chat(
            OLLAMA,
            "And one more.",
            history=history,
            conversation_id=first.conversation_id,
            max_tokens=8,
            temperature=0,
        )
        messages = wb.sql(
            "SELECT role, content FROM messages WHERE conversation_id = $id ORDER BY position",
            {"id": first.conversation_id},
        )
        second = wb.sql("SELECT prompt_tokens FROM latencies ORDER BY created_at").prompt_tokens
    assert messages.role.tolist() == ["user", "assistant", "user", "assistant"]
    assert messages.content.tolist()[:3] == [COLORS, first.text, "And one more."]
    assert second[1] > second[0], "the history was sent"


def test_cut_prompt_is_a_warning_in_stream_and_row(real_models: None) -> None:
    long = " ".join(f"Fact {n}: {n} squared is {n * n}." for n in range(1, 181))
    with Workbench() as wb:
        told = list(wb.stream(OLLAMA, long, num_ctx=512, max_tokens=8, temperature=0))
        assert any(isinstance(e, WarningEvent) and e.code == "PROMPT_TRUNCATED" for e in told)
        warnings = wb.sql("SELECT warnings::VARCHAR AS w FROM stream_sessions").w[0]
    assert "PROMPT_TRUNCATED" in warnings


def test_ollama_that_dies_and_comes_back(
    real_models: None, demo_safetensors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn(DEMO_GGUF) as own:
        monkeypatch.setenv("OLLAMA_HOST", own.url)
        with Workbench() as wb:
            for event in wb.stream(OLLAMA, "Write a very long story.", max_tokens=2000):
                if isinstance(event, TokenEvent) and event.seq == 5:
                    own.kill()
            assert isinstance(event, ErrorEvent)
            assert event.error.code == "OLLAMA_STREAM_BROKEN"
            assert event.session.text
            gone = wb.compare([OLLAMA], COLORS, show=False)
            assert gone.error_code.tolist() == ["OLLAMA_UNREACHABLE"]
            own.start()
            assert wb.chat(OLLAMA, COLORS, max_tokens=8, temperature=0).text.startswith("1.")


@pytest.mark.parametrize("was_there", [False, True])
def test_a_pin_in_ollama_ends_with_the_server(
    demo_folder: Path, tmp_path: Path, was_there: bool
) -> None:
    """What the server loaded goes; what somebody else had loaded may expire again."""
    with StandIn(DEMO_GGUF) as own, httpx.Client(base_url=own.url, timeout=60) as api:
        if was_there:
            api.post("/api/generate", json={"model": "smollm2:135m", "keep_alive": -1})
        environment = {"OLLAMA_HOST": own.url, "WORKBENCH_KEEP_ALIVE_S": "600"}
        with LiveServer(tmp_path, **environment) as server:
            assert server.cli("models", "pin", OLLAMA).returncode == 0
            (pinned,) = api.get("/api/ps").json()["models"]
            assert dt.datetime.fromisoformat(pinned["expires_at"]).year > 2200
            server.stop()
            told = server.cli("db", "query", "SELECT event, ok FROM model_events", "--json")
        left = api.get("/api/ps").json()["models"]
    last = json.loads(told.stdout)[-1]
    assert last == {"event": "unpin" if was_there else "unload", "ok": True}
    assert len(left) == was_there
    for model in left:
        expires_at = dt.datetime.fromisoformat(model["expires_at"])
        assert expires_at - dt.datetime.now(dt.UTC) < dt.timedelta(minutes=10)


def test_ollama_that_is_no_ollama(monkeypatch: pytest.MonkeyPatch, demo_folder: Path) -> None:
    with StandIn(DEMO_GGUF, "--html") as proxy:
        monkeypatch.setenv("OLLAMA_HOST", proxy.url)
        done = run_cli("chat", OLLAMA, "Hi")
        listing = json.loads(run_cli("models", "list", "--json").stdout)
    assert done.returncode == 1
    assert "OLLAMA_" in done.stderr
    assert "OLLAMA_HOST" in done.stderr
    assert listing["problems"]["ollama"]["code"].startswith("OLLAMA_")


def test_why_two_runtimes_differ(real_models: None, demo_safetensors: str) -> None:
    """The same weights, another prompt: named, and told from rounding, on the command line too."""
    with Workbench() as wb:
        sheet = wb.parity(demo_safetensors, OLLAMA, COLORS)
        assert sheet.causes[0].code == "SYSTEM_PROMPT_ADDED", "the demo's own template adds one"
        assert "SmolLM" in sheet.causes[0].says
        assert sheet.same_prompt is False
        equal = wb.parity(demo_safetensors, OLLAMA, COLORS, system="Be brief.")
        assert equal.same_prompt is True, "the two tokenizers agree, id by id"
        assert "WEIGHTS_ROUNDED" in [cause.code for cause in equal.causes]

        found = wb.diverge(demo_safetensors, OLLAMA, COLORS, system="Be brief.", repeats=1)
        assert [answer.same_repeats for answer in (found.a, found.b)] == [1, 1], "greedy is steady"
        assert "".join(one.text for one in found.forced) == found.a.text
        assert found.verdict != "different"
        assert (found.agreement or 0) > 0.7
        own, other = found.perplexities
        assert own
        assert other
        assert 0.5 < own / other < 2

        # Read by itself, token by token, the model says what it said when it chose them.
        again = wb.diverge(demo_safetensors, demo_safetensors, COLORS, repeats=0, max_tokens=12)
        assert again.verdict == "same"
        assert again.mean_divergence_nats == pytest.approx(0, abs=1e-3)
        logged = wb.sql("SELECT kind, count(*)::INT AS n FROM insights GROUP BY ALL ORDER BY kind")
        assert logged.to_dict("list") == {"kind": ["divergence", "parity"], "n": [2, 2]}
        assert wb.sql("SELECT * FROM latencies").empty, "none of this is a measurement of speed"
    sampling = ("--temperature", "0.5", "--top-p", "0.6", "--top-k", "7")
    done = run_cli("parity", "-m", OLLAMA, "-m", OLLAMA, COLORS, *sampling, "--json")
    told = json.loads(done.stdout)
    assert [cause["code"] for cause in told["causes"]] == ["DRAWN_AT_RANDOM"], done.stderr
    assert {"top_p": 0.6, "top_k": 7}.items() <= dict(told["a"]["sampler"]).items()
    assert run_cli("diverge", "-m", OLLAMA, COLORS).returncode == 1
