"""Which cells kept the SLO, and where a sweep has its knee, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from workbench import figures
from workbench.bench.evidence import CellEvidence, Evidence, short
from workbench.bench.load.knee import knee

_NAMES: Final = {
    "ttft_s": "TTFT",
    "ttfo_s": "time to the first token of the answer",
    "tpot_s": "time per token",
    "itl_p50_s": "median time between tokens",
    "e2e_s": "time of the answer",
    "e2e_eff_s": "time from the intended start",
    "queue_s": "time in the queue",
}


def kept(evidence: Evidence) -> list[str]:
    """A sentence for each sweep, or one for all cells; none without an SLO."""
    slo = evidence.spec.get("slo")
    judged = [cell for cell in evidence.cells if cell.results.get("goodput_share") is not None]
    if not slo or not judged:
        return []
    bounds = " and ".join(
        f"{name} ≤ {figures.seconds(slo[key])}" for key, name in _NAMES.items() if slo.get(key)
    )
    wanted = f"{bounds} for {float(slo.get('share', 0.95)):.0%} of all requests"
    if evidence.spec.get("load", {}).get("pattern") == "sweep":
        return [*_knees(evidence, judged, wanted), *_refused(judged)]
    missed = [
        f"{evidence.label(cell)} ({cell.results['goodput_share']:.0%})"
        for cell in judged
        if not cell.results["slo_met"]
    ]
    if not missed:
        who = "the only cell" if len(judged) == 1 else f"all {len(judged)} cells"
        so_far = (
            " so far, in a run that was stopped" if evidence.run["status"] == "cancelled" else ""
        )
        return [f"SLO kept by {who}{so_far}: {wanted}."]
    said = f"SLO missed by {', '.join(missed)}, of {len(judged)} cells: {wanted}."
    return [said, *_refused(judged)]


def _refused(judged: list[CellEvidence]) -> Iterator[str]:
    """What a limit of ours refused is no miss of the model's."""
    counts = [(int(cell.trials["refused"].sum()), len(cell.trials)) for cell in judged]
    refused, of = (sum(numbers) for numbers in zip(*counts, strict=True))
    if refused:
        yield (
            f"{refused} of {of} requests never reached a model: a limit of the workbench refused "
            "them. The SLO counts them as missed; they say nothing of the model."
        )


def _knees(evidence: Evidence, judged: list[CellEvidence], wanted: str) -> Iterator[str]:
    several = len({cell.workload.get("name") for cell in judged}) > 1
    of = str(evidence.spec["load"].get("of", "users"))
    sweeps: dict[tuple[str, str, str], dict[float, CellEvidence]] = {}
    for cell in judged:
        key = (cell.contender, cell.key[0], str(cell.workload.get("name", "")))
        sweeps.setdefault(key, {})[float(cell.load[of])] = cell
    for (_, _, workload), points in sweeps.items():
        tried = {point: bool(cell.results["slo_met"]) for point, cell in points.items()}
        found = knee(tried)
        over = min((point for point, met in tried.items() if not met), default=None)
        name = short(next(iter(points.values())).model) + (f", {workload}" if several else "")
        if found is None and over is not None:
            few = _only(points[over].results, over, of)
            yield f"{name} keeps the SLO at no load; {few}: {wanted}."
        elif over is None:
            yield f"{name} keeps the SLO up to {_load(found, of)}, the most tried: {wanted}."
        else:
            yield (
                f"{name} keeps the SLO up to {_load(found, of)}; "
                f"{_only(points[over].results, over, of)}: {wanted}."
            )


def _only(results: Mapping[str, Any], point: float, of: str) -> str:
    return f"with {_load(point, of)} only {results['goodput_share']:.0%} of requests do"


def _load(point: float | None, of: str) -> str:
    if of == "users":
        return f"{point:g} {'user' if point == 1 else 'users'} at once"
    return f"{point:g} requests a second"
