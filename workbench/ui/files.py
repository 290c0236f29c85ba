"""Files that somebody chooses on the page.

The server takes no uploads, so the page's script reads the files and hands them over as text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from workbench import figures
from workbench.errors import invalid
from workbench.figures import escape
from workbench.ui.markup import html

if TYPE_CHECKING:
    from workbench.settings import Settings

_TOO_LARGE: Final = "too large"
"""What the page's script hands over in place of files that are."""

_REST_BYTES: Final = 65_536
"""Of a request, for what stands around the files."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file that was handed over."""

    name: str
    content: bytes


def most(settings: Settings) -> int:
    """The most bytes of files at once: as text they take a third more, within one request."""
    fit = max(settings.workbench_max_body - _REST_BYTES, 0) * 3 // 4
    return min(settings.workbench_max_upload, fit)


def chooser(
    settings: Settings,
    words: str,
    *,
    title: str,
    kinds: Sequence[str],
    name: str,
    several: bool = False,
) -> gr.Textbox:
    """Build a button that chooses files at the current place.

    Args:
        settings: how large files may be.
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
        f'data-into="{name}-data" data-most="{most(settings)}"'
        f"{' multiple' if several else ''}></label>",
        elem_id=name,
        elem_classes=["wb-chooser"],
    )
    return gr.Textbox(
        label=title, container=False, elem_id=f"{name}-data", elem_classes=["wb-unseen"]
    )


def read(handed: str, settings: Settings, *, otherwise: str) -> list[Chosen]:
    """Files from what the page's script hands over.

    Args:
        handed: files in base64, as JSON.
        settings: how large they may be.
        otherwise: what else can be done with files that are too large.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: they are too large, or could not be read.
    """
    if handed.strip() == _TOO_LARGE:
        setting = "WORKBENCH_MAX_UPLOAD"
        if most(settings) < settings.workbench_max_upload:
            setting = "WORKBENCH_MAX_BODY"
        raise invalid(
            f"What you chose is larger than {figures.size(most(settings))}, which is as much as "
            f"the page takes at once ({setting}).",
            fix=f"{otherwise}, or raise {setting}.",
        )
    try:
        files: Any = json.loads(handed)
        return [
            Chosen(str(file["name"]), base64.b64decode(file["data"], validate=True))
            for file in files
        ]
    except (TypeError, KeyError, ValueError):
        raise invalid(
            "What you chose could not be read.", fix="Choose it again; it must be a file."
        ) from None
