"""The messages between the server, the zygote and the workers.

Each is a small frozen dataclass, sent as a four-byte big-endian length and JSON. Never pickle: a
worker reads files from the internet, and a peer must not be able to run code in the server.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from workbench.types import Channel

MAX_FRAME_BYTES: Final = 64 * 2**20
_LENGTH: Final = struct.Struct(">I")


class ProtocolError(Exception):
    """A peer sent bytes that are no message of this protocol."""


# -- server to zygote, and back --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a worker. Two descriptors travel with it: the worker's socket and its log file."""

    worker: int


@dataclass(frozen=True, slots=True)
class Forked:
    """The worker runs as process ``pid``."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker ended: with ``exit_code``, or killed by ``signal``."""

    pid: int
    exit_code: int | None
    signal: int | None


# -- server to worker ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a model into memory.

    ``gguf_file`` is the file's name inside ``folder``, ``adapter`` the folder of a LoRA adapter to
    put on top, ``options`` are those of ``hf.options.LoadOptions``. ``verdict`` is what an earlier
    quality check of this form on this machine said, None if there was none. ``max_batch`` and
    ``cache_bytes`` bound the requests answered at once. ``converted`` is the folder where the
    unpacked copy of a GGUF is, or is to be put; None if none is wanted. ``prompts``: whether the
    weights may be kept in bfloat16 too, to read prompts with.
    """

    folder: str
    gguf_file: str | None
    gpu: str
    threads: int
    parameters: int | None
    options: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    verdict: dict[str, Any] | None = None
    max_batch: int = 1
    cache_bytes: int = 2**30
    converted: str | None = None
    prompts: bool = False
    correlation_id: str | None = None
    log_level: str = "INFO"


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer ``messages`` (``types.Message``); ``options`` are those of ``types.Options``.

    ``forced`` is an answer, in pieces, to be taken token by token in place of the model's
    own choice.
    ``raw``: continue the text of the only message as it stands.
    """

    request_id: int
    messages: list[dict[str, Any]]
    options: dict[str, Any]
    seed: int
    threads: int
    tools: list[dict[str, Any]] = field(default_factory=list)
    raw: bool = False
    correlation_id: str | None = None
    forced: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Inspect:
    """Tell what would be made of a request; ``messages`` and ``options`` as for an answer."""

    request_id: int
    messages: list[dict[str, Any]]
    options: dict[str, Any]
    tools: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a generation at the next opportunity; it still sends its ``Finished``."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Give back memory that is held without need, unless requests are being answered."""


# -- worker to server ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is in memory, as described."""

    dtype: str
    device: str
    threads: int
    context_length: int | None
    parameters: int
    packed: bool
    load_ns: int
    warnings: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token (``n_tokens`` 1), or text held back from earlier ones (0)."""

    request_id: int
    text: str
    t_ns: int
    n_tokens: int = 1
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    channel: Channel = "content"


@dataclass(frozen=True, slots=True)
class Called:
    """The model asks for a function; ``arguments`` is JSON text."""

    request_id: int
    call_id: str
    name: str
    arguments: str
    t_ns: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the reader of the answer must know."""

    request_id: int
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inspected:
    """The answer to ``Inspect``: fields of ``inspection.Inspection``."""

    request_id: int
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation ended; the last message of a request that did not fail."""

    request_id: int
    finish_reason: str
    cancelled: bool
    prompt_tokens: int
    output_tokens: int
    runtime_ns: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """A load (``request_id`` None) or a generation failed with this error."""

    request_id: int | None
    error: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Logged:
    """A line for the server's log, with the correlation id of the request it is about."""

    line: dict[str, Any]


Message = (
    Fork
    | Forked
    | Exited
    | Load
    | Generate
    | Inspect
    | Cancel
    | Trim
    | Loaded
    | Token
    | Called
    | Warned
    | Inspected
    | Finished
    | Failed
    | Logged
)
_TYPES: Final[dict[str, type[Message]]] = {
    cls.__name__: cls
    for cls in (
        Fork,
        Forked,
        Exited,
        Load,
        Generate,
        Inspect,
        Cancel,
        Trim,
        Loaded,
        Token,
        Called,
        Warned,
        Inspected,
        Finished,
        Failed,
        Logged,
    )
}


def encode(message: Message) -> bytes:
    """The frame of a message.

    Raises:
        ProtocolError: if it would be longer than :data:`MAX_FRAME_BYTES`.
    """
    # Not asdict: it copies everything deeply, several times the cost of the rest of a token.
    values = {name: getattr(message, name) for name in message.__dataclass_fields__}
    body = json.dumps(
        [type(message).__name__, values], separators=(",", ":"), ensure_ascii=True
    ).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is too long")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes as they come and yield the messages that are complete.

        Raises:
            ProtocolError: if the bytes are no such messages.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a message claims {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _message(body)


def _message(body: bytes) -> Message:
    try:
        name, fields = json.loads(body)
        return _TYPES[name](**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"not a message: {error}") from error
