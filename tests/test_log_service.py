"""A server's log for other processes: large results, writing, a restart, a second machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import httpx
import pytest

from benchmarks.shared_log import WRITERS, share
from tests.live import LiveServer, free_port
from tests.providers.ollama_support import http, wire
from tests.store.attacks import STATEMENTS
from tests.store.conftest import make_session
from workbench import Workbench
from workbench.api.security import check_address
from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import load_settings
from workbench.sharing import Courier, SharedLog
from workbench.store import Store
from workbench.store.extension import load_quack
from workbench.store.serving import Address
from workbench.store.sharing import own_sessions
from workbench.types import Message

TOKEN = "a-token-for-other-machines"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("log-service")
    with LiveServer(folder, WORKBENCH_QUERY_TIMEOUT_S="2", WORKBENCH_LOG_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture
def wb(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setenv("WORKBENCH_DB", server.environment["WORKBENCH_DB"])
    with Workbench(remote=True) as opened:
        yield opened


LARGE = (
    "SELECT range AS i, 'x' || range AS text, range / 7 AS x, range % 2 = 0 AS even, "
    "CASE WHEN range > 3 THEN range END AS some, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS at, "
    "[range, 2] AS list FROM range($n) ORDER BY i DESC"
)


def test_a_large_result_is_the_same_as_a_small_one(wb: Workbench) -> None:
    small, large = wb.sql(LARGE, {"n": 1000}), wb.sql(LARGE, {"n": 50_000})
    assert len(large) == 50_000
    assert large.i.tolist()[:2] == [49_999, 49_998]
    assert [str(kind) for kind in large.dtypes] == [str(kind) for kind in small.dtypes]
    tail = large.tail(1000).reset_index(drop=True)
    for column in ("i", "text", "x", "even", "some", "at"):
        assert tail[column].equals(small[column]), column
    assert [list(value) for value in tail["list"]] == [list(value) for value in small["list"]]


def test_a_large_result_comes_over_quack_and_leaves_nothing_behind(
    server: LiveServer, wb: Workbench
) -> None:
    sql = "SELECT count(*) AS n FROM duckdb_tables() WHERE database_name = 'parked'"
    with server.client() as http:

        def parked() -> int:
            # Not over `wb`: a question whose answer may be parked can see the table made for it.
            return int(http.post("/api/v1/query", json={"sql": sql}).json()["rows"][0][0])

        http.post("/api/v1/query", json={"sql": "FROM range(5000)", "park": True})
        left = parked()
        assert left >= 1, "what nobody fetches waits"
        assert len(wb.sql(LARGE, {"n": 50_000})) == 50_000
        assert wb._transport._log is not None  # type: ignore[attr-defined]
        assert parked() == left


def test_the_server_file_is_for_its_user_alone(server: LiveServer) -> None:
    assert (server.folder / "server.json").stat().st_mode & 0o777 == 0o600
    assert server.announced()["log"]["uri"].startswith("quack:127.0.0.1:")


def test_every_attack_is_refused_over_http(server: LiveServer) -> None:
    with server.client() as http:
        for number, sql in enumerate(STATEMENTS):
            got = http.post("/api/v1/query", json={"sql": sql, "park": number % 2 == 0})
            assert (got.status_code, got.json()["code"]) == (422, "INVALID_REQUEST"), sql
        slow = "SELECT sum(a.range) FROM range(100000000000) a"
        got = http.post("/api/v1/query", json={"sql": slow})
        assert (got.status_code, got.json()["code"]) == (504, "TIMEOUT")
        got = http.post("/api/v1/query", json={"sql": "FROM range(1000001)"})
        assert got.json()["details"] == {"max_rows": 1_000_000}
        assert http.get("/health/live").json() == {"status": "ok"}


def test_other_processes_log_rows_and_sessions(wb: Workbench) -> None:
    wb.log("errors", *[{**ERROR, "error_id": f"err_{number}"} for number in range(3)])
    assert wb.sql("SELECT count(*) AS n FROM errors WHERE message = 'from afar'").n[0] == 3
    session = make_session()
    wb.log_session(session, [Message("user", "hi")])
    (row,) = wb.sql(
        "SELECT seq, model, ttft_s FROM latencies WHERE session_id = $id",
        {"id": session.session_id},
    ).itertuples(index=False)
    assert (row.model, row.ttft_s) == ("scripted/steady", 0.03)
    assert row.seq > 0, "numbered by the one writer"


ERROR = {
    "created_at": "2026-01-01T00:00:00+00:00",
    "code": "INTERNAL",
    "message": "from afar",
    "details": {"answer": 42},
}


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("stream_sessions", {"seq": 1}, "no single rows"),
        ("schema_migrations", {"version": 9}, "no single rows"),
        ("nowhere", {"a": 1}, "no table"),
        ("errors", {"nothing": 1, "code": "X", "never": 2}, "no column 'never', 'nothing'"),
        ("errors; DROP TABLE errors", {"a": 1}, "no table"),
        ("errors", {"error_id": "x"}, "refused a row"),
    ],
)
def test_what_cannot_be_logged_is_refused(
    wb: Workbench, table: str, row: dict[str, object], message: str
) -> None:
    with pytest.raises(WorkbenchError, match=message) as caught:
        wb.log(table, row)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_a_client_follows_a_restarted_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DB", str(tmp_path / "workbench.duckdb"))
    with LiveServer(tmp_path):
        wb = Workbench(remote=True)
        assert len(wb.sql("FROM range(5000)")) == 5000
        before = wb._transport._http  # type: ignore[attr-defined]
    with pytest.raises(WorkbenchError) as caught:
        wb.sql("SELECT 1")
    assert caught.value.code is ErrorCode.SERVER_UNREACHABLE
    with LiveServer(tmp_path, WORKBENCH_LOG_SERVING="false") as again:
        assert again.announced()["log"] is None
        assert len(wb.sql("FROM range(5000)")) == 5000, "over REST"
        assert wb._transport._http is not before  # type: ignore[attr-defined]
        wb.log("errors", {**ERROR, "error_id": "err_0"})
        wb.close()
        with again.client() as http:
            store = http.get("/health").json()["parts"]["store"]
        assert (store["status"], store["served_at"]) == ("ok", None)


def test_without_the_extension_everything_comes_over_rest(
    server: LiveServer, wb: Workbench, tmp_path: Path
) -> None:
    """The package is hidden from a client of its own process, and there is no network."""
    code = (
        "import sys; sys.modules['duckdb_extension_quack'] = None\n"
        "from workbench import Workbench\n"
        "from workbench.store import extension\n"
        "extension.packaged_file = lambda name: None\n"
        "with Workbench(remote=True) as wb: print(len(wb.sql('FROM range(5000)')))\n"
    )
    environment = {**server.environment, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "5000", done.stderr


def test_another_machine_is_let_in_only_where_its_user_said_so(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="WORKBENCH_LOG_TOKEN"):
        check_address(load_settings(workbench_log_host="0.0.0.0"))
    with pytest.raises(WorkbenchError, match="WORKBENCH_LOG_TOKEN"):
        load_settings(workbench_log_host="0.0.0.0", workbench_log_token="short")
    port = free_port()
    address = Address(TOKEN, host="0.0.0.0", port=port)
    with Store.open(tmp_path / "x.duckdb", address=address) as store, duckdb.connect() as other:
        assert store.serving.local_uri == f"quack:127.0.0.1:{port}"
        load_quack(other)
        with pytest.raises(duckdb.Error, match="token"):
            other.execute(f"ATTACH 'quack:127.0.0.1:{port}' AS wb (DISABLE_SSL true)")
        with pytest.raises(duckdb.Error, match="Authentication failed"):
            other.execute(f"ATTACH 'quack:127.0.0.1:{port}' AS wb (DISABLE_SSL true, TOKEN 'no!!')")
        # As in docs/how-to/shared-log.md.
        other.execute(f"ATTACH 'quack:127.0.0.1:{port}' AS wb (DISABLE_SSL true, TOKEN '{TOKEN}')")
        other.execute("CREATE TABLE latencies AS FROM wb.latencies")
        assert other.execute("SELECT count(*) FROM latencies").fetchone() == (0,)


def test_three_workbenches_write_a_fourth_reads_one_is_killed_and_nothing_acknowledged_is_lost(
    server: LiveServer,
) -> None:
    """For a moment; the long run is a script."""
    key = server.announced()["token"]
    found = share(server.folder, "workbench.duckdb", server.url, key, 1)
    assert found["problems"] == []
    assert found["ok"], found
    assert found["acknowledged"] > 0
    assert set(found["leaderboard"]) == {f"writer-{number}" for number in range(WRITERS)}


@pytest.mark.parametrize(
    ("writer", "change", "message"),
    [
        ("no name!", {}, "no name of a writer"),
        ("ada", {"votes": [{}]}, "nowhere else"),
        ("ada", {"stream_sessions": []}, "one row in stream_sessions"),
        ("ada", {"token_streams": [{"session_id": "another"}]}, "another session"),
        ("ada", {"messages": "none"}, "no list of objects"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    server: LiveServer, writer: str, change: dict[str, object], message: str
) -> None:
    rows = {"stream_sessions": [{"session_id": "ses_x"}], **change}
    with server.client() as http:
        body = {"writer_id": writer, "sessions": [rows]}
        got = http.post("/api/v1/log/shared", json=body)
    assert (got.status_code, message in got.json()["message"]) == (422, True), got.text


def test_a_session_has_one_writer_and_strangers_share_nothing(
    server: LiveServer, wb: Workbench, tmp_path: Path
) -> None:
    session = make_session()
    with Store.open(tmp_path / "own.duckdb") as own:
        own.log_session(session, [Message("user", "hi")]).stored.result()
        (shareable,) = own_sessions(own, 0, 10)
    body = {"writer_id": "ada", "sessions": [dict(shareable.rows)]}
    with server.client() as http:
        assert http.post("/api/v1/log/shared", json=body).json() == {"logged": 1, "known": 0}
        assert http.post("/api/v1/log/shared", json=body).json() == {"logged": 0, "known": 1}
        got = http.post("/api/v1/log/shared", json={**body, "writer_id": "bob"})
        assert "another writer" in got.json()["message"]
    got = httpx.post(f"{server.url}/api/v1/log/shared", json=body, trust_env=False)
    assert got.status_code == 401
    row = wb.sql(
        "SELECT l.writer_id, l.ttft_s, m.content FROM latencies l "
        "JOIN messages m USING (session_id) WHERE session_id = $id AND role = 'user'",
        {"id": session.session_id},
    )
    assert row.to_dict("records") == [{"writer_id": "ada", "ttft_s": 0.03, "content": "hi"}]


def shared_by(server: LiveServer, writer: str) -> dict[str, str]:
    """Settings of a workbench that shares its log with this server."""
    return {
        "workbench_shared_log": server.url,
        "workbench_shared_log_key": server.announced()["token"],
        "workbench_writer_id": writer,
    }


def test_what_is_new_is_shared_once(server: LiveServer, tmp_path: Path) -> None:
    own = tmp_path / "own.duckdb"
    with Workbench(remote=False, workbench_db=own, **shared_by(server, "carol")) as mine:
        mine.log_session(make_session(), [Message("user", "hi")])
        first = mine.share()
        assert (first["sessions"], first["writer_id"], first["url"]) == (1, "carol", server.url)
        assert mine.share()["sessions"] == 0
        mine.log_session(make_session(), [Message("user", "ho")])
        assert mine.share()["sessions"] == 1
    environment = server.query(
        "SELECT count(DISTINCT environment_id) FROM latencies JOIN environments "
        "USING (environment_id) WHERE writer_id = 'carol'"
    )
    assert environment == [[1]], "that of the machine that measured came with them"
    unset = server.cli("db", "share")
    assert (unset.returncode, "WORKBENCH_SHARED_LOG" in unset.stderr) == (1, True)


def test_nothing_is_shared_otherwise_than_this_shell_says(server: LiveServer) -> None:
    """The server's settings count; ours must not be ignored, or prompts go elsewhere."""
    told = {
        "workbench_shared_log": "http://192.0.2.7:7860",
        "workbench_writer_id": "mallory",
        "workbench_shared_log_key": "another",
    }
    for name, value in told.items():
        with (
            Workbench(
                remote=True, workbench_db=server.folder / "workbench.duckdb", **{name: value}
            ) as here,
            pytest.raises(WorkbenchError) as refused,
        ):
            here.share()
        assert refused.value.code is ErrorCode.INVALID_REQUEST
        assert f"to no shared log; {name.upper()} of this shell" in str(refused.value)


