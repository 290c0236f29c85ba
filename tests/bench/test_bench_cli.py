"""``workbench bench`` as a user meets it: with a server and without, stopped, killed, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.live import LiveServer, run_cli
from workbench import Workbench
from workbench.bench.progress import Outcome, Progress
from workbench.cli import app
from workbench.cli.bench_view import print_outcome

SPEC = """
name = "small"
models = ["scripted/tools", "scripted/reasoning"]
repeats = {repeats}
warm_ups = 0
[options]
max_tokens = 3
[prompts]
count = 4
output_tokens = 3
[load]
pattern = "closed"
users = 8
[slo]
ttft_s = {ttft_s}
"""

# Tells how far it is, so that it can be killed in the middle; its engine runs in its own process.
CHILD = """
import sys
from workbench import Workbench
wb = Workbench(remote=False)
wb.bench(sys.argv[1], on_progress=lambda progress: print(progress.done, flush=True))
"""

DONE = "SELECT cell_id, trial, session_id FROM benchmark_trials ORDER BY ALL"


def written(folder: Path, *, repeats: int = 1, ttft_s: float = 60) -> Path:
    path = folder / "small.toml"
    path.write_text(SPEC.format(repeats=repeats, ttft_s=ttft_s))
    return path


def test_init_writes_a_spec_that_only_needs_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert run_cli("bench", "init", str(path)).returncode == 0
    again = run_cli("bench", "init", str(path))
    assert again.returncode == 1
    assert "--force" in again.stderr
    text = path.read_text().replace("SmolLM2-135M-Instruct", "scripted/tools").replace("= 6", "= 1")
    path.write_text(text.replace("repeats = 5", "repeats = 1"))
    assert run_cli("bench", "run", str(path)).returncode == 0


def test_exit_codes_and_the_list_and_files_of_a_run(tmp_path: Path) -> None:
    spec = written(tmp_path, ttft_s=1e-6)
    missed = run_cli("bench", "run", str(spec))
    assert missed.returncode == 1, missed.stderr
    assert "An SLO was missed." in missed.stdout
    kept = run_cli("bench", "run", str(written(tmp_path)), "--json")
    assert kept.returncode == 0
    told = json.loads(kept.stdout)
    assert told["slo_met"] is True
    assert [cell["results"]["ok"] for cell in told["cells"]] == [32, 32]
    spec.write_text("name = 3")
    wrong = run_cli("bench", "run", str(spec))
    assert wrong.returncode == 2
    assert "line 1: name: must be text, not 3." in wrong.stderr

    runs = json.loads(run_cli("bench", "list", "--json").stdout)
    assert [(run["run_id"] == told["run_id"], run["slo_met"]) for run in runs] == [
        (True, True),
        (False, False),
    ]
    out = tmp_path / "out"
    files = run_cli("bench", "export", told["run_id"], str(out), "--format", "csv")
    assert files.returncode == 0, files.stderr
    assert len((out / "trials.csv").read_text().splitlines()) == 65
    about = json.loads((out / "run.json").read_text())
    assert about["spec"]["name"] == "small"
    assert about["environment"]["cores"]
    assert run_cli("bench", "export", "small", str(out)).returncode == 1


def test_a_killed_run_is_interrupted_and_goes_on_where_it_was(tmp_path: Path) -> None:
    spec = written(tmp_path, repeats=4)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(spec)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert any(int(line) >= 60 for line in child.stdout)
    child.kill()
    child.wait()
    child.stdout.close()
    (run,) = json.loads(run_cli("bench", "list", "--json").stdout)
    assert run["status"] == "interrupted"
    with Workbench(remote=False) as wb:
        before = set(wb.sql(DONE).itertuples(index=False, name=None))
        assert 20 < len(before) < 256
        outcome = wb.resume_bench(run["run_id"])
        after = set(wb.sql(DONE).itertuples(index=False, name=None))
        assert outcome.exit_code == 0
        assert before <= after  # what was done was not done again
        assert len(after) == len({row[:2] for row in after}) == 256
        joined = wb.sql(
            "SELECT count(*) AS n FROM benchmark_trials t JOIN latencies l USING (session_id) "
            "WHERE l.status = 'ok' AND t.status = 'ok'"
        )
        assert joined["n"].iloc[0] == 256


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("bench")
    with LiveServer(folder, WORKBENCH_RATE_LIMIT="0") as running:
        yield running


def test_over_a_server_everything_is_the_same(server: LiveServer) -> None:
    spec = written(server.folder)
    done = server.cli("bench", "run", str(spec), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [cell["results"]["ok"] for cell in told["cells"]] == [32, 32]
    sql = (
        "SELECT count(*), count(DISTINCT s.cell_id), min(s.queued_ns - s.intended_ns) >= 0 "
        "FROM benchmark_trials t JOIN stream_sessions s USING (session_id) "
        f"WHERE t.run_id = '{told['run_id']}' AND s.source = 'bench'"
    )
    assert server.query(sql) == [[64, 2, True]]


def test_ctrl_c_stops_the_run_which_goes_on_when_it_is_resumed(server: LiveServer) -> None:
    spec = written(server.folder, repeats=3)
    child = subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", "bench", "run", str(spec)],
        env=server.environment,
        cwd=server.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = "SELECT run_id FROM benchmark_runs WHERE status = 'active'"
    while not (found := server.query(running)):
        assert child.poll() is None
    run_id = found[0][0]
    while not server.query(f"SELECT 1 FROM benchmark_trials WHERE run_id = '{run_id}'"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert f"workbench bench resume {run_id}" in said
    status = f"SELECT status FROM benchmark_runs WHERE run_id = '{run_id}'"
    assert server.query(status) == [["cancelled"]]
    with server.client() as http:
        assert http.get("/api/v1/streams").json()["streams"] == []
    rest = server.cli("bench", "resume", run_id)
    assert rest.returncode == 0, rest.stderr
    counted = "SELECT count(*), count(DISTINCT session_id) FROM benchmark_trials"
    done = f"{counted} WHERE run_id = '{run_id}'"
    assert server.query(done) == [[192, 192]]
    assert "is done" in server.cli("bench", "resume", "last").stderr


def test_a_terminated_run_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bench(wb: Workbench, spec: Path, on_progress: Callable[[Progress], None]) -> None:
        on_progress(Progress("run_1", "small"))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr(Workbench, "bench", bench)
    done = CliRunner().invoke(app, ["bench", "run", str(written(tmp_path))])
    assert done.exit_code == 130
    assert "workbench bench resume run_1" in done.output
    for wrong in (["nothing", "last"], ["last", "last", "--tolerance", "-1"]):
        assert CliRunner().invoke(app, ["bench", "diff", *wrong]).exit_code == 2


def test_names_and_figures_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        "trials": 8, "failed": 0, "ttft_p50_s": 0.1, "tpot_p50_s": 0.02, "requests_per_s": 1.0,
        "goodput_share": 1.0, "scores": {"contains": {"mean": 0.5}},
    }  # fmt: skip
    models = [f"huggingface/SmolLM2-135M-Instruct?quantization={form}" for form in ("int8", "int4")]
    cells = {
        name: {"model": name, "label": "closed 8 users · 16 to 8 tokens", "results": results}
        for name in models
    }
    outcome = Outcome("run_1", "x", "ok", True, (), cells, {}, ())
    print_outcome(outcome, [])
    lines = capsys.readouterr().out.splitlines()
    assert all(any(name in line and "100 ms" in line for line in lines) for name in models)
