"""What limits decoding: the memory bandwidth and the arithmetic of this machine, measured here.

Every token of a lone stream makes a runtime read all weights once, so tokens per second are at most
bandwidth over bytes of weights (Williams et al., *Roofline*, CACM 52(4), 2009, for one point of
the roof); two operations a weight are the work of a token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from workbench.types import ModelInfo

_BUFFER_BYTES: Final = 2**28
"""Several times the last-level cache of most machines, and still quickly made."""
_PASSES: Final = 5
_SIDE: Final = 1_024
_WIDTHS: Final[Mapping[str, float]] = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "int8": 1.0,
    "int4": 0.5,
}


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Of all cores together: bytes read per second, float32 operations per second."""

    bytes_per_s: float
    flops: float


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the limits a model's decoding uses.

    Attributes:
        model: model id.
        weight_bytes: read for each token, about.
        decode_tps: tokens per second, as measured.
        bandwidth: share of the memory bandwidth; above 1 where caches hold part of the weights.
        compute: share of the float32 arithmetic; narrower types may do more.
    """

    model: str
    weight_bytes: float
    decode_tps: float
    bandwidth: float
    compute: float | None

    @property
    def says(self) -> str:
        """What limits it, in a sentence."""
        if self.bandwidth >= 0.6:
            return f"limited by memory: {self.bandwidth:.0%} of the bandwidth is in use"
        if self.compute is not None and self.compute >= 0.6:
            return f"limited by arithmetic: {self.compute:.0%} of it is in use"
        return (
            f"neither memory ({self.bandwidth:.0%}) nor arithmetic is used up: overheads, waiting "
            "threads or other programs limit it"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "says": self.says}


def measure() -> MachineLimits:
    """Measure both limits with all cores; takes about a second of a quiet machine.

    The best of several passes counts: what others disturb is no limit of the machine.
    """
    import numpy as np

    cores = os.cpu_count() or 1
    parts = np.array_split(np.ones(_BUFFER_BYTES // 4, dtype=np.float32), cores)
    matrix = np.ones((_SIDE, _SIDE), dtype=np.float32)
    with ThreadPoolExecutor(cores) as pool:

        def read() -> None:
            list(pool.map(np.sum, parts))

        reading = min(_timed(read) for _ in range(_PASSES))
        working = min(_timed(lambda: matrix @ matrix) for _ in range(_PASSES))
    return MachineLimits(_BUFFER_BYTES / reading, 2 * _SIDE**3 / working)


def share_of(limits: MachineLimits, info: ModelInfo, decode_tps: float) -> Share | None:
    """How much of the limits a model uses; None where the size of its weights is unknown.

    Args:
        limits: of this machine.
        info: of the model, as it is in memory.
        decode_tps: tokens per second of a lone stream.
    """
    weights = weight_bytes(info)
    if not weights:
        return None
    compute = 2 * info.parameters * decode_tps / limits.flops if info.parameters else None
    return Share(info.id, weights, decode_tps, weights * decode_tps / limits.bytes_per_s, compute)


def weight_bytes(info: ModelInfo) -> float | None:
    """Bytes of weights that a token makes the runtime read, about: keys and values left out."""
    width = _WIDTHS.get(info.dtype or "")
    if info.parameters and width and info.provider == "huggingface":
        return info.parameters * width
    return info.size_bytes


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
