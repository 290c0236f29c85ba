"""What a model will hold, from its files and from what its loads took. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from workbench.budget import DeviceBytes, Prediction
from workbench.providers.base import Footprint

_REMEMBERED: Final = 8
"""Loads of one kind that are kept."""
_LOOKED_AT: Final = 3
"""The last so many loads give the prediction, and the last so many errors its error."""


@dataclass(frozen=True, slots=True)
class Load:
    """One load as it was: what had been predicted of it and what it took.

    ``variant`` and ``num_ctx`` say of what kind it was; only loads of the same kind tell of it.
    """

    peak: DeviceBytes
    answering: DeviceBytes
    predicted: DeviceBytes
    source: str
    variant: str = ""
    num_ctx: int | None = None

    @property
    def error_share(self) -> float | None:
        """How far the prediction was off, relative to what was measured, over all devices."""
        if not self.predicted:
            return None
        return error_share(self.predicted, self.peak)

    def to_dict(self) -> dict[str, Any]:
        """As logged in ``details.memory`` of ``model_events``."""
        return {
            "predicted_bytes": dict(self.predicted),
            "peak_bytes": dict(self.peak),
            "answering_bytes": dict(self.answering),
            "source": self.source,
            "variant": self.variant,
            "num_ctx": self.num_ctx,
            "error_share": self.error_share,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        return cls(
            peak={str(name): int(size) for name, size in values["peak_bytes"].items()},
            answering={str(name): int(size) for name, size in values["answering_bytes"].items()},
            predicted={str(name): int(size) for name, size in values["predicted_bytes"].items()},
            source=str(values["source"]),
            variant=str(values.get("variant", "")),
            num_ctx=values.get("num_ctx"),
        )


def error_share(predicted: DeviceBytes, measured: DeviceBytes) -> float | None:
    """Sum of the devices' absolute errors over the sum of what was measured; None without that."""
    total = sum(measured.values())
    if not total:
        return None
    off = sum(abs(predicted.get(d, 0) - measured.get(d, 0)) for d in {*predicted, *measured})
    return off / total


def keep(loads: Sequence[Load], new: Load) -> list[Load]:
    """The remembered loads of a model with one more, the newest last."""
    same = [load for load in loads if _kind(load) == _kind(new)]
    others = [load for load in loads if _kind(load) != _kind(new)]
    return [*others, *same[-(_REMEMBERED - 1) :], new]


def predict(files: Footprint | None, loads: Sequence[Load], num_ctx: int | None) -> Prediction:
    """The largest of the last loads of the same kind; without one, what the files say.

    Args:
        files: of the model, None if unknown.
        loads: all that is remembered of it, the newest last.
        num_ctx: context length that a load is to have, where it depends on it.
    """
    variant = files.variant if files is not None else ""
    same = [load for load in loads if (load.variant, load.num_ctx) == (variant, num_ctx)]
    recent = same[-_LOOKED_AT:]
    if recent:
        errors = [load.error_share for load in same if load.source == "loads"]
        return Prediction(
            bytes=_largest([load.peak for load in recent]),
            answering=_largest([load.answering for load in recent]),
            source="loads",
            loads=len(same),
            error_share=_mean(errors),
        )
    errors = [load.error_share for load in loads if load.source == "files"]
    if files is None:
        return Prediction({}, {}, "files", 0, _mean(errors))
    return Prediction(files.peak_bytes, files.answering_bytes, "files", 0, _mean(errors))


def _kind(load: Load) -> tuple[str, int | None]:
    return load.variant, load.num_ctx


def _largest(several: Sequence[DeviceBytes]) -> DeviceBytes:
    names = {name for one in several for name in one}
    return {name: max(one.get(name, 0) for one in several) for name in sorted(names)}


def _mean(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None][-_LOOKED_AT:]
    return sum(known) / len(known) if known else None