def test_a_server_without_a_key_is_told_to_have_one(server: LiveServer, tmp_path: Path) -> None:
    """What is missing is missing there: no key of ours would help."""
    settings = {**shared_by(server, "dave"), "workbench_shared_log_key": "any"}
    with Workbench(remote=False, workbench_db=tmp_path / "own.duckdb", **settings) as mine:
        mine.log_session(make_session(), [Message("user", "hi")])
        with pytest.raises(WorkbenchError, match="its server has none") as refused:
            mine.share()
    assert "Set WORKBENCH_API_KEY on that server" in refused.value.fix


async def test_a_refused_key_is_said_with_its_setting(tmp_path: Path) -> None:
    said = {"code": "UNAUTHORIZED", "message": "The request carries no valid key."}
    refusal = http(json.dumps(said), "401 Unauthorized")
    with Store.open(tmp_path / "own.duckdb") as own:
        own.log_session(make_session(), [Message("user", "hi")]).stored.result()
        async with wire(lambda path, body: refusal) as there:
            settings = load_settings(
                workbench_shared_log=there.url, workbench_shared_log_key="wrong"
            )
            push = SharedLog(own, settings).push
            with pytest.raises(WorkbenchError, match=there.url) as refused:
                await asyncio.to_thread(push, lambda *told: None, threading.Event())
    assert refused.value.code is ErrorCode.UNAUTHORIZED
    assert "WORKBENCH_SHARED_LOG_KEY" in refused.value.fix


