"""What the page says when a runtime or a first model is missing: calmly, with the way out."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.figures import escape, seconds
from workbench.router import Listing
from workbench.settings import Settings
from workbench.ui import catalogue


def render(listing: Listing, settings: Settings) -> str:
    """The hints above the panes; empty when all is there."""
    parts = [problem(name, error, settings) for name, error in listing.problems.items()]
    if not catalogue.has_models(listing.models):
        parts.append(
            '<div class="wb-empty" data-hint="no-models"><strong>No model yet</strong>'
            "<span>The demo model is a small instruct model (93 MB) that works offline. In a "
            "terminal: <code>workbench models pull demo</code></span></div>"
        )
    return "".join(parts)


def problem(provider: str, error: WorkbenchError, settings: Settings) -> str:
    """One runtime that could not be asked."""
    if (address := settings.ollama_servers.get(provider)) is not None:
        host = provider.partition("@")[2]
        variable = "OLLAMA_HOSTS" if settings.ollama_hosts else "OLLAMA_HOST"
        words = (
            f"Ollama{host and f' on {escape(host)}'} does not answer at "
            f"<code>{escape(address)}</code>. Start it with "
            f"<code>ollama serve</code>, or name its address in <code>{variable}</code>; its "
            "models then appear here by themselves."
        )
    else:
        message = error.message.removeprefix(f"{provider}: ")
        words = f"{escape(provider)}: {escape(message)} {escape(error.fix)}"
    return (
        f'<div class="wb-hintline" data-hint="{escape(provider)}" '
        f'title="{escape(error)}">{words}</div>'
    )


def progress(line: str, elapsed_s: float) -> str:
    """A step of bringing the demo model."""
    return (
        '<div class="wb-empty" data-hint="progress"><strong>Bringing the demo model</strong>'
        f"<span>{escape(line)} · {escape(seconds(elapsed_s))}</span></div>"
    )
