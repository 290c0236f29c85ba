"""The composer: the message box, the options, the timing mode and the buttons beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from workbench.errors import WorkbenchError, invalid
from workbench.setups import Setup, over, read_line, spoken, stops
from workbench.types import Image, Options, TimingMode
from workbench.ui.markup import html
from workbench.ui.pane import LETTERS
from workbench.ui.pictures import Pictures

if TYPE_CHECKING:
    from workbench.settings import Settings

MODES = {
    "concurrent": TimingMode.CONCURRENT,
    "isolated": TimingMode.ISOLATED,
    "interleaved": TimingMode.INTERLEAVED,
}

MODE_WORDS = {
    "concurrent": "all panes at once, to watch; the speeds are marked as contended",
    "isolated": "one pane at a time in random order: speeds that compare",
    "interleaved": "one pane at a time, in the order of the panes",
}

_DEFAULTS = Options()
_NUMBERS = (
    # name, what it does
    ("max_tokens", "longest answer"),
    ("temperature", "0: greedy"),
    ("top_p", "above 0, to 1"),
    ("top_k", "0: off"),
    ("repetition_penalty", "1: off"),
    ("seed", "empty: drawn, logged"),
    ("num_ctx", "empty: the runtime's"),
)
OPTION_NAMES = tuple(name for name, _ in _NUMBERS)
"""The options in the order of their fields."""


@dataclass(frozen=True)
class Composer:
    """The components; ``numbers`` are in the order of :data:`OPTION_NAMES`."""

    prompt: gr.Textbox
    run: gr.Button
    stop: gr.Button
    add_pane: gr.Button
    clear: gr.Button
    system: gr.Textbox
    mode: gr.Radio
    numbers: tuple[gr.Textbox, ...]
    stop_strings: gr.Textbox
    per_pane: gr.Checkbox
    """Whether the panes' own options count."""
    pictures: Pictures

    @property
    def inputs(self) -> list[Any]:
        """What :func:`read` takes, in its order."""
        return [self.prompt, self.system, self.mode, self.stop_strings, *self.numbers]

    @property
    def fields(self) -> list[Any]:
        """What :func:`fill` gives values for, in its order."""
        return [*self.inputs, self.per_pane]


