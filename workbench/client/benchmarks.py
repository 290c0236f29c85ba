"""Runs a spec over a transport: a thread looks on, the runner has the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bench import spec as specs
from workbench.bench.faults import placed
from workbench.bench.progress import Outcome, Progress
from workbench.bench.road import Road
from workbench.bench.runner import Runner
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.client.transport import Transport

Show = Callable[[Progress], None]


def run(
    transport: Transport,
    settings: Settings,
    spec: specs.Spec | Mapping[str, Any] | str | Path,
    show: Show,
) -> Outcome:
    """See :meth:`workbench.client.facade.Workbench.bench`."""
    folder: Path | None = None
    name, text = "spec", ""
    if isinstance(spec, str | Path):
        path = Path(spec).expanduser()
        folder, chosen = path.absolute().parent, specs.read(path)
        name, text = str(path), path.read_text(encoding="utf-8")
    else:
        chosen = spec if isinstance(spec, specs.Spec) else specs.Spec.of(spec)
    shown = _Shown(show)

    async def work(road: Road) -> Outcome:
        return await Runner(road, settings, chosen, folder=folder, on_start=shown.start).run()

    with placed(name, text):
        return transport.drive(work, shown.look)


def resume(transport: Transport, settings: Settings, name: str, show: Show) -> Outcome:
    """See :meth:`workbench.client.facade.Workbench.resume_bench`."""
    shown = _Shown(show)

    async def work(road: Road) -> Outcome:
        return await (await Runner.resume(road, settings, name, on_start=shown.start)).run()

    return transport.drive(work, shown.look)


class _Shown:
    """Passes on the progress of a run once there is one."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._progress: Progress | None = None

    def start(self, progress: Progress) -> None:
        self._progress = progress

    def look(self) -> None:
        if self._progress is not None:
            self._show(self._progress)
