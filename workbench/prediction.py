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
_LONG_TOKENS: Final = 1024
"""From so many tokens on, what an answer took beyond its model is put down to them."""
_STEEPEST: Final = 2.0
"""How often the keys and values of a token it is believed to take: some work grows with them."""


@dataclass(frozen=True, slots=True)
class Load:
    """One stay in memory as it was: what had been predicted of it and what it took.

    ``loading`` is the peak of the load alone, ``settled`` the least that was held after it,
    ``answering`` the most, when the requests had up to ``tokens`` of context together.
    ``predicted`` is for that many. ``variant`` and ``num_ctx`` say of what kind it was; only loads
    of the same kind tell of it.
    """

    loading: DeviceBytes
    settled: DeviceBytes
    answering: DeviceBytes
    predicted: DeviceBytes
    source: str
    variant: str = ""
    num_ctx: int | None = None
    tokens: int = 0

    @property
    def peak(self) -> DeviceBytes:
        """The most that it held from the beginning of its load."""
        return _largest([self.loading, self.answering])

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
            "loading_bytes": dict(self.loading),
            "settled_bytes": dict(self.settled),
            "answering_bytes": dict(self.answering),
            "context_tokens": self.tokens,
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

        def sizes(key: str) -> DeviceBytes:
            return {str(name): int(size) for name, size in values[key].items()}

        return cls(
            loading=sizes("loading_bytes"),
            settled=sizes("settled_bytes"),
            answering=sizes("answering_bytes"),
            predicted=sizes("predicted_bytes"),
            source=str(values["source"]),
            variant=str(values.get("variant", "")),
            num_ctx=values.get("num_ctx"),
            tokens=int(values["context_tokens"]),
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

    What requests add is told apart from what the model holds without them, so that a stay with
    many long ones says nothing against a short one: see :func:`_line`.

    Args:
        files: of the model, None if unknown.
        loads: all that is remembered of it, the newest last.
        num_ctx: context length that a load is to have, where it depends on it.
    """
    variant = files.variant if files is not None else ""
    alike = [load for load in loads if load.num_ctx == num_ctx]
    same = [load for load in alike if load.variant == variant]
    if files is None and not same:
        return Prediction({}, {}, "files", 0, _mean(_errors(loads, "files")))
    context = files.context if files is not None else None
    of_token = files.token_bytes if files is not None else {}
    if alike:
        answering, of_token = _line(alike[-_LOOKED_AT:], of_token)
    else:
        assert files is not None
        answering = files.answering_bytes
    if same:
        peak = _largest([answering, *(load.loading for load in same[-_LOOKED_AT:])])
        error = _mean(_errors(same, "loads"))
        return Prediction(peak, answering, "loads", len(same), error, of_token, context)
    assert files is not None
    peak = _largest([answering, files.peak_bytes])
    return Prediction(
        peak, answering, "files", 0, _mean(_errors(loads, "files")), of_token, context
    )


def _line(loads: Sequence[Load], of_token: DeviceBytes) -> tuple[DeviceBytes, DeviceBytes]:
    """What a model holds without requests, and what each of their tokens adds.

    Answers take more than their keys and values. In a long one that is put down to its tokens, as
    far as that is credible; all the rest is there however short an answer is.
    """
    bases, slopes = [], [of_token]
    for load in loads:
        more = {d: n - load.settled.get(d, 0) for d, n in load.answering.items()}
        slope = dict(of_token)
        if load.tokens >= _LONG_TOKENS:
            for device, known in of_token.items():
                measured = more.get(device, 0) // load.tokens
                slope[device] = min(max(measured, known), int(_STEEPEST * known))
        slopes.append(slope)
        bases.append(
            {
                d: max(n - slope.get(d, 0) * load.tokens, load.settled.get(d, 0))
                for d, n in load.answering.items()
            }
        )
    return _largest(bases), _largest(slopes)


def _errors(loads: Sequence[Load], source: str) -> list[float | None]:
    return [load.error_share for load in loads if load.source == source]


def _kind(load: Load) -> tuple[str, int | None]:
    return load.variant, load.num_ctx


def _largest(several: Sequence[DeviceBytes]) -> DeviceBytes:
    names = {name for one in several for name in one}
    return {name: max(one.get(name, 0) for one in several) for name in sorted(names)}


def _mean(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None][-_LOOKED_AT:]
    return sum(known) / len(known) if known else None
