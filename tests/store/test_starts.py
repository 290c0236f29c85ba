"""A start that is itself in trouble: what it cannot read, who else starts, a disk without room."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from tests.store.conftest import make_session
from workbench.store import Store
from workbench.store.blocks import DatabaseFile
from workbench.store.database import Durability
from workbench.types import Message

ASKED = [Message("user", "hi")]
ALONE = Durability(checkpoint_s=3600, copy_bytes=0)
"""Of a log that is too large for a copy, but for its size."""


@pytest.mark.parametrize("table", ["messages", "token_streams"])
def test_a_file_that_does_not_say_how_far_it_got_gets_each_row_of_the_spool_once(
    path: Path, tmp_path: Path, table: str
) -> None:
    """Whole entries were refused because a part was there; rows without a key came in twice."""
    chance = random.Random(1)
    known: list[str] = []

    def log(store: Store, count: int) -> None:
        for _ in range(count):
            session = make_session(text=chance.randbytes(4000).hex())  # blocks of their own
            known.append(session.session_id)
            store.log_session(session, ASKED)
            event = {"error_id": f"err_{len(known)}", "created_at": session.created_at}
            store.insert("errors", {**event, "code": "X", "message": "m", "details": {}})
        run = {"run_id": "run_1", "created_at": "2026-03-01", "name": "n", "spec": {}}
        state = {"timing_mode": "isolated", "status": f"after {len(known)}"}
        store.insert("benchmark_runs", {**run, **state}, mode="replace")
        store.flush()

    with Store.open(path, durability=ALONE) as store:
        assert store._database is not None
        for _ in range(2):
            log(store, 40)
            store._database.checkpoint()
        log(store, 6)
        rows = store._database.connection.execute(
            "SELECT block_id FROM pragma_storage_info(?) WHERE block_id >= 0", [table]
        ).fetchall()
        shutil.copytree(path.parent, tmp_path / "killed")
    path = tmp_path / "killed" / path.name
    with duckdb.connect(str(path)) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown; DROP TABLE log_position")
    file = DatabaseFile(path)
    place = file.read_state(blocks=False).place(rows[0][0]) + 5000
    file.close()
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with Store.open(path, durability=ALONE) as store:
        (told,) = store.repairs
        each = {"messages": 2, "token_streams": 1}[table]
        assert told.details["lost"] == [f"{40 * each} of {86 * each} rows of {table}"]
        found = store.rows(f"SELECT session_id, count(*) AS n FROM {table} GROUP BY session_id")
        assert {row["session_id"]: row["n"] for row in found} == dict.fromkeys(known[40:], each)
        assert {row["session_id"] for row in store.rows("FROM stream_sessions")} == set(known)
        events = Counter(row["error_id"] for row in store.rows("FROM errors WHERE code = 'X'"))
        assert events == Counter(f"err_{number}" for number in range(1, 87))
        assert store.rows("SELECT status FROM benchmark_runs") == [{"status": "after 86"}]
