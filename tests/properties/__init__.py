"""What must hold whatever comes: values are drawn by hypothesis.

``HYPOTHESIS_PROFILE=long`` (or ``--hypothesis-profile=long``) looks for other examples than the few
that CI sees, see ``tests/conftest.py``.
"""

from __future__ import annotations

from hypothesis import settings


def times(factor: float) -> settings:
    """So many times the examples of the profile: cheap properties can afford more."""
    return settings(max_examples=max(int(factor * settings().max_examples), 1))
