"""Images beside the message: chosen, counted, taken away again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench import figures
from workbench.errors import invalid
from workbench.types import Image
from workbench.ui import files


class Pictures:
    """Builds them at the current place."""

    def __init__(self) -> None:
        self.kept = gr.State(())
        """``tuple[Image, ...]``: what goes with the next question."""
        self.handed = files.chooser(
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


def read(handed: str) -> list[Image]:
    """Images from what the page's script hands over: a list of files in base64, as JSON.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, something else, or no pictures.
    """
    try:
        return [Image.of(file.content) for file in files.read(handed)]
    except ValueError:
        raise invalid(
            "These files cannot be shown to a model.",
            fix=f"Take PNG or JPEG files of at most {figures.size(files.MOST_BYTES)} together.",
        ) from None
