"""Regular expressions of datasets, with a limit on the time that one search may take.

A pattern such as ``^(a|aa)+$`` takes years over a hundred characters that nearly match. Python's
own ``re`` cannot be stopped; the ``regex`` package, which reads the same patterns, can.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from workbench.errors import invalid

if TYPE_CHECKING:
    import regex


def check(pattern: str, whose: str) -> None:
    """Refuse what is no regular expression; ``whose`` stands for its place in the message.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    import regex

    try:
        _compiled(pattern)
    except regex.error as error:
        raise invalid(
            f"The pattern of {whose}, {pattern!r}, is no regular expression: {error}.",
            fix="Correct it; Python's `re` says what is allowed.",
        ) from None


def found(pattern: str, text: str, time_s: float, whose: str) -> bool:
    """Whether the pattern is somewhere in the text.

    Other threads run meanwhile.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: no regular expression, or not done after ``time_s``.
    """
    check(pattern, whose)
    try:
        return _compiled(pattern).search(text, concurrent=True, timeout=time_s) is not None
    except TimeoutError:
        raise invalid(
            f"The pattern of {whose}, {pattern!r}, was not done with an answer of {len(text)} "
            f"characters after {time_s:g} s.",
            fix="Write it without repeats inside of repeats, or raise WORKBENCH_BENCH_REGEX_S.",
        ) from None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> regex.Pattern[str]:
    import regex

    return regex.compile(pattern)
