"""Images beside the message: chosen, counted, taken away again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from workbench import figures
from workbench.types import Image
from workbench.ui import files

if TYPE_CHECKING:
    from workbench.settings import Settings


class Pictures:
    """Builds them at the current place.

    Args:
        settings: how large they may be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.kept = gr.State(())
        """``tuple[Image, ...]``: what goes with the next question."""
        self.handed = files.chooser(
            settings,
            "+ image",
            title="PNG or JPEG, for models that see",
            kinds=("image/png", "image/jpeg"),
            name="image",
            several=True,
        )
        self.drop = gr.Button(
            "no image",
            visible=False,
            size="sm",
            elem_id="drop-images",
            elem_classes=["wb-small"],
            scale=0,
        )
        self.outputs = [self.kept, self.drop]

    def show(self, images: tuple[Image, ...]) -> dict[Any, Any]:
        """What goes with the next question, from now on."""
        size = figures.size(sum(image.size_bytes for image in images))
        words = f"{len(images)} image{'s' if len(images) > 1 else ''}, {size}  ×"
        return {self.kept: images, self.drop: gr.update(value=words, visible=bool(images))}

    def read(self, handed: str) -> list[Image]:
        """Images from what the page's script hands over.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``: too large, or no pictures.
        """
        chosen = files.read(handed, self._settings, otherwise="Take smaller ones or fewer at once")
        return [Image.of(file.content) for file in chosen]
