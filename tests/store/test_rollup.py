"""The counts of a large log say what its sessions say, whatever happens to them."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.store.conftest import MS, make_session
from workbench.store import Store, rollup
from workbench.store.database import Durability
from workbench.store.files import spool_of
from workbench.store.summaries import ALONE, EXACT
from workbench.types import Message, Options, Stamps, Status, StreamSession

ASKED = [Message("user", "hi")]
SMALL = Durability(exact_sessions=150)
OLD, YOUNG = (dt.datetime(year, 3, 1, tzinfo=dt.UTC) for year in (2024, 2026))


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "STEP", 50)
    monkeypatch.setattr(rollup, "_LONGEST", 70)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, durability=SMALL) as opened:
        yield opened


MODELS = ("scripted/a", "ollama/b", "ollama/never")


def session(chance: random.Random, at: dt.datetime) -> StreamSession:
    """Of one of several groups, with latencies over two orders of magnitude.

    What failed of the second model had not come to one of its forms, and the third never answered.
    """
    start = 5_000_000_000_000
    sent = start + chance.choice([0, chance.randrange(1, 300)]) * MS
    first = sent + round(chance.lognormvariate(3, 1) * MS) + 1
    last = first + round(chance.lognormvariate(5, 1) * MS) + 1
    model = chance.choice([*MODELS[:2] * 5, MODELS[2]])
    status = chance.choice([Status.OK] * 9 + [Status.ERROR]) if model != MODELS[2] else Status.ERROR
    forms = {"scripted/a": (None, "bf16"), "ollama/b": ("q4", "q8")}.get(model, (None,))
    reached = status is Status.OK or model == "scripted/a"
    return make_session(
        requested_model=model,
        model=model,
        provider=model.split("/")[0],
        created_at=at + dt.timedelta(seconds=chance.randrange(10)),
        dtype=chance.choice(forms) if reached else None,
        status=status,
        fallback_from=chance.choice([None] * 9 + ["ollama/gone"]),
        overlap_ns=chance.choice([0, 0, 0, MS]),
        ttft_late_ns=chance.choice([None, 0, 2 * MS]),
        speed_late_ns=chance.choice([None, 0, 9 * MS]),
        prompt_tokens=chance.choice([None, 5, 15, 16, 64, 5000]),
        mem_peak_bytes=chance.randrange(2**30),
        options=Options(seed=7),
        stamps=Stamps(
            queued=start,
            slot=sent,
            sent=sent,
            first_any=first,
            first_content=first,
            last=last,
            end=last + MS,
        ),
    )


def fill(store: Store, count: int, *, at: dt.datetime = YOUNG, seed: int = 1) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        store.log_session(session(chance, at), ASKED)
    store.flush()


def counted(store: Store) -> int:
    """The position, once the writer's thread has nothing more to count."""
    until = time.monotonic() + 30
    while True:
        (row,) = store.rows(
            "SELECT (SELECT seq FROM rollup_position) AS seq, count(*) AS n, "
            "coalesce(max(s.seq), 0) AS last FROM stream_sessions s"
        )
        due = row["last"] - row["seq"] >= rollup.STEP
        if not due or (not row["seq"] and row["n"] <= SMALL.exact_sessions):
            return int(row["seq"])
        if time.monotonic() > until:
            pytest.fail(f"it was not counted: {row}")


