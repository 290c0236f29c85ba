"""A run in one table: a row a cell, every figure with its unit in its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from workbench.analysis.frames import Columns, flag, real, text, typed, whole
from workbench.bench.comparisons import mean_score
from workbench.bench.evidence import CellEvidence, Evidence
from workbench.bench.findings import caveats, findings
from workbench.errors import unwritable
from workbench.metrics import quantile

if TYPE_CHECKING:
    import pandas as pd

SUMMARY: Final[Columns] = {
    "cell": text("what tells it from the others of the run"),
    "model": text("model id"),
    "digest": text("of the weights"),
    "dtype": text("number format of the weights"),
    "quantization": text("how the weights were made smaller"),
    "trials": whole("requests that count"),
    "answered": whole("of these, answered well by the model itself"),
    "ttft_p50_s": real("time to first token"),
    "ttft_p90_s": real("NaN below 64 answers"),
    "ttft_p99_s": real("NaN below 662 answers"),
    "tpot_p50_s": real("time per output token"),
    "tpot_p90_s": real("NaN below 64 answers"),
    "decode_tps_p50": real("output tokens a second after the first"),
    "chars_per_s_p50": real("characters a second, comparable across tokenizers"),
    "e2e_p50_s": real("time of a whole answer"),
    "e2e_p90_s": real("NaN below 64 answers"),
    "e2e_eff_p99_s": real("from the intended start; NaN below 662 answers"),
    "mem_peak_bytes": whole("largest memory of the model's processes"),
    "gpu_peak_bytes": whole("largest GPU memory"),
    "requests_per_s": real(
        "answers a second while it ran, without what failed; NaN where cells took turns"
    ),
    "throughput_tps": real("output tokens a second of all requests together; NaN likewise"),
    "steady_tps": real(
        "the same without the load's filling and draining; NaN where less than an answer is left"
    ),
    "goodput_share": real("requests that kept every SLO, of all issued"),
    "slo_met": flag("whether enough did"),
}
"""Columns of :func:`summary`; each scorer adds ``score_NAME``, ``..._low`` and ``..._high``."""

_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def summary(evidence: Evidence) -> pd.DataFrame:
    """One row a cell, in the order of the spec; what cannot be told is NaN.

    Returns:
        The columns of :data:`SUMMARY` and those of the scorers.
    """
    import pandas as pd

    rows = [_row(evidence, cell) for cell in evidence.cells]
    columns = dict(SUMMARY)
    for scorer in scorers(evidence):
        name = f"score_{scorer}"
        columns[name] = real("mean score")
        columns[f"{name}_low"] = real("lower end of its 95 % interval, clustered by family")
        columns[f"{name}_high"] = real("upper end of its 95 % interval")
    return typed(pd.DataFrame(rows, columns=list(columns)), columns)


def scorers(evidence: Evidence) -> list[str]:
    """The scorers that any cell was scored by."""
    return sorted({str(name) for cell in evidence.cells for name in cell.scores["scorer"]})


def as_values(evidence: Evidence) -> dict[str, Any]:
    """What a run found, as JSON values: sentences, what must be known before, the table."""
    found = summary(evidence)
    return {
        "run_id": evidence.run_id,
        "name": evidence.name,
        "findings": [
            {"sentence": f.sentence, "shown": f.strength == "clear"} for f in findings(evidence)
        ],
        "caveats": [{"text": c.text, "cells": list(c.cells)} for c in caveats(evidence)],
        "cells": found.astype(object).where(found.notna(), None).to_dict("records"),
    }


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, as the path's ending says.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, it cannot be written.
    """
    import duckdb

    try:
        if path.suffix != ".parquet":
            path.write_text(csv(frame), encoding="utf-8")
            return
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            connection.table("frame").write_parquet(str(path))
    except (OSError, duckdb.Error) as error:
        raise unwritable(path, str(error).splitlines()[0]) from None


def csv(frame: pd.DataFrame) -> str:
    """A table as CSV, the same from the command line and the server: truths are ``true``."""
    words = {True: "true", False: "false"}
    truths = {str(name): frame[name].map(words) for name in frame.select_dtypes("boolean")}
    return str(frame.assign(**truths).to_csv(index=False))


def _row(evidence: Evidence, cell: CellEvidence) -> dict[str, Any]:
    good, identity = cell.good, cell.identity()
    row: dict[str, Any] = {
        "cell": evidence.label(cell),
        "model": cell.model,
        **{
            name: ", ".join(map(str, identity[name])) or None
            for name in ("digest", "dtype", "quantization")
        },
        "trials": len(cell.trials),
        "answered": len(good),
        "mem_peak_bytes": good["mem_peak_bytes"].max(),
        "gpu_peak_bytes": good["gpu_peak_bytes"].max(),
        **{
            name: cell.results.get(name)
            for name in (
                "requests_per_s",
                "throughput_tps",
                "steady_tps",
                "goodput_share",
                "slo_met",
            )
        },
    }
    for name in SUMMARY:
        for part, level in _QUANTILES.items():
            if f"_{part}" in name:
                figure = name.replace(f"_{part}", "")
                row[name] = quantile(good[figure].dropna().tolist(), level)
    for scorer in scorers(evidence):
        found = mean_score(cell, scorer)
        if found is not None:
            name = f"score_{scorer}"
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row
