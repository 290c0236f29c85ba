"""One record from runs of a few cells each, for machines that are never quiet for an hour.

A piece's turns are numbered on from those that are there, by peer and load, so that the first
answers of two peers are compared with each other. They were then not measured one right after the
other, which the report says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Record = Mapping[str, Any]
_SAME: Final = ("cpu", "cores", "ram_bytes", "packages")
"""Of the environment: what must not differ between pieces."""


class Differs(Exception):
    """The pieces cannot be compared; the text says what differs."""


def merged(old: Record, new: Record) -> dict[str, Any]:
    """Both records as one; its ``targets`` are to be computed again.

    Raises:
        Differs: if they are of different machines, packages or lengths of answers.
    """
    for name in _SAME:
        if old["environment"][name] != new["environment"][name]:
            raise Differs(f"{name} of the environment")
    if old["tokens"] != new["tokens"]:
        raise Differs("the number of tokens")
    cells = [*old["cells"]]
    for cell in new["cells"]:
        cells.append({**cell, "turn": _next(cells, key=cell["key"], load=cell["load"])})
    ours = [*old["ours"]]
    for item in new["ours"]:
        ours.append({**item, "turn": _next(ours, key=item["key"])})
    both = [*old.get("both", ())]
    for item in new.get("both", ()):
        both.append({**item, "turn": _next(both)})
    measured = {cell["key"] for cell in cells}
    skipped = {**old["skipped"], **new["skipped"]}
    environments = (old["environment"], new["environment"])
    revisions = dict.fromkeys(
        revision for one in environments for revision in str(one["git_revision"]).split(", ")
    )
    return {
        **old,
        "command": "\n".join(dict.fromkeys([*old["command"].split("\n"), new["command"]])),
        "environment": {**new["environment"], "git_revision": ", ".join(revisions)},
        "load_average_before": max(old["load_average_before"], new["load_average_before"]),
        "pieces": old.get("pieces", 1) + new.get("pieces", 1),
        "keys": sorted({*old["keys"], *new["keys"]}),
        "loads": sorted({*old["loads"], *new["loads"]}),
        "turns": max((cell["turn"] for cell in cells), default=0),
        "wall_s": old["wall_s"] + new["wall_s"],
        "titles": {**old["titles"], **new["titles"]},
        "bandwidth_bytes_per_s": [*old["bandwidth_bytes_per_s"], *new["bandwidth_bytes_per_s"]],
        "weight_bytes": {**old["weight_bytes"], **new["weight_bytes"]},
        "cells": cells,
        "ours": ours,
        "both": both,
        "quality": {**old["quality"], **new["quality"]},
        "skipped": {key: why for key, why in skipped.items() if key not in measured},
        "failures": [*old["failures"], *new["failures"]],
    }


def quiet(record: Record, most_share: float) -> dict[str, Any]:
    """Without the cells during which others took more than this share of the cores.

    Turns are counted again, by peer and load. How many were left out is in ``left_out``.
    """
    cells: list[dict[str, Any]] = []
    for cell in record["cells"]:
        if (cell["surroundings"]["others_cpu_share"] or 0.0) <= most_share:
            cells.append({**cell, "turn": _next(cells, key=cell["key"], load=cell["load"])})
    left_out = len(record["cells"]) - len(cells)
    return {
        **record,
        "cells": cells,
        "left_out": {"cells": left_out, "others_took_more_than": most_share},
        "turns": max((cell["turn"] for cell in cells), default=0),
    }


def _next(there: list[dict[str, Any]], **same: Any) -> int:
    """The turn after those of the items that are like this."""
    turns = [
        item["turn"] for item in there if all(item[name] == value for name, value in same.items())
    ]
    return max(turns, default=0) + 1