async def test_a_server_shares_by_itself_while_it_generates_nothing(
    server: LiveServer, tmp_path: Path
) -> None:
    settings = load_settings(**shared_by(server, "eve"))
    sql = "SELECT count(*) FROM stream_sessions WHERE writer_id = 'eve'"
    looks, busy = [], True

    def is_busy() -> bool:
        looks.append(busy)
        return busy

    with Store.open(tmp_path / "own.duckdb") as own:
        own.log_session(make_session(), [Message("user", "hi")]).stored.result()
        courier = Courier(SharedLog(own, settings), 0.01, is_busy)
        courier.start()
        while len(looks) < 3:
            await asyncio.sleep(0.01)
        assert server.query(sql) == [[0]]
        busy = False
        while server.query(sql) == [[0]]:
            await asyncio.sleep(0.05)
        await courier.close()
        assert server.query(sql) == [[1]]


def test_the_log_is_kept_from_the_command_line_while_a_server_holds_it(
    server: LiveServer, wb: Workbench, tmp_path: Path
) -> None:
    wb.log_session(make_session(), [Message("user", "hi")])
    made = json.loads(server.cli("db", "snapshot", str(tmp_path / "s.duckdb"), "--json").stdout)
    with Store.open_readonly(tmp_path / "s.duckdb") as copy:
        assert copy.rows("SELECT count(*) AS n FROM latencies")[0]["n"] == made["sessions"] >= 1
    twice = server.cli("db", "snapshot", str(tmp_path / "s.duckdb"))
    assert (twice.returncode, "exists already" in twice.stderr) == (1, True)

    out = server.cli("db", "export", str(tmp_path / "out"))
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "out" / "manifest.json").is_file()
    read = server.cli("db", "import", str(tmp_path / "out"), "--as", "ada", "--json")
    assert json.loads(read.stdout)["name"] == "ada"
    assert len(wb.sql("FROM ada.latencies")) == made["sessions"]

    dry = server.cli("db", "prune", "--older-than", "1d", "--dry-run")
    assert f"1 of {made['sessions']} sessions would go" in dry.stdout or made["sessions"] > 1
    assert "from before" in dry.stdout
    nothing = server.cli("db", "prune", "--older-than", "2020-01-01", "--dry-run")
    assert f"0 of {made['sessions']} sessions would go" in nothing.stdout
    unasked = server.cli("db", "prune", "--older-than", "1d")
    assert (unasked.returncode, "--yes" in unasked.stderr) == (1, True)
    assert wb.sql("SELECT count(*) AS n FROM stream_sessions").n[0] > 0
    done = server.cli("db", "prune", "--older-than", "1d", "--yes", "--json")
    assert json.loads(done.stdout)["sessions"] > 0
    assert wb.sql("SELECT count(*) AS n FROM stream_sessions").n[0] == 0
    assert len(wb.sql("FROM ada.latencies")) == made["sessions"], "what was imported stays"
