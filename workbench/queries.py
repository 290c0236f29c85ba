"""Queries of the log that are kept by name: some that come with the workbench, and one's own."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError, invalid, require_text

MAX_QUERIES: Final = 200
"""Own ones that are kept."""
MAX_NAME_CHARS: Final = 80
MAX_SQL_CHARS: Final = 20_000

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with its name; ``own``: it can be changed and deleted."""

    name: str
    sql: str
    own: bool = False


SHIPPED: Final = (
    Query("Speed of each model, answers that ran alone", "FROM model_leaderboard"),
    Query(
        "Time to first token by prompt length",
        "SELECT model, prompt_tokens, ttft_s\nFROM latencies\n"
        "WHERE status = 'ok' AND NOT contended AND NOT ttft_spoilt AND fallback_from IS NULL\n"
        "ORDER BY created_at DESC LIMIT 2000",
    ),
    Query(
        "Sessions a day",
        "SELECT date_trunc('day', created_at) AS day, status, count(*) AS sessions\n"
        "FROM stream_sessions GROUP BY ALL ORDER BY day",
    ),
    Query(
        "What contention costs",
        "SELECT model, contended, count(*) AS sessions, median(decode_tps) AS decode_tps_p50\n"
        "FROM latencies WHERE status = 'ok' GROUP BY ALL ORDER BY model, contended",
    ),
    Query(
        "Where the time of an answer goes",
        "SELECT model, avg(queue_s) AS queue_s, avg(load_s) AS load_s, avg(prefill_s) AS "
        "prefill_s,\n    avg(think_s) AS think_s, avg(answer_s) AS answer_s, count(*) AS sessions\n"
        "FROM latencies WHERE status = 'ok' GROUP BY model ORDER BY model",
    ),
    Query(
        "The latest errors",
        "SELECT created_at, code, model, message, fix, correlation_id\n"
        "FROM errors ORDER BY created_at DESC LIMIT 100",
    ),
    Query(
        "Loads and evictions",
        "SELECT created_at, model, event, ok, duration_s, after_bytes / 1e6 AS after_mb, reason\n"
        "FROM model_events WHERE event IN ('load', 'unload', 'evict', 'died')\n"
        "ORDER BY created_at DESC LIMIT 500",
    ),
    Query(
        "Votes between models",
        "SELECT model_a, model_b, winner, count(*) AS votes\nFROM votes GROUP BY ALL "
        "ORDER BY votes DESC",
    ),
)
"""Those that come with the workbench."""


class Queries:
    """The kept queries, in a file of JSON beside the log. Thread-safe.

    Args:
        path: of the file; made at the first save.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def all(self) -> list[Query]:
        """One's own by name, then those that come with the workbench."""
        with self._lock:
            return [*self._own(), *SHIPPED]

    def get(self, name: str) -> Query | None:
        """The query of that name."""
        return next((query for query in self.all() if query.name == name), None)

    def save(self, name: str, sql: str) -> Query:
        """Keep a query; one of one's own with that name is replaced.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``; ``STORE_UNAVAILABLE``, the file cannot be written.
        """
        require_text(name, "name")
        require_text(sql, "sql")
        name = " ".join(name.split())
        if not name or len(name) > MAX_NAME_CHARS:
            raise invalid(
                f"A query needs a name of at most {MAX_NAME_CHARS} characters.",
                fix="Type one beside Save.",
            )
        if any(query.name == name for query in SHIPPED):
            raise invalid(f"{name!r} comes with the workbench.", fix="Choose another name.")
        if not sql.strip() or len(sql) > MAX_SQL_CHARS:
            raise invalid(
                f"A query that is kept has 1 to {MAX_SQL_CHARS:,} characters.",
                fix="Write one into the box, or shorten it.",
            )
        made = Query(name, sql, own=True)
        with self._lock:
            others = [query for query in self._own() if query.name != name]
            if len(others) >= MAX_QUERIES:
                raise invalid(f"{MAX_QUERIES} queries are kept already.", fix="Delete one first.")
            self._write([*others, made])
        return made

    def delete(self, name: str) -> None:
        """Forget one of one's own; no error if there is none."""
        with self._lock:
            own = self._own()
            if len(left := [query for query in own if query.name != name]) < len(own):
                self._write(left)

    def _own(self) -> list[Query]:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            own = [Query(str(one["name"]), str(one["sql"]), own=True) for one in kept]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Kept aside at the next save, so that a file edited by hand is not lost.
            _log.warning("queries_not_read", path=str(self._path), error=type(error).__name__)
            return []
        return sorted(own, key=lambda query: query.name.lower())

    def _write(self, queries: list[Query]) -> None:
        body: list[dict[str, Any]] = [asdict(query) for query in queries]
        made = self._path.with_name(f".{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(body, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            if self._path.exists() and not self._readable():
                self._path.replace(self._path.with_name(f"{self._path.name}.broken"))
            made.replace(self._path)
        except OSError as error:
            made.unlink(missing_ok=True)
            raise WorkbenchError(
                ErrorCode.STORE_UNAVAILABLE,
                f"The query could not be kept in {self._path}: {error.strerror}.",
                fix="Make room, or make the folder of the log writable.",
                operation="save",
            ) from None

    def _readable(self) -> bool:
        try:
            return isinstance(json.loads(self._path.read_text(encoding="utf-8")), list)
        except (OSError, ValueError):
            return False
