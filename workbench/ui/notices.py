"""What a pane has to say besides the answer: errors with their fix, warnings, quiet notes."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.live import LiveAnswer
from workbench.types import Status


def render(live: LiveAnswer | None) -> str:
    """The notices of the pane's latest answer as HTML; empty when there is nothing to say."""
    if live is None:
        return ""
    parts = [warning(code, message) for code, message in live.warnings]
    if live.error is not None:
        parts.append(error_card(live.error, partial=bool(live.answer)))
    session = live.session
    if session is not None and session.status is Status.OK:
        if not live.answer.strip():
            reasoned = " after reasoning" if live.reasoning else ""
            parts.append(note(f"The model ended without text{reasoned}."))
        elif session.finish_reason == "length" and not _other_bound(live):
            limit = session.options.max_tokens
            parts.append(note(f"Cut at max_tokens ({limit:,}); raise it in Options for more."))
        elif session.finish_reason not in ("stop", "length", None):
            parts.append(note(f"Ended by {session.finish_reason}."))
    elif session is not None and session.status is Status.CANCELLED:
        by = "" if session.termination_reason in ("user", None) else session.termination_reason
        kept = "the text so far is kept" if live.answer else "no text had come"
        parts.append(note(f"Stopped{f' ({by})' if by else ''}; {kept}."))
    return "".join(parts)


def _other_bound(live: LiveAnswer) -> bool:
    """Whether a warning says already that it was not max_tokens."""
    return any(code in ("CONTEXT_FULL", "RUNTIME_LIMIT") for code, _ in live.warnings)


def error_card(error: WorkbenchError, *, partial: bool = False) -> str:
    """A failure: code, what happened, what to do."""
    fix = f'<div class="wb-fix">{escape(error.fix)}</div>' if error.fix else ""
    kept = '<div class="wb-kept">The text that had come is kept.</div>' if partial else ""
    return (
        f'<div class="wb-notice" data-kind="error" data-code="{escape(error.code)}" role="alert">'
        f'<span class="wb-code">{escape(error.code)}</span>'
        f'<div class="wb-said">{escape(error.message)}</div>{fix}{kept}</div>'
    )


def warning(code: str, message: str) -> str:
    """Something the reader of the answer must know."""
    return (
        f'<div class="wb-notice" data-kind="warning" data-code="{escape(code)}">'
        f'<span class="wb-code">{escape(code)}</span> {escape(message)}</div>'
    )


def note(words: str) -> str:
    """A quiet remark."""
    return f'<div class="wb-notice" data-kind="note">{escape(words)}</div>'
