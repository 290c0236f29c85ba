"""A new run: a spec that is chosen, uploaded, pasted or built, and checked as it is typed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from workbench import figures
from workbench.bench import datasets, library, own
from workbench.bench.faults import placed
from workbench.bench.service import Benchmarks
from workbench.bench.spec import Spec
from workbench.errors import WorkbenchError
from workbench.figures import count, escape
from workbench.ui import catalogue, files, notices
from workbench.ui.benchmarks.files import OwnFiles
from workbench.ui.benchmarks.form import LOADS, MADE, Form, write
from workbench.ui.markup import html

if TYPE_CHECKING:
    from workbench.settings import Settings
    from workbench.ui.catalogue import Catalogue

_QUIET: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
_MODES: Final = ("as the load asks", "isolated", "interleaved", "concurrent")


class Making:
    """Builds it at the current place.

    Args:
        settings: bounds, and the folder of own benchmarks.
        models: the shared listing.
        benchmarks: knows which models are there.
    """

    def __init__(self, settings: Settings, models: Catalogue, benchmarks: Benchmarks) -> None:
        self._settings = settings
        self._benchmarks = benchmarks
        self._models = models
        with gr.Row(elem_classes=["wb-tools"]):
            self._chosen = gr.Dropdown(
                [],
                value=None,
                label="Spec",
                elem_id="bench-spec",
                scale=1,
                min_width=120,
            )
            self._handed = files.chooser(
                settings,
                "Upload",
                title="A spec or a dataset",
                kinds=library.UPLOADS,
                name="bench-upload",
            )
        self._notice = html("", elem_id="bench-upload-notice", elem_classes=["wb-notices"])
        self._own = OwnFiles(settings)
        with gr.Accordion("Build one", open=False, elem_id="bench-form"):
            self._fields, self._names, self._source = _form()
        self.text = gr.Textbox(
            label="The spec (TOML)",
            lines=14,
            max_lines=24,
            placeholder="Choose a ready spec, build one above, or paste one here.",
            elem_id="bench-text",
        )
        self.told = html("", elem_id="bench-outline")
        """What the text would run, or what is wrong with it."""
        self.start = gr.Button(
            "Start", variant="primary", size="sm", elem_id="bench-start", interactive=False
        )
        self.busy = gr.Button(
            "A run is under way", size="sm", elem_id="bench-busy", interactive=False, visible=False
        )
        """In place of the other while there is one."""
        self.looked = [self.told, self.start]
        """What :meth:`outline` speaks of."""
        self._wire()

    def _wire(self) -> None:
        self._chosen.input(self._read, self._chosen, [self.text, self._notice], **_QUIET).then(
            self.outline, self.text, self.looked, **_QUIET
        )
        # change: the page's script presses no key, which is what gradio takes for input
        self._handed.change(
            self._take,
            [self._handed, self.text],
            [self._handed, self.text, self._notice, *self._named, *self.looked],
            **_QUIET,
        )
        # A dataset that the text names may be gone.
        self._own.wire(self._named, self._lists, _QUIET).then(
            self.outline, self.text, self.looked, **_QUIET
        )
        gr.on(
            [field.input for field in self._fields],
            self._write,
            self._fields,
            self.text,
            trigger_mode="always_last",
            **_QUIET,
        )
        self.text.change(self.outline, self.text, self.looked, trigger_mode="always_last", **_QUIET)

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`opened` speaks of."""
        return [self._names, *self._named]

    @property
    def _named(self) -> list[Any]:
        """What :meth:`_lists` speaks of."""
        return [self._chosen, self._source, self._own.table]

    async def opened(self) -> list[Any]:
        """The lists, anew."""
        listing = await self._models.listing(max_age_s=1.0)
        return [gr.update(choices=catalogue.choices(listing.models)), *await self._lists()]

    def spec(self, text: str) -> Spec:
        """The spec in the text.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``; the message names the line.
        """
        return library.parse(text, self._settings)

    async def outline(self, text: str) -> AsyncGenerator[list[Any], None]:
        """What the text would run, or what is wrong with it, as HTML; and the button for it."""
        if not text.strip():
            yield ["", _starts(None)]
            return
        try:
            found = await asyncio.to_thread(library.outline, text, self._settings)
        except WorkbenchError as problem:
            yield [refusal(problem, text), _starts(None)]
            return
        words = _outline(found)
        yield [words, _starts(found.spec)]
        # During a run the runtimes are asked nothing besides.
        if not self._benchmarks.running and (missing := await self._missing(found, text)):
            yield [words + missing, _starts(found.spec)]

    async def outline_again(self, text: str) -> AsyncGenerator[list[Any], None]:
        """The same for a text that has not changed; none is left alone, for it may just come."""
        if not text.strip():
            yield [gr.skip()] * len(self.looked)
            return
        async for looked in self.outline(text):
            yield looked

    async def _missing(self, found: library.Outline, text: str) -> str:
        """Which models are not there, as the run would say it; a start asks once more."""
        try:
            with placed("spec", text):
                told = await self._benchmarks.check(found)
        except WorkbenchError as problem:
            return refusal(problem, text)
        return "".join(notices.warning("NOTE", words) for words in told)

    # -- handlers

    async def _lists(self) -> list[Any]:
        """Specs and datasets by name, and the user's own files."""
        specs = await asyncio.to_thread(library.specs, self._settings)
        sources = await asyncio.to_thread(library.sources, self._settings)
        return [
            gr.update(choices=[*specs]),
            gr.update(choices=[MADE, *sources]),
            await self._own.show(),
        ]

    async def _read(self, name: str) -> list[Any]:
        path = library.specs(self._settings).get(name)
        if path is None:
            return [gr.skip(), notices.note("This spec is no longer there.")]
        text = await asyncio.to_thread(path.read_text, encoding="utf-8", errors="replace")
        return [text, ""]

    async def _take(self, handed: str, before: str) -> AsyncGenerator[list[Any], None]:
        """An upload: it is kept if nothing is wrong with it; a spec also goes into the text."""
        if not handed:
            yield [gr.skip()] * (3 + len(self._named) + len(self.looked))
            return
        name, text = "", ""
        lists: list[Any] = [gr.skip()] * len(self._named)
        try:
            name, content = self._one(handed)
            if name.lower().endswith(".toml"):
                text = content.decode(errors="replace")
            kept = await asyncio.to_thread(own.keep, self._settings, name, content)
        except WorkbenchError as problem:
            said = notices.error_card(problem)
            if text and await self._is_refused(text):
                # It goes into the text all the same, to be corrected; what is wrong is said there.
                said = notices.note(f"{name} is not kept: correct it here, or in the file.")
            elif not text and not name.lower().endswith(datasets.FORMATS):
                # It may have been meant as the spec to run: not the one before it.
                what = notices.note("Choose a spec, or change this one, to start it.")
                yield ["", gr.skip(), said, *lists, what if before else "", _starts(None)]
                return
        else:
            words = f"{kept.path.name} is {'kept' if kept.new else 'already here'}."
            if not text:
                words += " Choose it in the form, or name it as a source."
            said, lists = notices.note(words), await self._lists()
        first = ["", text or gr.skip(), said, *lists]
        async for looked in self.outline(text or before):
            yield [*first, *looked]
            first = [gr.skip()] * len(first)  # what is typed meanwhile stays

    def _one(self, handed: str) -> tuple[str, bytes]:
        """Name and content of the file that was chosen."""
        (chosen,) = files.read(
            handed,
            self._settings,
            otherwise="Put a dataset into the folder WORKBENCH_BENCHMARKS, run a spec with "
            "`workbench bench run FILE`",
        )
        return chosen.name, chosen.content

    async def _is_refused(self, text: str) -> bool:
        try:
            await asyncio.to_thread(self.spec, text)
        except WorkbenchError:
            return True
        return False

    async def _write(self, *values: Any) -> str:
        return write(Form(*values))


