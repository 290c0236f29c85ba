"""A model in the common list of all providers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model in the common list of all providers.

    ``status`` is ``available`` (on disk), ``loading``, ``resident`` (in memory) or ``unusable``
    (``problem`` says why and how to mend it). ``size_bytes`` is on disk, ``memory_bytes`` measured
    while resident. ``digest`` identifies the weights; one that begins with ``sample-sha256:`` is
    of samples of them.
    """

    id: str
    name: str
    provider: str
    status: Literal["available", "loading", "resident", "unusable"] = "available"
    size_bytes: int | None = None
    memory_bytes: int | None = None
    task: str = "text-generation"
    format: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    chat_template: bool | None = None
    digest: str | None = None
    loaded_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None
    problem: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_images(self) -> bool:
        """Whether a message to it may have images, as its runtime says."""
        return "vision" in (self.details.get("capabilities") or ())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = asdict(self)
        for name in ("loaded_at", "last_used_at"):
            values[name] = values[name].isoformat() if values[name] else None
        return values
