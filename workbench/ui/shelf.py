"""Presets and the prompt library: kept by name, used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import gradio as gr

from workbench.errors import WorkbenchError, invalid
from workbench.library import Library, Prompt
from workbench.setups import Setup
from workbench.ui.desk import QUIET, Updates, message
from workbench.ui.markup import html

T = TypeVar("T")


class Picker:
    """A list of names with what can be done with them; a new name is typed into the list."""

    def __init__(self, name: str, label: str, use: str, *, tagged: bool = False) -> None:
        with gr.Row(elem_classes=["wb-tools"]):
            html(label, elem_classes=["wb-hint", "wb-label-of"])
            self.name = gr.Dropdown(
                choices=[],
                value=None,
                allow_custom_value=True,
                label=label,
                show_label=False,
                container=False,
                elem_id=f"{name}-name",
                scale=1,
                min_width=160,
            )
            self.tags = gr.Textbox(
                label="Tags",
                placeholder="tags",
                show_label=False,
                container=False,
                lines=1,
                max_lines=1,
                elem_id=f"{name}-tags",
                visible=tagged,
                scale=1,
                min_width=120,
            )
            self.use, self.save, self.delete = (
                gr.Button(
                    words,
                    size="sm",
                    elem_id=f"{name}-{part}",
                    elem_classes=["wb-small"],
                    scale=0,
                    min_width=60,
                )
                for words, part in ((use, "use"), ("Save", "save"), ("Delete", "delete"))
            )


class Shelf:
    """Builds both lists at the current place.

    Args:
        library: where they are kept.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        with gr.Accordion("Presets and prompts", open=False, elem_id="shelf") as accordion:
            self.presets = Picker("preset", "Preset", "Load")
            self.prompts = Picker("prompt-library", "Prompt", "Use", tagged=True)
        self.outputs = [self.presets.name, self.prompts.name]
        accordion.expand(self._opened, None, self.outputs, **QUIET)

    def wire(self, message_box: gr.Textbox) -> None:
        """Wire the prompts to the box that they come from and go to."""
        prompts = self.prompts
        prompts.use.click(self._use, prompts.name, [message_box, prompts.tags], **QUIET)
        prompts.save.click(
            self._save, [prompts.name, prompts.tags, message_box], self.outputs, **QUIET
        )
        for picker, kind in ((self.presets, "presets"), (prompts, "prompts")):
            picker.delete.click(self._deleter(kind), picker.name, self.outputs, **QUIET)

    async def preset(self, name: str | None) -> Setup:
        """The preset of a name.

        Raises:
            gr.Error: there is none.
        """
        return await self._named(self.library.presets, name)

    async def _opened(self) -> Updates:
        return await self.fill()

    async def fill(self, **chosen: str | None) -> Updates:
        """The names that there are now; ``presets`` and ``prompts`` are to be chosen then."""
        try:
            presets, prompts = await asyncio.to_thread(
                lambda: (self.library.presets(), self.library.prompts())
            )
        except WorkbenchError as problem:
            raise message(problem) from None
        return {
            self.presets.name: _listed([(name, name) for name in presets], "presets", chosen),
            self.prompts.name: _listed(
                [(_label(name, one), name) for name, one in prompts.items()], "prompts", chosen
            ),
        }

    async def kept(self, change: Callable[[], None], **chosen: str | None) -> Updates:
        """Change the library, then say what is in it."""
        try:
            await asyncio.to_thread(change)
        except WorkbenchError as problem:
            raise message(problem) from None
        return await self.fill(**chosen)

    async def _save(self, name: str | None, tags: str | None, text: str | None) -> Updates:
        prompt = Prompt(text or "", tuple((tags or "").replace(",", " ").replace("#", " ").split()))
        return await self.kept(
            lambda: self.library.save_prompt(name or "", prompt), prompts=(name or "").strip()
        )

    async def _use(self, name: str | None) -> tuple[str, str]:
        prompt = await self._named(self.library.prompts, name)
        return prompt.text, " ".join(prompt.tags)

    async def _named(self, read: Callable[[], Mapping[str, T]], name: str | None) -> T:
        try:
            found = (await asyncio.to_thread(read)).get(name or "")
        except WorkbenchError as problem:
            raise message(problem) from None
        if found is None:
            raise message(invalid("Nothing of that name is kept.", fix="Choose one of the list."))
        return found

    def _deleter(self, kind: str) -> Callable[..., Any]:
        async def delete(name: str | None) -> Updates:
            return await self.kept(lambda: self.library.delete(kind, name or ""), **{kind: None})

        return delete


def _label(name: str, prompt: Prompt) -> str:
    """A name with its tags, which are found by typing too."""
    return "  ".join([name, *(f"#{tag}" for tag in prompt.tags)])


def _listed(
    choices: Sequence[tuple[str, str]], kind: str, chosen: Mapping[str, str | None]
) -> dict[str, Any]:
    value = {"value": chosen[kind]} if kind in chosen else {}
    return dict(gr.update(choices=choices, **value))
