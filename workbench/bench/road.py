"""What a benchmark needs of the way to the models: an engine in this process or a server's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from workbench.types import ChatRequest, StreamEvent, StreamSession

if TYPE_CHECKING:
    from workbench.store.rows import Mode


class Road(Protocol):
    """The one road, asynchronous; every method may raise a :class:`WorkbenchError`.

    ``remote`` says that a server of its own puts the stamps, not the loop that this runs on.
    """

    remote: bool

    async def ask(
        self, request: ChatRequest, on_event: Callable[[StreamEvent], None]
    ) -> StreamSession:
        """Run one model call and give its finished session, a failed one too.

        Cancelling the task stops the model.

        Args:
            request: what is asked.
            on_event: told every event of the stream.

        Raises:
            WorkbenchError: the request was refused before it became a session.
        """
        ...

    async def cancel(self, session_id: str) -> None:
        """Stop a running session."""
        ...

    async def check(self, model: str) -> None:
        """See that a model is there and can be loaded as its name asks; loads nothing."""
        ...

    async def unload(self, model: str) -> None:
        """Take a model out of memory."""
        ...

    async def rows(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of the log."""
        ...

    async def log(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        """Log rows; on return they are on disk."""
        ...
