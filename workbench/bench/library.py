"""Specs at hand: those that come with the workbench and the user's own; and specs as text.

A spec that came over the network may name datasets of the workbench and files of the folder of own
benchmarks, but no other file of this machine: what is in it would be in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from workbench.bench import datasets, judging, plan, spec
from workbench.bench.faults import placed
from workbench.bench.patterns import Sweep, Trace
from workbench.bench.workload import workloads
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.folders import shipped

if TYPE_CHECKING:
    from workbench.settings import Settings

UPLOADS: Final = (".toml", *datasets.FORMATS)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a spec would run. ``trials`` is None where only the run can tell."""

    spec: spec.Spec
    models: tuple[str, ...]
    """Of its cells, as they are asked for."""
    judges: tuple[judging.Named, ...]
    cells: int
    trials: int | None


def specs(settings: Settings) -> dict[str, Path]:
    """The specs to start from, by a name that says whose they are: shipped first, then own."""
    ours = {path.stem: path for path in _files(shipped("benchmarks/specs"), (".toml",))}
    own = {f"own: {path.stem}": path for path in own_files(settings, (".toml",))}
    return {**ours, **own}


def sources(settings: Settings) -> list[str]:
    """Names of the datasets that a spec may use: ours, and files of the folder."""
    own = [path.name for path in own_files(settings, datasets.FORMATS)]
    return [*datasets.builtin(), *own]


def folder(settings: Settings) -> Path:
    """Where own specs and datasets are; it need not exist."""
    return settings.workbench_benchmarks.expanduser().absolute()


def own_files(settings: Settings, endings: tuple[str, ...]) -> list[Path]:
    """The user's own files with one of these endings, in order of their names."""
    return [*_files(folder(settings), endings)]


def check_files(chosen: spec.Spec, settings: Settings) -> None:
    """See that a spec from outside reads no file but datasets of ours and of the folder.

    Raises:
        WorkbenchError: ``FORBIDDEN_PATH``, it names another.
    """
    named = [use.source for use in chosen.datasets if not use.source.startswith(datasets.BUILTIN)]
    if isinstance(chosen.load, Trace):
        named.append(chosen.load.file)
    inside = folder(settings).resolve()
    for name in named:
        if not (inside / name).resolve().is_relative_to(inside):
            raise WorkbenchError(
                ErrorCode.FORBIDDEN_PATH,
                f"{name} is not in the folder of own benchmarks.",
                fix=f"Put it into {inside} and give its name, or run the spec in a terminal.",
                operation="bench",
            )


def outline(text: str, settings: Settings) -> Outline:
    """Check a spec as a run would, and count what it would do; nothing is run.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; the message names the line. ``FORBIDDEN_PATH``.
    """
    chosen = parse(text, settings)
    with placed("spec", text):
        made = workloads(chosen, settings, folder(settings))
        planned = plan.cells(chosen, "outline", made)
    models = tuple(dict.fromkeys(cell.model for cell in planned))
    judges = tuple(judging.named(chosen, made))
    if isinstance(chosen.load, Sweep):
        return Outline(chosen, models, judges, len(planned), None)
    totals = plan.expected(chosen, planned).values()
    known = [total for total in totals if total is not None]
    trials = sum(known) if len(known) == len(planned) else None
    return Outline(chosen, models, judges, len(planned), trials)


def parse(text: str, settings: Settings) -> spec.Spec:
    """A spec from outside.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; the message names the line. ``FORBIDDEN_PATH``.
    """
    size, most = len(text.encode(errors="replace")), settings.workbench_max_prompt_bytes
    if size > most:
        raise invalid(
            f"This spec has {size:,} bytes, more than {most:,} (WORKBENCH_MAX_PROMPT_BYTES).",
            fix="Run it in a terminal: workbench bench run FILE.",
        )
    chosen = spec.parse(text, "spec")
    check_files(chosen, settings)
    return chosen


def to_toml(values: dict[str, Any]) -> str:
    """Values of a spec (:meth:`workbench.bench.spec.Spec.to_dict`) as the text of its file."""
    import tomlkit

    return tomlkit.dumps({key: value for key, value in values.items() if value not in ({}, [])})


def _files(where: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    if where.is_dir():
        for path in sorted(where.iterdir()):
            if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file():
                yield path
