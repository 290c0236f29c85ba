"""Queries read, one statement at a time, and can be stopped."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store
from workbench.types import Message

ASKED = [Message("user", "hi")]

# Far more pairs than a second suffices for, in little memory.
RUNAWAY = (
    "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b WHERE a.range = -b.range - 1.5"
)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO votes (vote_id) VALUES ('x')",
        "WITH x AS (INSERT INTO votes (vote_id) VALUES ('x') RETURNING vote_id) SELECT * FROM x",
        "EXPLAIN ANALYZE DELETE FROM schema_migrations",
        "DELETE FROM schema_migrations",
        "SELECT 1; DELETE FROM schema_migrations",
        "SELECT 1; SELECT 2",
        "COMMIT; DELETE FROM schema_migrations",
        "CREATE TABLE t (a INT)",
        "COPY schema_migrations TO 'stolen.csv'",
        "ATTACH ':memory:' AS x",
        "SET memory_limit = '1MB'",
        "CHECKPOINT",
        "COMMIT",
        "PRAGMA disable_optimizer",
        "SELEKT 1",
        "SELECT * FROM nowhere",
        "SELECT ?",
        "",
        "-- nothing",
    ],
)
def test_what_does_not_only_read_is_refused(
    shared_store: Store, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    migrations = "SELECT count(*) AS n FROM schema_migrations"
    before = shared_store.rows(migrations)
    with pytest.raises(WorkbenchError) as caught:
        shared_store.query(sql)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert not Path("stolen.csv").exists()
    assert shared_store.rows(migrations) == before
    assert shared_store.rows("FROM votes") == []


def test_the_message_of_bad_sql_is_duckdbs(shared_store: Store) -> None:
    with pytest.raises(WorkbenchError, match="nowhere does not exist"):
        shared_store.rows("SELECT * FROM nowhere")


def test_bad_sql_is_told_with_its_own_lines_and_a_fix(shared_store: Store) -> None:
    for sql, line in (("SELECT nothing FROM votes", 1), ("SELECT\nnothing FROM votes", 2)):
        with pytest.raises(WorkbenchError, match=f"LINE {line}:") as caught:
            shared_store.query(sql, limit=5)
        assert "DESCRIBE" in caught.value.fix
    with pytest.raises(WorkbenchError, match="makes a type first") as caught:
        shared_store.rows("PIVOT votes ON winner USING count(*)")
    assert "IN (" in caught.value.fix


@pytest.mark.parametrize(
    "sql", ["DESCRIBE votes", "SUMMARIZE votes", "EXPLAIN SELECT 1", "SHOW TABLES"]
)
def test_statements_that_describe_are_allowed(shared_store: Store, sql: str) -> None:
    assert len(shared_store.query(sql, limit=5)) >= 1


def test_a_frame_keeps_types_and_nulls(store: Store) -> None:
    store.log_session(make_session(output_tokens=None), ASKED).result()
    store.log_session(make_session(output_tokens=2**31 - 1), ASKED).result()
    frame = store.query(
        "SELECT created_at, output_tokens, 9007199254740993 + output_tokens AS big, "
        "output_tokens > 1 AS many, ttft_s, dtype, seq, [seq] AS list FROM latencies ORDER BY seq"
    )
    assert [str(kind) for kind in frame.dtypes][:5] == [
        "datetime64[us, UTC]",
        "Int32",
        "Int64",
        "boolean",
        "float64",
    ]
    assert frame.output_tokens.isna().tolist() == [True, False]
    assert frame.big[1] == 9007199254740993 + 2**31 - 1
    assert frame.created_at[0].to_pydatetime() == make_session().created_at
    assert frame.dtype.isna().all()
    assert frame.seq.tolist() == [1, 2]
    assert list(frame["list"][1]) == [2]
    assert store.query("SELECT created_at FROM votes").empty


def test_rows_are_python_values(shared_store: Store) -> None:
    (row,) = shared_store.rows(
        "SELECT $a AS a, NULL AS b, TIMESTAMPTZ '2026-01-01 01:00:00+01' AS t", {"a": 3}
    )
    assert row == {"a": 3, "b": None, "t": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}


def test_columns_of_the_same_name_are_all_there(shared_store: Store) -> None:
    sql = "SELECT 1 AS a, 2 AS a, 3 AS a"
    assert shared_store.rows(sql) == [{"a": 1, "a_1": 2, "a_2": 3}]
    assert list(shared_store.query(sql).columns) == ["a", "a_1", "a_2"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT range AS n FROM range(100) ORDER BY n DESC",
        "SELECT range AS n FROM range(100) ORDER BY n DESC;",
        "FROM (SELECT range AS n FROM range(100)) ORDER BY n DESC -- all of them; really",
        "; SELECT range AS n FROM range(100) ORDER BY n DESC; -- all of them",
        "SELECT range AS n, 'é;' FROM range(100) /* ; */ ORDER BY n DESC /* é; */ ; -- ü;",
        "WITH x AS (FROM range(100)) SELECT range AS n FROM x ORDER BY 1 DESC LIMIT 50 OFFSET 0",
    ],
)
def test_a_limit_keeps_the_first_rows_in_order(shared_store: Store, sql: str) -> None:
    assert shared_store.query(sql, limit=3).n.tolist() == [99, 98, 97]
    assert len(shared_store.rows(sql)) in (50, 100)


def test_a_runaway_query_is_stopped_and_the_store_goes_on(store: Store) -> None:
    with pytest.raises(WorkbenchError) as caught:
        store.query(RUNAWAY, timeout_s=0.2)
    assert caught.value.code is ErrorCode.TIMEOUT
    assert "0.2 s" in caught.value.message
    assert store.rows("SELECT 1 AS a", timeout_s=30) == [{"a": 1}]
    store.log_session(make_session(), ASKED).result()


def test_writing_goes_on_beside_a_long_query_and_closing_stops_it(path: Path) -> None:
    store = Store.open(path)
    outcome: list[WorkbenchError] = []
    started = threading.Event()

    def read() -> None:
        started.set()
        try:
            store.query(RUNAWAY)
        except WorkbenchError as error:
            outcome.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(30)
    for _ in range(3):
        store.log_session(make_session(), ASKED).result()
    store.close()
    reader.join(30)
    assert not reader.is_alive()
    assert outcome[0].code in (ErrorCode.TIMEOUT, ErrorCode.STORE_UNAVAILABLE)
    with Store.open(path) as again:
        assert len(again.rows("FROM stream_sessions")) == 3


def test_a_query_sees_one_state_of_the_log(store: Store) -> None:
    store.log_session(make_session(), ASKED).result()
    before = store.rows("SELECT count(*) AS n FROM latencies")
    store.log_session(make_session(), ASKED).result()
    assert (before, store.rows("SELECT count(*) AS n FROM latencies")) == ([{"n": 1}], [{"n": 2}])
