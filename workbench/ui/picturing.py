"""The images of the Compare tab: taken from the page's script, taken away again."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.types import Image
from workbench.ui.desk import QUIET, Desk, Updates, message


class Picturing:
    """Wires them.

    Args:
        desk: the tab's components.
    """

    def __init__(self, desk: Desk) -> None:
        pictures = self._pictures = desk.composer.pictures
        # change: the page's script presses no key, which is what gradio takes for input
        pictures.handed.change(
            self._take,
            [pictures.handed, pictures.kept],
            [pictures.handed, *pictures.outputs],
            **QUIET,
        )
        pictures.drop.click(self._dropped, None, pictures.outputs, **QUIET)

    async def _take(self, handed: str, before: tuple[Image, ...]) -> Updates:
        pictures = self._pictures
        if not handed:
            return {pictures.kept: before}
        try:
            return {pictures.handed: "", **pictures.show((*before, *pictures.read(handed)))}
        except WorkbenchError as problem:
            raise message(problem) from None

    async def _dropped(self) -> Updates:
        return self._pictures.show(())
