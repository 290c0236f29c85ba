"""Images beside the message: chosen, counted, taken away again.

The server takes no uploads, so the page's script reads the files and hands them over as text.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import gradio as gr

from workbench import figures
from workbench.errors import invalid
from workbench.types import Image
from workbench.ui.markup import html

MAX_FILES_BYTES: Final = 5 * 10**6
"""Of files that are handed over at once: as text they must stay within the limit of a request."""


class Pictures:
    """Builds them at the current place."""

    def __init__(self) -> None:
        self.kept = gr.State(())
        """``tuple[Image, ...]``: what goes with the next question."""
        html(
            '<label class="wb-file" title="PNG or JPEG, for models that see">+ image'
            f'<input type="file" id="image-files" accept="image/png,image/jpeg" multiple '
            f'data-most="{MAX_FILES_BYTES}"></label>',
            elem_id="add-image",
        )
        self.handed = gr.Textbox(
            label="Images", container=False, elem_id="image-data", elem_classes=["wb-unseen"]
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
        files: Any = json.loads(handed)
        return [Image.of(base64.b64decode(file, validate=True)) for file in files]
    except (ValueError, TypeError):
        raise invalid(
            "These files cannot be shown to a model.",
            fix=f"Take PNG or JPEG files of at most {figures.size(MAX_FILES_BYTES)} together.",
        ) from None
