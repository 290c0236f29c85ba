"""The page says what is wrong with the log, or was."""

from __future__ import annotations

from types import SimpleNamespace

from workbench.errors import ErrorCode, WorkbenchError
from workbench.ui.header import banner

FULL = WorkbenchError(ErrorCode.DISK_FULL, "No space left.", fix="Free some.")
MENDED = WorkbenchError(ErrorCode.STORE_DAMAGED, "The file was damaged.", fix="It is in /x.")


def test_the_banner_names_what_is_wrong_now_else_what_was_mended() -> None:
    def shown(problem: WorkbenchError | None, *repairs: WorkbenchError) -> str:
        return banner(SimpleNamespace(last_error=problem, repairs=list(repairs)))  # type: ignore[arg-type]

    assert shown(None) == ""
    assert "Free some." in shown(FULL, MENDED)
    assert "It is in /x." in shown(None, MENDED)
