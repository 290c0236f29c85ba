"""Files that somebody chooses on the page.

The server takes no uploads, so the page's script reads the files and hands them over as text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from workbench.figures import escape
from workbench.ui.markup import html

MOST_BYTES: Final = 5 * 10**6
"""Of files that are handed over at once: as text they must stay within the limit of a request."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file that was handed over."""

    name: str
    content: bytes


def chooser(
    words: str, *, title: str, kinds: Sequence[str], name: str, several: bool = False
) -> gr.Textbox:
    """Build a button that chooses files at the current place.

    Args:
        words: on the button.
        title: what it takes, when pointed at.
        kinds: types or endings that the browser offers.
        name: of the button in the page; ``-files`` and ``-data`` are added for its parts.
        several: whether more than one may be chosen at once.

    Returns:
        What changes when files were chosen; give its value to :func:`read`, then empty it.
    """
    html(
        f'<label class="wb-file" title="{escape(title)}">{escape(words)}'
        f'<input type="file" id="{name}-files" accept="{",".join(kinds)}" '
        f'data-into="{name}-data" data-most="{MOST_BYTES}"'
        f"{' multiple' if several else ''}></label>",
        elem_id=name,
        elem_classes=["wb-chooser"],
    )
    return gr.Textbox(
        label=title, container=False, elem_id=f"{name}-data", elem_classes=["wb-unseen"]
    )


def read(handed: str) -> list[Chosen]:
    """Files from what the page's script hands over.

    Raises:
        ValueError: it is something else; so it is for files of more than :data:`MOST_BYTES`.
    """
    try:
        files: Any = json.loads(handed)
        return [
            Chosen(str(file["name"]), base64.b64decode(file["data"], validate=True))
            for file in files
        ]
    except (TypeError, KeyError) as error:
        raise ValueError("no files") from error
