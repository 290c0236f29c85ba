"""The command line as a user meets it: what it prints, and with which exit code it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.hf import tiny
from tests.live import run_cli
from workbench import __version__
from workbench.cli import app, main
from workbench.client import Workbench
from workbench.client.local import Local
from workbench.store import Store
from workbench.types import ChatRequest, Options, Priority, StreamEvent, Timeouts, TokenEvent


def test_compare_prints_answers_and_figures_and_logs_them() -> None:
    done = run_cli("compare", "-m", "scripted/steady", "-m", "scripted/chunks", "Hi", "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)["answers"]
    assert [answer["model"] for answer in answers] == ["scripted/steady", "scripted/chunks"]
    assert all(answer["text"] and answer["ttft_s"] > 0 for answer in answers)
    sql = "select model, status, ttft_s, output_tps, mem_peak_bytes from latencies order by model"
    rows = json.loads(run_cli("db", "query", sql, "--json").stdout)
    assert [row["model"] for row in rows] == ["scripted/chunks", "scripted/steady"]
    # JSON text of the table rounds to ten digits.
    assert rows[1]["ttft_s"] == pytest.approx(answers[0]["ttft_s"], abs=1e-9)


def test_compare_shows_a_table_and_fails_when_a_model_failed() -> None:
    done = run_cli("compare", "-m", "scripted/chunks", "-m", "scripted/error", "Hi")
    assert done.returncode == 1
    assert "TTFT" in done.stdout
    assert "INTERNAL" in done.stdout


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"workbench {__version__}\n")


def test_chat_streams_text_and_ends_with_figures() -> None:
    done = run_cli("chat", "chunks", "Hi", "-n", "16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The quick brown fox")
    assert done.stderr.startswith("ok · TTFT")
    assert "16 tok" in done.stderr


@pytest.mark.parametrize("command", [["chat", "scripted/chunks"], ["compare", "-m", "chunks"]])
def test_every_option_of_a_request_has_its_flag(command: list[str], tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"color": {"type": "string"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    given = {
        "max_tokens": 5,
        "temperature": 0.5,
        "seed": 7,
        "top_p": 0.8,
        "top_k": 3,
        "repetition_penalty": 1.2,
        "num_ctx": 64,
        "logprobs": 2,
        "overflow": "error",
    }
    flags = [part for name, v in given.items() for part in (f"--{name.replace('_', '-')}", str(v))]
    more = ["--stop", "one", "--stop", "two", "--response-format", f"@{tmp_path}/schema.json"]
    done = run_cli(*command, "Hi", *flags, *more)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(
        run_cli("db", "query", "select options from stream_sessions", "--json").stdout
    )
    logged = json.loads(row["options"])
    assert logged == {
        **given,
        "stop": ["one", "two"],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
    }
    assert set(logged) == {field.name for field in fields(Options)}


@pytest.mark.parametrize("command", [["chat", "chunks"], ["compare", "-m", "chunks"]])
def test_terms_of_a_request_have_flags_too(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ChatRequest] = []

    def answered(self: Local, requests: list[ChatRequest]) -> Iterator[tuple[int, StreamEvent]]:
        asked.extend(requests)
        yield from real(self, requests)

    real = Local.stream
    monkeypatch.setattr(Local, "stream", answered)
    limits = ["--timeout", "queue=30", "--timeout", "total_s=90.5"]
    terms = [*limits, "--priority", "benchmark", "--fallback", "scripted/steady"]
    done = CliRunner().invoke(app, [*command, "Hi", "-n", "2", *terms])
    assert done.exit_code == 0, done.output
    assert asked[0].timeouts == Timeouts(queue_s=30, total_s=90.5)
    assert asked[0].priority is Priority.BENCHMARK
    assert asked[0].fallback == "scripted/steady"


@pytest.mark.parametrize("command", [["chat", "chunks"], ["compare", "-m", "chunks"]])
def test_json_has_the_probabilities_that_were_asked_for(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"token": "The", "logprob": -0.5, "top_logprobs": [{"token": "A", "logprob": -1.0}]}

    def likely(self: Local, requests: list[ChatRequest]) -> Iterator[tuple[int, StreamEvent]]:
        for index, event in real(self, requests):
            yield (
                index,
                (
                    replace(event, logprobs=(entry,) * event.n_tokens)
                    if isinstance(event, TokenEvent)
                    else event
                ),
            )

    real = Local.stream
    monkeypatch.setattr(Local, "stream", likely)
    flags = ["Hi", "-n", "16", "--json", "--logprobs", "1"]
    told = json.loads(CliRunner().invoke(app, [*command, *flags]).stdout)
    answer = told["answers"][0] if "answers" in told else told
    assert answer["logprobs"] == [entry] * answer["output_tokens"] != []


def test_a_response_format_that_cannot_be_read_is_explained() -> None:
    done = run_cli("chat", "scripted/chunks", "Hi", "--response-format", "{")
    assert done.returncode == 1
    assert "@FILE" in done.stderr


def test_rm_says_beforehand_what_would_go(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "models" / "mine")
    told = CliRunner().invoke(app, ["models", "rm", "mine", "--dry-run"])
    assert told.stdout.startswith("Would delete huggingface/mine"), told.output
    assert folder.is_dir()


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_show_prints_json_asked_for_or_not(flags: tuple[str, ...]) -> None:
    told = CliRunner().invoke(app, ["models", "show", "scripted/steady", *flags])
    assert json.loads(told.stdout)["id"] == "scripted/steady", told.output


def test_models_list_names_what_cannot_be_asked() -> None:
    done = run_cli("models", "list")
    assert done.returncode == 0
    assert "scripted/steady" in done.stdout
    assert "OLLAMA_UNREACHABLE" in done.stdout
    listing = json.loads(run_cli("models", "list", "--json").stdout)
    assert listing["problems"]["ollama"]["fix"]


def test_listing_opens_no_log(tmp_path: Path) -> None:
    run_cli("models", "list")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["chat", "scripted/steady", ""], "INVALID_REQUEST", "prompt is empty"),
        (["chat", "steady", "\udcff\udcfe"], "INVALID_REQUEST", "no valid UTF-8"),
        (["chat", "no-such", "Hi"], "MODEL_NOT_FOUND", "workbench models list"),
        (["chat", "huggingface/no-such", "Hi"], "HF_MODEL_NOT_FOUND", "no-such"),
        (["chat", "huggingface/../../etc", "Hi"], "FORBIDDEN_PATH", ""),
        (["chat", "ollama/no-such", "Hi"], "OLLAMA_UNREACHABLE", "OLLAMA_HOST"),
        (["chat", "steady", "Hi", "--temperature", "nan"], "INVALID_REQUEST", "temperature"),
        (["chat", "steady", "Hi", "-n", "-5"], "INVALID_REQUEST", "max_tokens"),
        (["chat", "steady", "Hi", "--priority", "x"], "INVALID_REQUEST", "interactive, benchmark"),
        (["chat", "steady", "Hi", "--timeout", "queue"], "INVALID_REQUEST", "queue=30"),
        (["compare", "-m", "steady", "Hi", "--mode", "fast"], "INVALID_REQUEST", "isolated"),
        (["db", "query", "SELECT 1; SELECT 2"], "STORE_UNAVAILABLE", ""),
        (["models", "pull", "other"], "INVALID_REQUEST", "ollama pull"),
        (["models", "load", "steady"], "SERVER_UNREACHABLE", "workbench serve"),
        (["models", "show", "scripted/none"], "MODEL_NOT_FOUND", "steady"),
    ],
)
def test_bad_input_is_explained(arguments: list[str], code: str, hint: str) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 1
    assert code in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["chat", "steady"], ["compare", "-m", "steady"]])
def test_huge_prompt_is_refused(command: list[str]) -> None:
    done = run_cli(*command, "-", stdin="x" * 1_000_000)
    assert done.returncode == 1
    assert "WORKBENCH_MAX_PROMPT_BYTES" in done.stdout + done.stderr


def test_failure_is_json_when_json_is_asked_for() -> None:
    done = run_cli("chat", "no-such", "Hi", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "MODEL_NOT_FOUND"
    assert error["fix"]


def test_wrong_usage_ends_with_two() -> None:
    assert run_cli("compare", "Hi").returncode == 2
    assert run_cli("no-such-command").returncode == 2


def test_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MAX_CACHED_MODELS", "many")
    done = run_cli("models", "list")
    assert done.returncode == 1
    assert "HF_INVALID_CONFIG" in done.stderr
    assert "HF_MAX_CACHED_MODELS" in done.stderr


def test_log_that_cannot_be_written_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("WORKBENCH_DB", str(tmp_path / "file" / "log.duckdb"))
    done = run_cli("chat", "steady", "Hi")
    assert done.returncode == 1
    assert "STORE_UNAVAILABLE" in done.stderr
    assert "WORKBENCH_DB" in done.stderr


def test_log_held_by_another_program_is_explained(store: Store) -> None:
    done = run_cli("chat", "steady", "Hi")
    assert done.returncode == 1
    assert "STORE_UNAVAILABLE" in done.stderr
    assert str(store.path) in done.stderr


def test_doctor_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_cli("doctor", "--json")
    findings = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    assert findings["software"]["status"] == "ok"
    assert findings["huggingface"]["fix"].endswith("with: workbench models pull demo.")
    assert "ollama serve" in findings["ollama"]["fix"]
    monkeypatch.setenv("WORKBENCH_PORT", "none")
    done = run_cli("doctor")
    assert done.returncode == 1
    assert "WORKBENCH_PORT" in done.stdout


def test_ctrl_c_in_a_verification_says_that_nothing_was_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(self: Workbench, *unused: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workbench, "verify", stopped)
    told = CliRunner().invoke(app, ["models", "verify"])
    assert told.exit_code == 130
    assert "nothing was changed" in told.stderr


def test_a_file_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    done = run_cli("bench", "init", str(tmp_path / "absent" / "my.toml"))
    assert done.returncode == 1
    assert "my.toml cannot be written: No such file or directory." in done.stderr
    assert "Give a file in a folder that exists" in done.stderr
