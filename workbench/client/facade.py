"""``Workbench``: what notebooks and scripts call."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from workbench.settings import load_settings

if TYPE_CHECKING:
    from workbench.bench.progress import Outcome, Progress
    from workbench.bench.spec import Spec

from workbench.client.answercalls import AnswerCalls
from workbench.client.insightcalls import InsightCalls
from workbench.client.logcalls import LogCalls
from workbench.client.modelcalls import ModelCalls
from workbench.client.remote import Remote
from workbench.client.transport import connect


class Workbench(ModelCalls, AnswerCalls, InsightCalls, LogCalls):
    """Models, streams, comparisons and the log, as plain function calls.

    Args:
        remote: True insists on a running server, False on an engine in this process; None takes
            a server if there is one.
        source: what the log says of where loads and downloads came from.
        settings: overrides of the environment by field name, for example
            ``workbench_db="experiment.duckdb"``.

    Raises:
        WorkbenchError: a bad setting, or a log that cannot be opened.
    """

    def __init__(
        self, *, remote: bool | None = None, source: str = "python", **settings: object
    ) -> None:
        self.settings = load_settings(**settings)
        self._transport = connect(self.settings, remote, source)
        # A notebook seldom closes anything: models and log must be released all the same.
        self._finalizer = weakref.finalize(self, self._transport.close)
        # atexit would be too late: closing needs threads, and by then none can be started.
        threading._register_atexit(self._finalizer)  # type: ignore[attr-defined]

    # -- benchmarks

    def bench(
        self,
        spec: Spec | Mapping[str, Any] | str | Path,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Outcome:
        """Run a benchmark; all it finds is in the log under the run's id.

        Interrupting stops it: :meth:`resume_bench` goes on where it was.

        Args:
            spec: a TOML file, or what one would say as a mapping.
            on_progress: receives the progress several times a second.

        Returns:
            Figures by cell, whether the SLO was kept, ``run_id``.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for a spec, dataset or scorer that is wrong; a model
                that fails is no error but in ``failed``.
        """
        from workbench.client import benchmarks

        return benchmarks.run(self._transport, self.settings, spec, on_progress)

    def resume_bench(
        self, run: str, *, on_progress: Callable[[Progress], None] = lambda progress: None
    ) -> Outcome:
        """Go on with a run that was stopped or killed, at the trial where it was.

        Args:
            run: its id or the beginning of it, the name of its spec, or ``last``.
            on_progress: as for :meth:`bench`.
        """
        from workbench.client import benchmarks

        return benchmarks.resume(self._transport, self.settings, run, on_progress)

    # -- life

    @property
    def remote(self) -> bool:
        """Whether a server does the work."""
        return isinstance(self._transport, Remote)

    def close(self) -> None:
        """Release models and log; harmless if repeated."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "server" if self.remote else "in this process"
        return f"<Workbench {where}, log {self.settings.workbench_db}>"