def both(path: Path) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The rows of each view as they are, and as they are when every session is read."""
    with duckdb.connect(str(path)) as connection:

        def rows() -> list[list[dict[str, Any]]]:
            found = []
            for view in ("model_leaderboard", "latency_percentiles"):
                cursor = connection.execute(f"FROM {view} ORDER BY ALL")
                assert cursor.description
                names = [column[0] for column in cursor.description]
                found.append([dict(zip(names, row, strict=True)) for row in cursor.fetchall()])
            return found

        got = rows()
        connection.execute("BEGIN")
        for sql in EXACT:
            connection.execute(sql)
        expected = rows()
        connection.execute("ROLLBACK")
    return zip(got, expected, strict=True)


def assert_alike(path: Path) -> None:
    for got, expected in both(path):
        keys = list(expected[0])[:7]

        def key(row: dict[str, Any], names: list[str] = keys) -> str:
            return str([row[name] for name in names])

        assert len(got) == len(expected) > 3
        for mine, exact in zip(sorted(got, key=key), sorted(expected, key=key), strict=True):
            assert list(mine) == list(exact), "the same columns in the same order"
            for name, value in exact.items():
                if isinstance(value, float):
                    assert mine[name] == pytest.approx(value, rel=0.0026), name
                else:
                    assert mine[name] == value, name


def test_a_large_log_is_counted_as_it_grows_and_its_views_stay_right(
    store: Store, path: Path
) -> None:
    fill(store, 140)
    assert counted(store) == 0, "a small log is exact"
    fill(store, 300, seed=2)
    assert 440 - rollup.STEP < counted(store) <= 440
    fill(store, 17, seed=3)  # some are not counted yet
    checks = {check.check: check for check in store.verify()}
    assert checks["rollup"].status == "ok"
    assert "up to" in checks["rollup"].message
    store.close()
    assert_alike(path)


def test_percentiles_of_a_large_log_are_read_from_its_counts(store: Store) -> None:
    fill(store, 300)
    assert counted(store) > 250
    plan = store.query("EXPLAIN FROM latency_percentiles").to_string()
    assert "rollup_buckets" in plan


def test_a_log_that_was_there_before_is_counted_at_the_next_start(path: Path) -> None:
    with Store.open(path) as store:  # nothing is counted below two million
        fill(store, 400)
        assert store.rows("FROM rollup_position") == [{"seq": 0}]
    with Store.open(path, durability=SMALL) as store:
        fill(store, 1)
        assert counted(store) > 350
    assert_alike(path)


def test_pruning_counts_again_in_its_own_transaction(store: Store, path: Path) -> None:
    fill(store, 200, at=OLD)
    fill(store, 250, at=YOUNG, seed=2)
    fill(store, 30, at=OLD, seed=3)
    assert counted(store) > 400
    assert store.prune(dt.datetime(2025, 1, 1, tzinfo=dt.UTC), [], dry_run=False)["sessions"] == 230
    checks = {check.check: check for check in store.verify()}
    assert checks["rollup"].status == "ok"
    assert counted(store) > 400
    store.close()
    assert_alike(path)
    with Store.open(path, durability=SMALL) as again:
        again.prune(dt.datetime(2027, 1, 1, tzinfo=dt.UTC), [], dry_run=False)
        assert counted(again) == 0
        fill(again, 20)
        assert len(again.rows("FROM model_leaderboard")) > 3


def test_verify_finds_counts_that_are_not_those_of_the_sessions(path: Path) -> None:
    with Store.open(path, durability=SMALL) as store:
        fill(store, 300)
    with duckdb.connect(str(path)) as other:
        other.execute(
            "DELETE FROM rollup_buckets WHERE bucket = (SELECT max(bucket) FROM rollup_buckets)"
        )
    with Store.open(path, durability=SMALL) as store:
        (check,) = [check for check in store.verify() if check.check == "rollup"]
    assert check.status == "bad"


def test_a_snapshot_keeps_the_counts_and_an_export_leaves_them_at_home(
    store: Store, path: Path, tmp_path: Path
) -> None:
    fill(store, 300)
    store.snapshot(tmp_path / "copy.duckdb")
    made = store.export(tmp_path / "out")
    assert not [table for table in made["tables"] if table.startswith("rollup")]
    store.import_export(tmp_path / "out", "ada")
    alone = store.rows(f"SELECT count(*) AS n FROM ada.latencies WHERE {ALONE}")[0]["n"]
    got = store.rows("SELECT sum(sessions)::BIGINT AS n FROM ada.latency_percentiles")[0]["n"]
    assert got == alone
    with Store.open(tmp_path / "copy.duckdb", durability=SMALL) as copy:
        assert counted(copy) > 250
        assert all(check.status != "bad" for check in copy.verify())


def test_a_log_made_anew_of_what_can_be_read_counts_anew(path: Path) -> None:
    with Store.open(path, durability=SMALL) as store:
        fill(store, 400)
    data = bytearray(path.read_bytes())
    data[4096 * 3 + 262144 + 500] ^= 1
    path.write_bytes(data)
    for left in spool_of(path).glob("copy*"):
        left.unlink()
    with Store.open(path, durability=SMALL) as store:
        store.flush()
        assert store.repairs
        fill(store, 300, seed=5)
        checks = {check.check: check for check in store.verify()}
        assert checks["rollup"].status == "ok"
