"""Whether the models of a spec are there and can be loaded as it asks, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from workbench.bench.faults import keyed
from workbench.bench.judging import Named
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


async def check(
    road: Road, spec: Spec, models: Sequence[str], judges: Sequence[Named]
) -> list[str]:
    """Refuse what could only end as a run with models that have no trials, or without its judge.

    A way to load that does not exist is refused, and a model that is not there, unless the spec
    says ``absent_models = "skip"`` and others are. What only a load can tell, and a runtime that
    does not answer now, is no reason: such a model is given up when its turn comes.

    Args:
        road: the way to the models.
        spec: whose.
        models: of its cells.
        judges: of its answers.

    Returns:
        What the run goes on without knowing, or without having, a sentence each.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, ``MODEL_NOT_FOUND`` and the like; its details name the
            key.
    """
    absent: list[tuple[str, WorkbenchError]] = []
    told: list[str] = []
    names = list(dict.fromkeys(models))
    for model in names:
        try:
            await road.check(model)
        except WorkbenchError as error:
            if error.code in _WRONG:
                with keyed(_key(spec, model)):
                    raise
            if error.code in _ABSENT:
                absent.append((_key(spec, model), error))
            told.append(f"{model}: {error}")
    if absent and (spec.absent_models != "skip" or len(absent) == len(names)):
        key, missing = absent[0]
        if len(absent) < len(names):
            missing.fix += ' Or set absent_models = "skip": the others go on without it.'
        with keyed(key):
            raise missing
    for model, key, item in judges:
        try:
            await road.check(model)
        except WorkbenchError as error:
            if item is not None:
                error.details["item"] = item
                error.message = f"The judge of item {item!r}: {error.message}"
            if error.code in (*_WRONG, *_ABSENT) and spec.absent_models != "skip":
                with keyed(key):
                    raise
            told.append(f"judge {model}: {error}")
    return told


def _key(spec: Spec, model: str) -> str:
    names = [use.model for use in spec.uses]
    return f"models.{names.index(model)}" if model in names else "grid.load_options"
