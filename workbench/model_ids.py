"""Model ids, ``provider/NAME``: one spelling for each model."""

from __future__ import annotations

from workbench.hosts import family


def tagged(name: str) -> str:
    """A name of Ollama as Ollama lists it: with its tag, by default ``latest``."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def spelled(model: str) -> str:
    """A model id as the log has it: that of an Ollama host with the tag of its name.

    What is no such id stays as it is: a bare name, or one with load options (``?...``), which
    Ollama has none of.
    """
    provider, _, name = model.partition("/")
    if not name or "?" in name or family(provider) != "ollama":
        return model
    return f"{provider}/{tagged(name)}"
