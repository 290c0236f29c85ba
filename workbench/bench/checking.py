"""Whether the models of a spec are there and can be loaded as it asks, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from workbench.bench.faults import keyed
from workbench.bench.plan import Cell
from workbench.bench.road import Road
from workbench.bench.spec import Spec
from workbench.errors import ErrorCode, WorkbenchError

_WRONG: Final = (ErrorCode.INVALID_REQUEST, ErrorCode.HF_INVALID_CONFIG)
_ABSENT: Final = (
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.MODEL_AMBIGUOUS,
    ErrorCode.HF_MODEL_NOT_FOUND,
    ErrorCode.OLLAMA_MODEL_NOT_FOUND,
    ErrorCode.ENDPOINT_MODEL_NOT_FOUND,
)


async def check(road: Road, spec: Spec, cells: Sequence[Cell]) -> None:
    """Refuse what could only end as a run without trials.

    A way to load that does not exist is refused, and models of which none is there. One that is
    missing beside others is given up when its turn comes: the others go on. So is what only a
    load can tell, and a runtime that does not answer now.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` and the like; its details name the key.
    """
    absent: list[tuple[str, WorkbenchError]] = []
    models = list(dict.fromkeys(cell.model for cell in cells))
    for model in models:
        try:
            await road.check(model)
        except WorkbenchError as error:
            if error.code in _WRONG:
                with keyed(_key(spec, model)):
                    raise
            if error.code in _ABSENT:
                absent.append((_key(spec, model), error))
    if absent and len(absent) == len(models):
        key, missing = absent[0]
        with keyed(key):
            raise missing


def _key(spec: Spec, model: str) -> str:
    names = [use.model for use in spec.uses]
    return f"models.{names.index(model)}" if model in names else "grid.load_options"
