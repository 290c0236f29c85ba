"""Keeping the log: snapshots, exports, imports and pruning, as jobs."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from workbench.errors import invalid
from workbench.jobs import Job, JobRegistry, Reporter, Work
from workbench.settings import Settings
from workbench.sharing import SharedLog
from workbench.store import Store

Kind = Literal["snapshot", "export", "import", "prune", "share"]
_KEPT: Final = ("runs", "scored")


class LogKeeper:
    """What is done with a whole log while it is open.

    Args:
        store: the open log.
        jobs: runs the work.
        settings: where the shared log is.
    """

    def __init__(self, store: Store, jobs: JobRegistry, settings: Settings) -> None:
        self._store = store
        self._jobs = jobs
        self._settings = settings

    def begin(self, kind: str, arguments: Mapping[str, Any]) -> Job:
        """Begin one.

        Args:
            kind: ``snapshot`` (``path``), ``export`` (``path``), ``import`` (``path``, ``name``),
                ``prune`` (``older_than``, ``keep``, ``dry_run``), or ``share``.
            arguments: by the names in brackets.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``; what goes wrong later is the job's error.
        """
        try:
            work, what = self._work(kind, dict(arguments))
        except (KeyError, TypeError) as error:
            raise invalid(
                f"The arguments of {kind} are wrong: {error}.",
                fix="snapshot and export take path, import path and name, prune older_than, keep "
                "and dry_run, share none.",
            ) from None
        return self._jobs.submit(kind, what, work)

    def _work(self, kind: str, given: dict[str, Any]) -> tuple[Work, str]:
        if kind == "prune":
            return self._prune(**given)
        if kind == "share":
            shared = SharedLog(self._store, self._settings)
            return shared.push, shared.url
        path = Path(given["path"])
        if kind == "import":
            return self._import(path, given["name"])
        if kind not in ("snapshot", "export"):
            raise invalid(
                f"{kind} is nothing that can be done with a log.",
                fix="Choose snapshot, export, import, prune or share.",
            )
        make = self._store.snapshot if kind == "snapshot" else self._store.export

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            return make(path, report, cancelled)

        return work, str(path)

    def _import(self, path: Path, name: str) -> tuple[Work, str]:
        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            return self._store.import_export(path, name, report, cancelled)

        return work, name

    def _prune(
        self, older_than: str, keep: Sequence[str] = _KEPT, dry_run: bool = True
    ) -> tuple[Work, str]:
        from workbench.store.retention import cutoff

        before = cutoff(older_than, dt.datetime.now(dt.UTC))

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            return self._store.prune(before, keep, dry_run=dry_run)

        return work, f"{older_than}{' (only counted)' if dry_run else ''}"
