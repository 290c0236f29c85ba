"""SQL from outside reads the log and nothing else, over every road."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from tests.store.attacks import CANARY, LIMITS, STATEMENTS
from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store
from workbench.store.files import exchange_folder
from workbench.store.gate import admit
from workbench.store.reading import Limits
from workbench.store.remote import QuackReader
from workbench.store.serving import Address
from workbench.types import Message

TOKEN = "a-token-of-the-tests"
BOUNDS = Limits(timeout_s=0.3, max_rows=10_000, max_bytes=2**28)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "canary.csv").write_text(f"{CANARY}\n")
    with Store.open(folder / "workbench.duckdb", address=Address(TOKEN)) as opened:
        assert opened.serving.problem is None
        exchange = exchange_folder(opened.path)
        exchange.mkdir()
        with duckdb.connect() as other:
            other.execute(f"COPY (SELECT '{CANARY}' a) TO '{exchange}/canary.parquet'")
        for _ in range(3):
            opened.log_session(make_session(), [Message("user", "hi")]).stored.result()
        yield opened


def state(store: Store) -> str:
    """All that an attack could change: rows, catalogue, settings, databases, files."""
    # The test looks with the eyes of the store, which pass no gate.
    look = store._connection.cursor()
    parts: list[object] = [sorted(str(path) for path in store.path.parent.rglob("*.*"))]
    parts.append(look.execute("SELECT database_name, sql FROM duckdb_tables()").fetchall())
    parts.append(look.execute("SELECT database_name, sql FROM duckdb_views()").fetchall())
    parts.append(look.execute("FROM duckdb_settings()").fetchall())
    parts.append(look.execute("SELECT database_name FROM duckdb_databases()").fetchall())
    parts += [
        look.execute(f"FROM {table}").fetchall()
        for table in ("stream_sessions", "token_streams", "messages", "votes", "schema_migrations")
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def refusal(run: Callable[[], object], about: str) -> Exception:
    """The error that it raises."""
    try:
        found = run()
    except (WorkbenchError, duckdb.Error) as error:
        return error
    raise AssertionError(f"{about!r} gave {found}")


def filled(sql: str, store: Store) -> str:
    for name, value in (
        ("{folder}", store.path.parent),
        ("{exchange}", exchange_folder(store.path)),
        ("{db}", store.path.stem),
    ):
        sql = sql.replace(name, str(value))
    return sql


def test_there_are_many_of_them() -> None:
    assert len(set(STATEMENTS)) + len(LIMITS) >= 250


@pytest.mark.parametrize("park", [False, True], ids=["answered", "parked"])
def test_no_statement_does_more_than_read(
    store: Store, park: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.path.parent)
    secret_frame = pd.DataFrame({"word": [CANARY]})
    secret_rows = secret_frame.copy()
    before = state(store)
    for number, sql in enumerate(STATEMENTS):
        text = filled(sql, store)
        error = refusal(partial(store.query_within, text, None, BOUNDS, park=park), sql)
        assert isinstance(error, WorkbenchError), sql
        assert error.code is ErrorCode.INVALID_REQUEST, sql
        assert CANARY not in str(error), sql
        assert "root:" not in str(error), sql
        if number % 10 == 9:
            assert state(store) == before, sql
    assert state(store) == before
    assert len(secret_rows) == 1


@pytest.mark.parametrize(("sql", "code"), LIMITS, ids=lambda value: str(value)[:50])
def test_no_statement_takes_more_than_its_share(store: Store, sql: str, code: ErrorCode) -> None:
    before = state(store)
    with pytest.raises(WorkbenchError) as caught:
        store.query_within(sql, None, BOUNDS, park=True)
    assert caught.value.code is code
    assert state(store) == before, "nothing is left parked"
    assert store.rows("SELECT count(*) AS n FROM stream_sessions") == [{"n": 3}]


def test_a_query_that_takes_much_memory_is_stopped_and_the_writer_goes_on(store: Store) -> None:
    bounds = Limits(timeout_s=60, max_bytes=2**26)
    with pytest.raises(WorkbenchError, match="more than 64 MiB"):
        store.query_within("SELECT list(range) FROM range(100000000)", None, bounds)
    store.log_error(WorkbenchError(ErrorCode.INTERNAL, "still there")).result(30)


def test_the_token_of_quack_lets_nobody_do_more(store: Store) -> None:
    assert store.serving.uri is not None
    reader = QuackReader(store.serving.uri, TOKEN)
    before = state(store)
    for number, sql in enumerate((*STATEMENTS, *(sql for sql, _ in LIMITS))):
        asked = [store.serving.uri, filled(sql, store)]
        error = refusal(partial(reader._connection.execute, "FROM quack_query(?, ?)", asked), sql)
        refused = "does not exist" if "parked" in sql else "Authorization failed"
        assert refused in str(error), sql
        if number % 10 == 9:
            assert state(store) == before, sql
    assert state(store) == before
    reader.close()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO wb.votes (vote_id) VALUES ('x')",
        "INSERT INTO wb.votes SELECT * FROM wb.votes",
        "DELETE FROM wb.votes",
        "UPDATE wb.votes SET vote_id = 'y'",
        "CREATE TABLE wb.stolen AS SELECT 1 AS a",
        "CREATE TABLE wb.stolen (a INT)",
        "DROP TABLE wb.votes",
        "DROP VIEW wb.latencies",
        "ALTER TABLE wb.votes ADD COLUMN x INT",
        "CREATE SCHEMA wb.evil",
        "CALL wb.query('DELETE FROM votes')",
        "FROM wb.query('SELECT count(*) FROM latencies')",
    ],
)
def test_an_attached_log_cannot_be_changed(store: Store, sql: str) -> None:
    assert store.serving.uri is not None
    reader = QuackReader(store.serving.uri, TOKEN)
    other = reader._connection
    before = state(store)
    other.execute(f"ATTACH '{store.serving.uri}' AS wb")
    with pytest.raises(duckdb.Error):
        other.execute(sql).fetchall()
    assert state(store) == before
    # Still of use: tables and views are read, and the reader's own DuckDB computes.
    assert other.execute("SELECT max(seq) FROM wb.stream_sessions WHERE seq < 3").fetchone() == (2,)
    assert other.execute("SELECT count(*), min(ttft_s) FROM wb.latencies").fetchone() == (3, 0.03)
    reader.close()


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN.upper()])
def test_without_the_token_nobody_gets_in(store: Store, token: str) -> None:
    assert store.serving.uri is not None
    reader = QuackReader(store.serving.uri, "another-token-of-nobody")
    with pytest.raises(duckdb.Error, match=r"[Aa]uthentication"):
        reader._connection.execute(
            "FROM quack_query(?, 'FROM votes', token := ?)", [store.serving.uri, token]
        )
    reader.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 -- ; DELETE FROM stream_sessions",
        "SELECT 'DELETE FROM stream_sessions; read_text(''/etc/passwd'')' AS text",
        "SELECT replace(model, 'scripted/', '') FROM latencies",
        "SELECT format('{:.2f} s', ttft_s) FROM latencies",
        "SELECT unnest(range(3)) AS i",
        "SELECT unnest(range(1, len(t_ns) + 1)) AS i FROM token_streams",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) FROM r",
        "SELECT * FROM (PIVOT latencies ON status IN ('ok') USING count(*) GROUP BY model)",
        "SELECT model, quantile_cont(ttft_s, 0.5) FROM latencies GROUP BY ALL HAVING count(*) > 1",
        "SELECT l.model, t.position FROM latencies l JOIN token_events t USING (session_id)",
        "SELECT seq, lag(seq) OVER (ORDER BY seq) FROM workbench.main.stream_sessions",
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'latencies'",
        "SELECT * FROM json_each('{\"a\": 1}')",
        "SUMMARIZE latencies",
        "EXPLAIN ANALYZE SELECT * FROM latencies",
        "SHOW ALL TABLES",
    ],
)
def test_what_only_reads_is_let_through(store: Store, sql: str) -> None:
    for park in (False, True):
        frame, _, rows = store.query_within(sql, None, BOUNDS, park=park)
        assert frame is not None
        assert rows == len(frame) > 0


def test_a_path_is_no_table_even_where_files_may_be_read(tmp_path: Path) -> None:
    """The gate refuses by itself, not only because the log is sealed."""
    with duckdb.connect() as other:
        for sql in STATEMENTS:
            text = sql.replace("{folder}", str(tmp_path)).replace("{exchange}", str(tmp_path))
            # What the gate lets pass are tables that are not there and values that are missing.
            run = partial(_admit_and_run, text.replace("{db}", "x"), other)
            assert "No files found" not in str(refusal(run, sql)), sql


def _admit_and_run(sql: str, connection: duckdb.DuckDBPyConnection) -> object:
    return connection.execute(admit(sql, connection)[0]).fetchall()
