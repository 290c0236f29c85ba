"""``workbench chat`` and ``workbench compare``."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from workbench.cli.options import AsJson, request_options
from workbench.cli.shared import open_workbench, print_json
from workbench.errors import invalid

if TYPE_CHECKING:
    from workbench.client import Workbench
    from workbench.types import StreamEvent


@request_options()
def chat(
    model: Annotated[str, typer.Argument(help="Model id, or a bare name if only one has it.")],
    prompt: Annotated[
        str | None,
        typer.Argument(help="The message; - reads standard input. None starts a conversation."),
    ] = None,
    as_json: AsJson = False,
    *,
    request: dict[str, Any],
) -> None:
    """Ask one model, or hold a conversation with it."""
    from workbench.types import Message, new_id

    with open_workbench() as wb:
        if prompt is not None:
            _answer(wb, model, _given(prompt), as_json=as_json, **request)
            return
        history: list[Message] = []
        conversation_id = new_id("con")
        typer.echo("An empty line ends the conversation.", err=True)
        while prompt := _ask():
            text = _answer(
                wb,
                model,
                prompt,
                as_json=as_json,
                history=history,
                conversation_id=conversation_id,
                **request,
            )
            history += [Message("user", prompt), Message("assistant", text)]


@request_options()
def compare(
    prompt: Annotated[str, typer.Argument(help="The message for all models; - reads stdin.")],
    model: Annotated[list[str], typer.Option("--model", "-m", help="Model id; repeat for each.")],
    mode: Annotated[
        str, typer.Option(help="concurrent, isolated (one at a time) or interleaved.")
    ] = "concurrent",
    as_json: AsJson = False,
    *,
    request: dict[str, Any],
) -> None:
    """Ask several models the same thing; show answers and figures side by side."""
    from contextlib import closing

    from workbench.client import Likelihoods, session_row
    from workbench.types import DoneEvent, ErrorEvent, StreamSession

    sessions: dict[int, StreamSession] = {}
    likely = Likelihoods()
    prompt = _given(prompt)
    with open_workbench() as wb:
        events = wb.compare_events(model, prompt, mode=mode, source="cli", **request)
        from workbench.terminal import LiveTable

        with (
            closing(events),
            LiveTable(model, enabled=not as_json) as table,
            CtrlCStops(wb) as stopped,
        ):
            for index, event in events:
                stopped.watch(event)
                likely.watch(event)
                table.update(index, event)
                if isinstance(event, DoneEvent | ErrorEvent):
                    sessions[index] = likely.added(event.session)
    ordered = [sessions[index] for index in sorted(sessions)]
    if as_json:
        print_json({"prompt": prompt, "answers": [session_row(item) for item in ordered]})
    if any(session.status.value != "ok" for session in ordered):
        raise typer.Exit(130 if stopped else 1)


def _answer(wb: Workbench, model: str, prompt: str, *, as_json: bool, **arguments: Any) -> str:
    from workbench import figures
    from workbench.client import Likelihoods, session_row
    from workbench.types import DoneEvent, ErrorEvent, TokenEvent, WarningEvent

    likely = Likelihoods()
    with CtrlCStops(wb) as stopped:
        for event in wb.stream(model, prompt, source="cli", **arguments):
            stopped.watch(event)
            likely.watch(event)
            match event:
                case TokenEvent() if not as_json and event.channel == "content":
                    typer.echo(event.text, nl=False)
                case WarningEvent():
                    typer.echo(f"warning: {event.message}", err=True)
                case DoneEvent() | ErrorEvent():
                    session = likely.added(event.session)
    if as_json:
        print_json(session_row(session))
    else:
        typer.echo()
        typer.echo(figures.line(session), err=True)
    if session.error is not None and not as_json:
        typer.echo(str(session.error), err=True)
    if session.status.value != "ok":
        raise typer.Exit(130 if stopped else 1)
    return session.text


class CtrlCStops:
    """The first Ctrl+C stops the models and lets the figures be printed; the second one leaves.

    True once it was pressed.
    """

    def __init__(self, wb: Workbench) -> None:
        self._wb = wb
        self._sessions: set[str] = set()
        self._pressed = False

    def __bool__(self) -> bool:
        return self._pressed

    def watch(self, event: StreamEvent) -> None:
        """Learn which sessions there are to stop."""
        self._sessions.add(event.session_id)

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *unused: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _stop(self, number: int, frame: object) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
        for session_id in self._sessions:
            self._wb.cancel(session_id)


def _given(prompt: str) -> str:
    """The prompt, or standard input for ``-`` (a long one does not fit into an argument)."""
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise invalid(
            f"Standard input is not UTF-8 (byte {error.start}).", fix="Convert it first."
        ) from None


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
