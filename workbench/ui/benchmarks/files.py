"""A user's own specs and datasets: listed, and deleted after a question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from workbench import figures
from workbench.bench import own
from workbench.bench.own import OwnFile
from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.ui import notices, rows
from workbench.ui.confirm import Confirm
from workbench.ui.markup import html

if TYPE_CHECKING:
    from workbench.settings import Settings

EMPTY: Final = (
    '<div class="wb-empty"><span>What you upload is kept here, until you delete it.</span></div>'
)

_HEADS: Final = (
    # class, words, what it means
    ("name", "name", "a spec names its datasets so"),
    ("kind", "kind", "spec or dataset"),
    ("figure", "size", "bytes of the file"),
    ("when", "changed", "UTC"),
)


class OwnFiles:
    """Builds the list at the current place; :meth:`wire` connects it.

    Args:
        settings: where the folder is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        with gr.Accordion("Your files", open=False, elem_id="bench-files"):
            self.table = gr.HTML(
                EMPTY, apply_default_css=False, js_on_load=rows.SCRIPT, elem_id="bench-own"
            )
            self._delete = gr.Button(
                "Delete", size="sm", elem_id="bench-delete", elem_classes=["wb-small"]
            )
            self._confirm = Confirm("bench", "")
            self._notice = html("", elem_id="bench-files-notice", elem_classes=["wb-notices"])
            self._chosen = gr.State("")

    def wire(
        self,
        others: Sequence[Any],
        anew: Callable[[], Awaitable[list[Any]]],
        quiet: Mapping[str, Any],
    ) -> Any:
        """Connect it with what names the files elsewhere.

        Args:
            others: components that change when a file is gone, the list among them.
            anew: gives their values.
            quiet: how its events behave.

        Returns:
            The event that a file was deleted.
        """
        self._anew = anew
        confirm = self._confirm
        asking = [confirm.row, confirm.question, self._notice, confirm.asked]
        self.table.click(self._picked, None, self._chosen, queue=False, **quiet)
        self._delete.click(self._ask, self._chosen, asking, **quiet)
        return confirm.really.click(
            self._delete_now,
            confirm.asked,
            [confirm.row, self._notice, self._chosen, *others],
            **quiet,
        )

    async def show(self) -> str:
        """The list, anew, as HTML."""
        return render(await asyncio.to_thread(own.files, self._settings))

    async def _picked(self, event: gr.EventData) -> Any:
        return str(event._data.get("id", "")) or gr.skip()

    async def _ask(self, chosen: str) -> list[Any]:
        if not chosen:
            return [gr.update(visible=False), "", notices.note("Choose a file first."), ""]
        spec = chosen.lower().endswith(".toml")
        what = (
            "Runs keep their spec."
            if spec
            else "A stopped run that reads it cannot be resumed without it."
        )
        words = f"Delete <strong>{escape(chosen)}</strong>? {what}"
        return [gr.update(visible=True), f"<div>{words}</div>", "", chosen]

    async def _delete_now(self, asked: str) -> list[Any]:
        try:
            await asyncio.to_thread(own.delete, self._settings, asked)
            said = notices.note(f"{asked} is deleted.")
        except WorkbenchError as problem:
            said = notices.error_card(problem)
        return [gr.update(visible=False), said, "", *await self._anew()]


def render(files: Sequence[OwnFile]) -> str:
    """The files as HTML, in the given order."""
    if not files:
        return EMPTY
    heads = "".join(
        f'<th class="{kind}" title="{escape(meaning)}">{words}</th>'
        for kind, words, meaning in _HEADS
    )
    lines = "".join(_row(file, first=n == 0) for n, file in enumerate(files))
    return (
        '<table class="wb-stock" role="grid" aria-label="Your files"><thead><tr>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _row(file: OwnFile, *, first: bool) -> str:
    when = f"{file.changed_at:%Y-%m-%d %H:%M}"
    texts = (file.name, file.kind, _size(file.size_bytes), when[5:])
    titles = (file.name, "", f"{file.size_bytes:,} bytes", f"{when} UTC")
    body = "".join(
        f'<td class="{kind}" title="{escape(title)}">{escape(text)}</td>'
        for (kind, _, _), text, title in zip(_HEADS, texts, titles, strict=True)
    )
    return (
        f'<tr data-row="{escape(file.name)}" data-kind="{file.kind}" '
        f'tabindex="{0 if first else -1}" aria-selected="false">{body}</tr>'
    )


def _size(n_bytes: int) -> str:
    """A spec is some lines: kilobytes would be none."""
    return f"{n_bytes} B" if n_bytes < 1_000 else figures.size(n_bytes)
