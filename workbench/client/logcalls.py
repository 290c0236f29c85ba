"""The log by plain calls: its rows and rows of one's own, checks, copies, what is deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.client.following import Following
from workbench.jobs import Job
from workbench.types import Message, StreamSession

if TYPE_CHECKING:
    import pandas as pd

    from workbench.store import MemorySample
    from workbench.store.rows import Mode


class LogCalls(Following):
    """The part of :class:`workbench.client.Workbench` that is about the log."""

    def sql(
        self, query: str, params: Mapping[str, Any] | None = None, /, *, limit: int | None = None
    ) -> pd.DataFrame:
        """Rows of the log: one statement that only reads.

        Args:
            query: may name parameters as ``$name``.
            params: their values.
            limit: the most rows wanted.
        """
        return self._transport.sql(query, params, limit)

    def arena_leaderboard(self, *, blind: bool = True) -> pd.DataFrame:
        """Models by the votes over their answers, with 95 % intervals.

        Args:
            blind: only votes that were cast without knowing the models.

        Returns:
            The columns of :data:`workbench.analysis.ARENA_LEADERBOARD`, the best first.
        """
        from workbench.analysis import arena_leaderboard

        return arena_leaderboard(self.sql, blind=blind)

    def tables(self) -> list[dict[str, Any]]:
        """Tables and views of the log with their columns."""
        return self._transport.tables()

    def verify_log(self) -> Mapping[str, Any]:
        """Whether the log is whole.

        Returns:
            ``ok`` and ``checks``, each with ``check``, ``status`` (ok, note, bad), ``message`` and
            ``fix``.
        """
        return self._transport.verify_log()

    def log(self, table: str, *rows: Mapping[str, Any], mode: Mode = "add") -> None:
        """Log rows of your own, scores or votes for example; on return they are on disk.

        Args:
            table: any but those of sessions, for which there is :meth:`log_session`.
            rows: mappings from column to value; columns left out are null.
            mode: what to do about a primary key that exists: ``add`` (an error), ``keep`` the old
                row, or ``replace`` it.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``; none of the rows was logged.
        """
        self._transport.log_rows(table, rows, mode)

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message] = (),
        samples: Sequence[MemorySample] = (),
    ) -> None:
        """Log a finished session that was measured elsewhere; on return it is on disk.

        Args:
            session: the finished record.
            messages: the history that the model was given.
            samples: memory readings taken while it ran.
        """
        self._transport.log_session(session, messages, samples)

    def snapshot(
        self, path: str | Path, *, on_progress: Callable[[Job], None] = lambda job: None
    ) -> Mapping[str, Any]:
        """Copy the log, as it is at this moment, into a new file; logging goes on meanwhile.

        Returns:
            ``path``, ``size_bytes``, ``sessions``.
        """
        return self._keep("snapshot", on_progress, path=str(_absolute(path)))

    def export(
        self, folder: str | Path, *, on_progress: Callable[[Job], None] = lambda job: None
    ) -> Mapping[str, Any]:
        """Write the log as Parquet into a new folder: a folder a table and a month, a manifest.

        Returns:
            What the manifest says (versions, counts, environments), ``path``, ``size_bytes``.
        """
        return self._keep("export", on_progress, path=str(_absolute(folder)))

    def import_export(
        self,
        folder: str | Path,
        name: str,
        *,
        on_progress: Callable[[Job], None] = lambda job: None,
    ) -> Mapping[str, Any]:
        """Make a colleague's export readable beside the log: ``SELECT * FROM name.latencies``.

        It never mixes with one's own tables. Importing again takes the place of what was there.

        Returns:
            ``name``, ``sessions``, ``log_id``, ``environments``.
        """
        return self._keep("import", on_progress, path=str(_absolute(folder)), name=name)

    def prune(
        self,
        older_than: str,
        *,
        keep: Sequence[str] = ("runs", "scored"),
        dry_run: bool = True,
        on_progress: Callable[[Job], None] = lambda job: None,
    ) -> Mapping[str, Any]:
        """Delete old sessions with all that belongs to them.

        Args:
            older_than: ``90d``, ``12w``, ``6m``, ``1y`` or a date.
            keep: what stays whatever its age: ``runs`` (of benchmarks), ``scored``, ``errors``.
            dry_run: False really deletes.
            on_progress: receives the job.

        Returns:
            ``sessions`` and ``rows`` (per table) that go, ``size_bytes`` of the file,
            ``freed_bytes`` by which it is smaller, and ``free_bytes`` inside it, used next.
        """
        return self._keep(
            "prune", on_progress, older_than=older_than, keep=list(keep), dry_run=dry_run
        )

    def share(self, *, on_progress: Callable[[Job], None] = lambda job: None) -> Mapping[str, Any]:
        """Send the sessions that are new here to the log that a team shares.

        On return they are on its disk. Prompts and answers go with them.

        Returns:
            ``url``, ``writer_id``, ``sessions`` that were sent, ``last_seq`` of them.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, ``WORKBENCH_SHARED_LOG`` is not set, or a
                running server shares to another address, by another name or with another key than
                is set here; ``SERVER_UNREACHABLE``, it does not answer: what was not sent is sent
                next time.
        """
        return self._keep("share", on_progress)

    def _keep(
        self, kind: str, on_progress: Callable[[Job], None], **arguments: Any
    ) -> Mapping[str, Any]:
        return self._follow(self._transport.keep(kind, arguments), on_progress)


def _absolute(path: str | Path) -> Path:
    """The path as the server must see it, whose working directory is another one."""
    return Path(path).expanduser().absolute()
