"""The report of :mod:`benchmarks.hf_engine`: summary, targets and Markdown, from its raw record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import (
    Spread,
    Target,
    bandwidth_share,
    differences,
    median,
    ratios,
    spread,
    tail,
)

QUIET_SHARE: Final = 0.05
"""A cell during which others took more of the cores is marked: its figures are not ours alone."""

CLIENT_LAG_SHARE: Final = 0.05
"""Lag p99 of the client's loop over the TTFT median; above it the client may be the bottleneck."""

STOPPED: Final = "stopped at the limit"
Record = Mapping[str, Any]


def per_turn(cells: Iterable[Record], key: str, load: int, figure: str) -> dict[int, float | None]:
    """One figure of one peer at one load, by turn.

    ``ttft_s`` is the median over the streams of the turn, ``gap_ratio`` the p99 of the gaps over
    their median; the others are the cell's own.
    """
    found: dict[int, float | None] = {}
    for cell in cells:
        if cell["key"] != key or cell["load"] != load:
            continue
        figures = cell["figures"]
        if figure == "ttft_s":
            found[cell["turn"]] = median(figures["ttft_s"])
        elif figure == "gap_ratio":
            gaps = tail(figures["gaps_s"])
            known = gaps["p99"] is not None and gaps["p50"]
            found[cell["turn"]] = gaps["p99"] / gaps["p50"] if known else None  # type: ignore[operator]
        else:
            found[cell["turn"]] = figures[figure]
    return found


# -- targets --------------------------------------------------------------------------------------


def targets(record: Record) -> list[dict[str, Any]]:
    """Each target with the values it is judged by, one a turn."""
    cells, variants = record["cells"], [key for key in record["keys"] if key.startswith("e:")]
    if not variants:
        return []
    plain = variants[0]
    int8 = next((key for key in variants if "quantization=int8" in key), "e: (no int8 variant)")

    def ratio(ours: str, theirs: str, load: int, figure: str) -> list[float | None]:
        mine = per_turn(cells, ours, load, figure)
        return ratios(mine, per_turn(cells, theirs, load, figure))

    loads = [
        median(item["load_s"]) for item in record["ours"] if item["key"] == plain if item["load_s"]
    ]
    wanted: list[tuple[Target, str, list[float | None]]] = [
        (Target("1 stream: decode speed over (b)", 1.5), plain, ratio(plain, "b", 1, "decode_tps")),
        (Target("1 stream, int8: over (b)", 2.0), int8, ratio(int8, "b", 1, "decode_tps")),
        (
            Target("1 stream: TTFT less (a)'s", 0.010, at_most=True, unit="s"),
            plain,
            differences(per_turn(cells, plain, 1, "ttft_s"), per_turn(cells, "a", 1, "ttft_s")),
        ),
        (Target("8 streams: throughput over (c)", 1.2), plain, ratio(plain, "c", 8, "whole_tps")),
        (Target("32 streams: throughput over (c)", 1.3), plain, ratio(plain, "c", 32, "whole_tps")),
        (
            Target("32 streams: p99 gap over median gap", 4.0, at_most=True, strict=True),
            plain,
            list(per_turn(cells, plain, 32, "gap_ratio").values()),
        ),
        *(
            (
                Target(f"{load} streams: throughput that the layers cost", 0.02, at_most=True),
                plain,
                [one and 1 - one for one in ratio(plain, "f", load, "whole_tps")],
            )
            for load in (1, 8, 32)
        ),
        (Target("load to ready", 0.5, at_most=True, unit="s"), plain, loads),
        *(
            (
                Target(f"beside (d): speed of {whose} over that alone", 0.55),
                plain,
                [one["shares"][side] for one in record.get("both", [])],
            )
            for side, whose in (("ours", "ours"), ("other", "(d)"))
        ),
    ]
    found = []
    for target, key, values in wanted:
        gate = record["quality"].get(key, {}).get("passed")
        sign = ("<" if target.strict else "<=") if target.at_most else ">="
        found.append(
            {
                "target": f"{target.name} {sign} {target.bound:g} {target.unit}",
                "variant": key.removeprefix("e:"),
                "values": values,
                "verdict": target.verdict(values, gate=gate),
            }
        )
    return found


# -- Markdown -------------------------------------------------------------------------------------


