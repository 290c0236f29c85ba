"""The values that travel between the layers: pure, frozen, without I/O.

Times are monotonic nanoseconds (``time.monotonic_ns``, one clock per host, shared by all its
processes) unless a name says otherwise; sizes are bytes.
"""

from workbench.types.answers import (
    MOST_TOKENS,
    Channel,
    FinishReason,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
)
from workbench.types.events import (
    DoneEvent,
    ErrorEvent,
    LoadingEvent,
    MemoryEvent,
    Phase,
    PromptEvent,
    QueuedEvent,
    SessionEvent,
    StreamEvent,
    TokenEvent,
    ToolCallEvent,
    WarningEvent,
)
from workbench.types.ids import new_id
from workbench.types.messages import Image, Message, Role, ToolCall
from workbench.types.models import ModelInfo
from workbench.types.options import Options
from workbench.types.requests import ChatRequest, Priority, Timeouts, TimingMode
from workbench.types.sessions import Stamps, Status, StreamSession, TokenTimeline

__all__ = [
    "MOST_TOKENS",
    "Channel",
    "ChatRequest",
    "DoneEvent",
    "ErrorEvent",
    "FinishReason",
    "Image",
    "LoadingEvent",
    "MemoryEvent",
    "Message",
    "ModelInfo",
    "Options",
    "Phase",
    "Priority",
    "PromptEvent",
    "ProviderEvent",
    "ProviderFinish",
    "ProviderToken",
    "ProviderToolCall",
    "ProviderWarning",
    "QueuedEvent",
    "Role",
    "SessionEvent",
    "Stamps",
    "Status",
    "StreamEvent",
    "StreamSession",
    "Timeouts",
    "TimingMode",
    "TokenEvent",
    "TokenTimeline",
    "ToolCall",
    "ToolCallEvent",
    "WarningEvent",
    "new_id",
]