def _starts(spec: Spec | None) -> Any:
    """The button, named by what it would start; off where that is nothing."""
    name = f" {figures.shorten(spec.name, 40)}" if spec else ""
    return gr.update(value=f"Start{name}", interactive=spec is not None)


def refusal(problem: WorkbenchError, text: str) -> str:
    """What is wrong, with the line as it stands there."""
    line = problem.details.get("line")
    lines = text.splitlines()
    quoted = ""
    if isinstance(line, int) and 0 < line <= len(lines):
        quoted = (
            f'<pre class="wb-line">{line}  {escape(figures.shorten(lines[line - 1], 120))}</pre>'
        )
    return notices.error_card(problem) + quoted


def _outline(found: library.Outline) -> str:
    trials = "as many trials as it takes" if found.trials is None else count(found.trials, "trial")
    words = (
        f"{count(len(found.spec.models), 'model')}, {count(found.cells, 'cell')}, {trials}, "
        f"{found.spec.mode.value}, {count(found.spec.repeats, 'repeat')}"
    )
    return f'<div class="wb-notice" data-kind="note" data-outline="ok">{escape(words)}</div>'


def _form() -> tuple[Sequence[Any], gr.Dropdown, gr.Dropdown]:
    """The fields in the order of :class:`Form`; the pickers of models and of datasets."""

    def named(kind: Callable[..., Any], label: str, name: str, **settings: Any) -> Any:
        return kind(label=label, elem_id=f"bench-form-{name}", min_width=110, **settings)

    name = named(gr.Textbox, "Name", "name", value="my benchmark", max_lines=1)
    models = named(
        gr.Dropdown, "Models", "models", choices=[], value=[], multiselect=True,
        allow_custom_value=True,
    )  # fmt: skip
    source = named(gr.Dropdown, "Questions", "source", choices=[MADE], value=MADE)
    with gr.Row():
        count = named(gr.Number, "How many", "count", value=8, precision=0)
        repeats = named(gr.Number, "Repeats", "repeats", value=5, precision=0)
        temperature = named(gr.Number, "Temperature", "temperature", value=0)
    with gr.Row():
        read = named(gr.Textbox, "Prompt tokens", "input", value="64", max_lines=1)
        written = named(gr.Textbox, "Answer tokens", "output", value="64", max_lines=1)
    pattern = named(gr.Dropdown, "Load", "load", choices=[*LOADS], value="isolated")
    with gr.Row():
        mode = named(
            gr.Dropdown, "Timing mode", "mode", choices=[*_MODES], value=_MODES[0], scale=1
        )
        points = named(
            gr.Textbox, "Users, rates or turns", "points", value="1, 4", max_lines=1, scale=1
        )
    with gr.Row():
        ttft = named(gr.Number, "SLO: TTFT (s), 0: none", "ttft", value=0)
        tpot = named(gr.Number, "SLO: per token (s), 0: none", "tpot", value=0)
    fields = [
        *(name, models, source, count, read, written, repeats, temperature),
        *(mode, pattern, points, ttft, tpot),
    ]
    return fields, models, source