@dataclass(frozen=True, slots=True)
class Ask:
    """What the composer says: one question under stated conditions."""

    prompt: str
    system: str
    mode: TimingMode
    options: Options
    own: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Options that differ in a pane."""
    images: tuple[Image, ...] = ()

    def of(self, pane: int) -> Options:
        """The options of a pane."""
        return over(self.options, self.own.get(pane, {}))

    def setup(self, models: tuple[str | None, ...]) -> Setup:
        """The same without its answers, to keep or to share."""
        return Setup(models, self.prompt, self.system, self.mode, self.options, self.own)


def read(
    prompt: str | None, system: str | None, mode: str, stop_strings: str | None, *numbers: Any
) -> Ask:
    """The composer's content as values.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for an empty prompt or an option out of its bounds.
    """
    if not (prompt or "").strip():
        raise invalid("The prompt is empty.", fix="Type a message.")
    return Ask(prompt or "", system or "", MODES[mode], read_options(stop_strings, *numbers))


def with_own(ask: Ask, lines: Mapping[int, str | None]) -> Ask:
    """With the panes' own options.

    Args:
        ask: the question.
        lines: what stands in each pane's field.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, naming the pane and the word or the option.
    """
    own: dict[int, Mapping[str, Any]] = {}
    for pane, text in lines.items():
        if not text or not text.strip():
            continue
        try:
            own[pane] = read_line(text)
            over(ask.options, own[pane])
        except WorkbenchError as problem:
            raise invalid(
                f"Pane {LETTERS[pane - 1]}: {problem.message}", fix=problem.fix, **problem.details
            ) from None
    return replace(ask, own=own)


def read_options(stop_strings: str | None, *numbers: str | None) -> Options:
    r"""Options from the fields; an empty field is the default.

    Stop strings stand one a line, with ``\n`` and ``\t`` for those characters, as a line break
    is the commonest of them.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, naming the option.
    """
    values: dict[str, Any] = {
        name: _number(name, text) for name, text in zip(OPTION_NAMES, numbers, strict=True)
    }
    values["stop"] = stops(stop_strings or "")
    return Options.from_mapping(values)


def fill(setup: Setup) -> list[Any]:
    """The values of the fields for a setup, in the order of ``Composer.fields``."""
    values = setup.options.to_dict()
    mode = next(word for word, mode in MODES.items() if mode is setup.mode)
    numbers = ["" if values[name] is None else spoken(values[name]) for name in OPTION_NAMES]
    return [setup.prompt, setup.system, mode, spoken(values["stop"]), *numbers, bool(setup.own)]


def _number(name: str, text: str | None) -> int | float | None:
    text = (text or "").strip()
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise invalid(
        f"{name} must be a number, not {text!r}.",
        fix=f"Correct {name} in Options, or empty the field for the default.",
        option=name,
    )


def _default(name: str) -> str:
    value = getattr(_DEFAULTS, name)
    return "" if value is None else f"{value:g}"


def build(settings: Settings) -> Composer:
    """Lay the composer out at the current place; ``settings`` bound its images."""
    with gr.Column(elem_id="composer"):
        with gr.Row(elem_classes=["wb-ask"]):
            prompt = gr.Textbox(
                label="Message",
                show_label=False,
                container=False,
                placeholder="Message to all panes",
                lines=2,
                max_lines=8,
                autofocus=True,
                elem_id="prompt",
                scale=1,
            )
            with gr.Column(scale=0, min_width=150, elem_classes=["wb-go"]):
                # It waits for the lists of models, which come with the page's first answer.
                run = gr.Button(
                    "Run  Ctrl+Enter",
                    variant="primary",
                    elem_id="run",
                    size="md",
                    interactive=False,
                )
                stop = gr.Button("Stop all  Esc", elem_id="stop", interactive=False, size="sm")
        with gr.Row(elem_classes=["wb-tools"]):
            add_pane = gr.Button(
                "+ pane", size="sm", elem_id="add-pane", elem_classes=["wb-small"], scale=0
            )
            clear = gr.Button(
                "New conversation",
                size="sm",
                elem_id="new-conversation",
                elem_classes=["wb-small"],
                scale=0,
            )
            pictures = Pictures(settings)
            mode = gr.Radio(
                list(MODES),
                value="concurrent",
                label="Timing",
                show_label=False,
                container=False,
                elem_id="timing-mode",
                elem_classes=["wb-mode"],
                scale=0,
                min_width=280,
            )
            explain = html(
                MODE_WORDS["concurrent"], elem_id="timing-words", elem_classes=["wb-hint"]
            )
            html(
                '<span class="wb-keys"><kbd>Ctrl</kbd><kbd>Enter</kbd> run '
                "<kbd>Esc</kbd> stop <kbd>Alt</kbd><kbd>1</kbd>…<kbd>6</kbd> pane</span>",
                elem_classes=["wb-hint", "wb-keyboard"],
            )
        with gr.Accordion("Options and system prompt", open=False, elem_id="options"):
            with gr.Row(elem_classes=["wb-options"]):
                # Text boxes: a number box of gradio shows an empty value as 0, which is another
                # seed, and turns what it cannot read into nothing.
                numbers = tuple(
                    gr.Textbox(
                        label=name,
                        info=info,
                        value=_default(name),
                        lines=1,
                        max_lines=1,
                        elem_id=f"option-{name}",
                        min_width=110,
                    )
                    for name, info in _NUMBERS
                )
                stop_strings = gr.Textbox(
                    label="stop strings",
                    info="one a line, \\n for a line break",
                    lines=1,
                    max_lines=4,
                    elem_id="option-stop",
                    min_width=150,
                )
                per_pane = gr.Checkbox(
                    label="own options in each pane",
                    info="a line in each pane, over these",
                    elem_id="own-options",
                    min_width=190,
                )
            system = gr.Textbox(
                label="system prompt",
                info="sent first in every pane",
                lines=1,
                max_lines=6,
                elem_id="system",
            )
    mode.change(
        MODE_WORDS.get,
        mode,
        explain,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return Composer(
        prompt, run, stop, add_pane, clear, system, mode, numbers, stop_strings, per_pane, pictures
    )
