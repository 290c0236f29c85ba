"""What is known of a model's life in this process."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(slots=True)
class ModelMetadata:
    """What is known of one model's life in this process; times in seconds, sizes in bytes.

    ``memory_usage`` is the measured PSS of its worker. ``average_response_time`` is over all
    answers that ended well, None before the first.
    """

    name: str
    is_loaded: bool = False
    loaded_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None
    memory_usage: int | None = None
    request_count: int = 0
    answer_count: int = 0
    error_count: int = 0
    average_response_time: float | None = None
    load_count: int = 0
    last_load_s: float | None = None

    def record_request(self) -> None:
        """Count a request that begins."""
        self.request_count += 1
        self.last_used_at = dt.datetime.now(dt.UTC)

    def record_answer(self, seconds: float) -> None:
        """Count an answer that ended well."""
        self.answer_count += 1
        mean = self.average_response_time or 0.0
        self.average_response_time = mean + (seconds - mean) / self.answer_count


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What is in memory now."""

    loaded: tuple[str, ...]
    loading: tuple[str, ...]
    max_cached_models: int
    memory_usage: int
