"""What the doctor says of one part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part: ``ok``, ``note`` (works without it) or ``bad``."""

    part: str
    status: State
    message: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
