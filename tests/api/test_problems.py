"""What is wrong with a body is said with a fix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from workbench.api.calls import Generate
from workbench.api.problems import wrong_field


@pytest.mark.parametrize(
    ("changes", "message", "fix"),
    [
        ({"priority": "urgent"}, "priority: Input should be", "Use 'interactive' or 'benchmark'."),
        ({"mesage": "Hi"}, "mesage: Extra inputs", "See GET /api/docs."),
        ({"message": 3}, "message: Input should be a valid string", "See GET /api/docs."),
    ],
)
def test_a_wrong_field_has_a_fix(changes: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(ValidationError) as found:
        Generate.model_validate({"model": "a/b", "message": "Hi", **changes})
    told = wrong_field(found.value.errors()[0])
    assert told.message.startswith(message)
    assert told.fix == fix
    assert told.details["option"] in told.message
