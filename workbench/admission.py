"""What is refused before it becomes a session, and how that is told."""

from __future__ import annotations

import datetime as dt
import time

from workbench.errors import WorkbenchError, invalid
from workbench.rotation.context import prompt_bytes
from workbench.settings import Settings
from workbench.types import ChatRequest, ErrorEvent, Message, Stamps, Status, StreamSession


def check(request: ChatRequest, settings: Settings) -> None:
    """Refuse a request that is wrong in itself, whatever model it is for.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    request.check_text()
    messages = request.messages
    if request.raw and (len(messages) != 1 or request.tools or request.forced):
        raise invalid(
            "A raw prompt is one text to be continued: no history, functions or forced answer.",
            fix="Send it as the only message, or leave raw out.",
        )
    last = messages[-1] if messages else Message("user", "")
    if not (last.content if request.raw else last.content.strip()) and last.role != "tool":
        raise invalid("The prompt is empty.", fix="Type a message.")
    if last.role not in ("user", "tool"):
        raise invalid(
            f"The last message has the role {last.role!r}.",
            fix="End the history with a user message.",
        )
    seen = sum(image.size_bytes for message in messages for image in message.images)
    if seen > settings.workbench_max_image_bytes:
        raise invalid(
            f"The images of this conversation are {seen:,} bytes; the limit is "
            f"{settings.workbench_max_image_bytes:,}.",
            fix="Make them smaller, begin a new conversation, or raise WORKBENCH_MAX_IMAGE_BYTES.",
        )
    limit = settings.workbench_max_prompt_bytes
    if (size := prompt_bytes(request)) > limit:
        raise invalid(
            f"The prompt with its history is {size:,} bytes; the limit is {limit:,}.",
            fix="Shorten it, or raise WORKBENCH_MAX_PROMPT_BYTES.",
            size_bytes=size,
        )
    if len(messages) > settings.workbench_max_history:
        raise invalid(
            f"The history has {len(messages)} messages; the limit is "
            f"{settings.workbench_max_history}.",
            fix="Start a new conversation, or raise WORKBENCH_MAX_HISTORY.",
        )


def rejected(request: ChatRequest, error: WorkbenchError) -> ErrorEvent:
    """The event that stands for a request that was refused before it became a session."""
    now = time.monotonic_ns()
    return ErrorEvent(
        request.session_id,
        error,
        StreamSession(
            session_id=request.session_id,
            conversation_id=request.conversation_id,
            correlation_id=request.correlation_id,
            requested_model=request.model,
            model=request.model,
            provider=error.provider or "",
            status=Status.REJECTED,
            created_at=dt.datetime.now(dt.UTC),
            stamps=Stamps(queued=now, end=now),
            options=request.options,
            seed=request.options.seed or 0,
            timing_mode=request.timing_mode,
            source=request.source,
            error=error,
        ),
        now,
    )