def markdown(record: Record) -> str:
    """The whole report, without its heading."""
    parts = [
        _about(record),
        _speeds(record),
        _ratios(record),
        _ours(record),
        _quality(record),
        _targets(record),
        _troubles(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def append(file: Path, title: str, text: str) -> None:
    """Add a report under a heading of its own; the file is made if it is not there."""
    old = file.read_text() if file.exists() else "# Results\n\nNewest last. Compare ratios only.\n"
    file.write_text(f"{old.rstrip()}\n\n## {title}\n\n{text}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _number(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    if value is None:
        return "-"
    scaled = value * scale
    return f"{scaled:.0f}" if abs(scaled) >= 1000 else f"{scaled:.{digits}g}"


def _over_turns(values: Iterable[float | None], scale: float = 1.0) -> str:
    found = spread([value * scale if value is not None else None for value in values])
    if found is None:
        return "-"
    return found.text() if found.turns > 1 else _number(found.median)


def _tail(samples: Sequence[float], scale: float) -> str:
    """The p99, or the maximum where there are too few samples for one, labelled."""
    found = tail(samples)
    if found["p99"] is not None:
        return f"{_number(found['p99'], scale)} (p99)"
    return f"{_number(found['max'], scale)} (max of {found['n']})" if samples else "-"


def _about(record: Record) -> str:
    machine = record["environment"]
    speeds = [value / 1e9 for value in record["bandwidth_bytes_per_s"]]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    cells = record["cells"]
    others = max((cell["surroundings"]["others_cpu_share"] or 0 for cell in cells), default=0)
    return "\n".join(
        [
            *(f"`{command}`  " for command in record["command"].split("\n")),
            "",
            f"- {machine['cpu']}, {machine['cores']} cores, {machine['ram_bytes'] / 2**30:.0f} GiB;"
            f" {machine['os']}; revision {machine['git_revision']}",
            f"- {packages}",
            f"- memory reads at {_over_turns(speeds)} GB/s with all cores",
            f"- load average before the start {record['load_average_before']:.2f}; others took at "
            f"most {others:.0%} of the cores during a cell; the run took {record['wall_s']:.0f} s",
            f"- {record['tokens']} greedy tokens a stream, {record['turns']} turns, peers in random"
            f" order within each (seed {record['seed']}); figures are medians [range] over turns, "
            "TTFT tails and gaps are pooled over turns",
            *_caveats(record),
        ]
    )


def _caveats(record: Record) -> list[str]:
    found = []
    left = record.get("left_out")
    if left and left["cells"]:
        found.append(
            f"- {left['cells']} of {left['cells'] + len(record['cells'])} cells are left out, in "
            f"which others took more than {left['others_took_more_than']:.0%} of the cores"
        )
    if record.get("pieces", 1) > 1:
        found.append(
            f"- made in {record['pieces']} pieces, one after the other: what is compared was not"
            " always measured in the same minutes"
        )
    return found


def _cells(record: Record, key: str, load: int) -> list[Record]:
    return [cell for cell in record["cells"] if cell["key"] == key and cell["load"] == load]


def _title(record: Record, key: str, load: int) -> str:
    batch = ", static batch" if key == "a" and load > 1 else ""
    return f"({key[0]}) {record['titles'].get(key, key)}{batch}"


def _speeds(record: Record) -> str:
    rows = []
    for load in record["loads"]:
        for key in record["keys"]:
            cells = _cells(record, key, load)
            if not cells:
                continue
            ttft = [value for cell in cells for value in cell["figures"]["ttft_s"]]
            gaps = [value for cell in cells for value in cell["figures"]["gaps_s"]]
            gap = tail(gaps)
            worst, label = (gap["p99"], "p99") if gap["p99"] is not None else (gap["max"], "max")
            ratio = worst / gap["p50"] if worst is not None and gap["p50"] else None
            decode = [cell["figures"]["decode_tps"] for cell in cells]
            share = median(
                [
                    bandwidth_share(
                        cell["figures"]["decode_tps"],
                        record["weight_bytes"].get(key),
                        cell["bandwidth_bytes_per_s"],
                    )
                    for cell in cells
                ]
            )
            memory = [cell["surroundings"]["memory_peak_bytes"] for cell in cells]
            rows.append(
                [
                    _title(record, key, load),
                    str(load),
                    _over_turns(cell["figures"]["whole_tps"] for cell in cells),
                    _over_turns(cell["figures"]["steady_tps"] for cell in cells),
                    _over_turns(decode),
                    _number(median(ttft), 1000),
                    _tail(ttft, 1000),
                    _number(gap["p50"], 1000),
                    f"{_number(ratio)} ({label})" if ratio is not None else "-",
                    _number(median(memory), 1 / 2**20),
                    f"{share:.0%}" if share is not None else "-",
                    _notes(cells),
                ]
            )
    head = [
        "peer",
        "streams",
        "tokens/s, whole",
        "tokens/s, steady",
        "tokens/s of one stream",
        "TTFT p50 ms",
        "TTFT tail ms",
        "gap p50 ms",
        "gap tail / p50",
        "peak PSS MiB",
        "of bandwidth limit",
        "notes",
    ]
    return "### Speeds\n\n" + _table(head, rows)


def _notes(cells: Sequence[Record]) -> str:
    notes = []
    if any(cell["stopped"] for cell in cells):
        notes.append(STOPPED)
    failed = sum(cell["figures"]["failed"] for cell in cells if not cell["stopped"])
    if failed:
        notes.append(f"{failed} streams failed")
    short = sum(cell["figures"]["short"] for cell in cells)
    if short:
        notes.append(f"{short} answers of another length than asked for")
    others = max(cell["surroundings"]["others_cpu_share"] or 0 for cell in cells)
    if others > QUIET_SHARE:
        notes.append(f"not quiet: others took {others:.0%}")
    if any(_client_bound(cell) for cell in cells):
        lag = max(cell["client_lag"]["p99"] or cell["client_lag"]["max"] or 0 for cell in cells)
        notes.append(f"client lag {lag * 1000:.0f} ms")
    return "; ".join(notes)


def _client_bound(cell: Record) -> bool:
    lag = cell["client_lag"]["p99"]
    lag = lag if lag is not None else cell["client_lag"]["max"]
    ttft = median(cell["figures"]["ttft_s"])
    return bool(lag and ttft and lag > CLIENT_LAG_SHARE * ttft)


def _ratios(record: Record) -> str:
    rows = []
    cells = record["cells"]
    measured = [key for key in record["keys"] if any(cell["key"] == key for cell in cells)]
    ours = [key for key in measured if key.startswith("e:")]
    others = [key for key in measured if not key.startswith("e:")]
    for key in ours:
        for load in record["loads"]:
            figures = (
                ("decode_tps", "ttft_s") if load == 1 else ("whole_tps", "steady_tps", "ttft_s")
            )
            for figure in figures:
                mine = per_turn(cells, key, load, figure)
                row = [
                    _over_turns(ratios(mine, per_turn(cells, other, load, figure)))
                    for other in others
                ]
                rows.append([key.removeprefix("e:"), str(load), figure, *row])
    if not rows or not others:
        return ""
    head = ["ours", "streams", "figure", *(f"over ({other})" for other in others)]
    return (
        "### Ratios\n\nOurs over the peer's within each turn; a cell that was stopped at its limit "
        "counts with what it had reached by then.\n\n" + _table(head, rows)
    )


def _ours(record: Record) -> str:
    rows = []
    for key in record["keys"]:
        items = [item for item in record["ours"] if item["key"] == key]
        if not items:
            continue
        name = key.removeprefix("e:")
        loads = [median(item["load_s"]) for item in items]
        cancels = [value for item in items for value in item["cancel_s"]]
        rows.append([name, "load request to ready, s", _over_turns(loads)])
        rows.append([name, "cancel to last event, ms", _tail_and_median(cancels)])
        memory = [item["worker_memory_peak_bytes"] for item in items]
        rows.append([name, "worker's own peak PSS, MiB", _number(median(memory), 1 / 2**20)])
        for load in record["loads"]:
            costs = [item["layers"].get(str(load)) for item in items]
            for figure, label in (
                ("first_token_s", "first token"),
                ("answer_s", "whole answer"),
            ):
                values = [cost[figure] for cost in costs if cost]
                label = f"client less worker, waiting included, {load} streams, {label}, ms"
                rows.append([name, label, _over_turns(values, 1000)])
            delivery = [value for cost in costs if cost for value in cost["delivery_s"]]
            label = f"from the worker's stamp to the client, {load} streams, ms"
            rows.append([name, label, _tail_and_median(delivery)])
    return "### Ours\n\n" + _table(["variant", "figure", "value"], rows) if rows else ""


def _tail_and_median(samples: Sequence[float]) -> str:
    if not samples:
        return "-"
    return f"{_number(median(samples), 1000)}, {_tail(samples, 1000)}"


def _quality(record: Record) -> str:
    quality = record["quality"]
    if not quality:
        return ""
    rows = []
    for key, found in quality.items():
        verdict = {True: "PASS", False: "FAIL", None: "for comparison"}[found.get("passed")]
        if found.get("misses"):
            verdict += ": " + "; ".join(found["misses"])
        for road in ("alone", "together"):
            part = found.get(road)
            if part is None and road == "together":
                continue
            rows.append(
                [
                    key.removeprefix("e:"),
                    road,
                    _number(part and part["prefix_tokens"]),
                    f"{part['equal_share']:.0%}" if part else "-",
                    _number(part and part["perplexity_ratio"]),
                    _number(found.get("logprob_error")) if road == "alone" else "",
                    verdict if road == "alone" else "",
                ]
            )
    head = [
        "variant",
        "asked",
        "common prefix, tokens",
        "equal tokens",
        "perplexity of the answers / float32's own",
        "mean difference of log-probabilities",
        "gate",
    ]
    return (
        "### Quality\n\nGreedy answers against plain float32 transformers, means over prompts;"
        " thresholds are in `benchmarks/quality.py`.\n\n" + _table(head, rows)
    )


def _targets(record: Record) -> str:
    rows = []
    for item in record["targets"]:
        found: Spread | None = spread(item["values"])
        value = found.text() if found else "-"
        rows.append([item["target"], item["variant"], value, item["verdict"]])
    return (
        "### Targets\n\n" + _table(["target", "variant", "measured", "verdict"], rows)
        if rows
        else ""
    )


def _troubles(record: Record) -> str:
    lines = [
        f"- {key} was left out: {first_line(reason)}" for key, reason in record["skipped"].items()
    ]
    for item in record["failures"]:
        where = f"{item['key']} in turn {item['turn']}"
        lines.append(f"- {where} failed: {_quoted(item['error'])}")
    return "### Left out and failed\n\n" + "\n".join(lines) if lines else ""


def first_line(text: str) -> str:
    """What a list has room for."""
    return text.strip().partition("\n")[0]


def _quoted(text: str) -> str:
    return "\n\n```text\n" + text.strip() + "\n```"
