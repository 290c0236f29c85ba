"""The page says what is wrong with the log, or was."""

from __future__ import annotations

from types import SimpleNamespace

from workbench.errors import ErrorCode, WorkbenchError
from workbench.ui.header import banner
from workbench.ui.memory import holders

FULL = WorkbenchError(ErrorCode.DISK_FULL, "No space left.", fix="Free some.")
MENDED = WorkbenchError(ErrorCode.STORE_DAMAGED, "The file was damaged.", fix="It is in /x.")


def test_the_banner_names_what_is_wrong_now_else_what_was_mended() -> None:
    def shown(problem: WorkbenchError | None, *repairs: WorkbenchError) -> str:
        return banner(SimpleNamespace(last_error=problem, repairs=list(repairs)))  # type: ignore[arg-type]

    assert shown(None) == ""
    assert "Free some." in shown(FULL, MENDED)
    assert "It is in /x." in shown(None, MENDED)


def test_what_a_server_elsewhere_keeps_is_not_in_memory_here() -> None:
    def shown(held: int) -> list[tuple[str, float | None]]:
        stays = {"status": "idle", "pinned": False, "expires_in_s": 60.0}
        there = [SimpleNamespace(model=name, **stays) for name in ("team/a", "ollama/b")]
        providers = {"team": SimpleNamespace(loads=False), "ollama": SimpleNamespace(loads=True)}
        book = SimpleNamespace(
            held=lambda: {"team/a": {"host": held}} if held else {},
            others={},
            shared=lambda model: frozenset({model}),
            expectation=lambda model: None,
        )
        engine = SimpleNamespace(
            book=book,
            router=SimpleNamespace(providers=providers),
            overview=lambda: SimpleNamespace(residents=there),
        )
        found = holders(engine)  # type: ignore[arg-type]
        return [(one.model, one.expires_in_s) for one in found]

    assert shown(0) == [("ollama/b", 60.0)]
    assert shown(5) == [("team/a", None), ("ollama/b", 60.0)], "measured here, unloaded there"
