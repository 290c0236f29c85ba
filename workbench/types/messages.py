"""What is said to a model and by it, in the OpenAI form."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from workbench.errors import invalid

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model asks that a function be called; ``arguments`` is JSON text, as in the OpenAI form."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture beside the text of a message: ``data`` is its file in base64."""

    media_type: str
    data: str

    SIGNATURES: ClassVar[Mapping[str, bytes]] = {
        "image/png": b"\x89PNG\r\n\x1a\n",
        "image/jpeg": b"\xff\xd8\xff",
    }
    """What runtimes can read, by how such a file begins."""

    def __post_init__(self) -> None:
        begins = self.SIGNATURES.get(self.media_type)
        try:
            file = base64.b64decode(self.data, validate=True)
        except ValueError:
            file = b""
        if begins is None or not file.startswith(begins):
            raise invalid("This is no picture in PNG or JPEG.", fix="Convert it first.")

    @classmethod
    def of(cls, file: bytes) -> Image:
        """From the bytes of a file; what it is, it says itself.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, it is neither PNG nor JPEG.
        """
        kinds = [kind for kind, begins in cls.SIGNATURES.items() if file.startswith(begins)]
        return cls(kinds[0] if kinds else "", base64.b64encode(file).decode())

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.data) // 4 * 3 - self.data[-2:].count("=")

    def facts(self) -> dict[str, Any]:
        """What the log keeps of it: the file itself would be most of the log."""
        digest = hashlib.sha256(base64.b64decode(self.data)).hexdigest()
        return {"media_type": self.media_type, "size_bytes": self.size_bytes, "sha256": digest}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the OpenAI form.

    ``tool_calls`` are those an assistant message made, ``tool_call_id`` the one that a ``tool``
    message answers, ``images`` what the user shows beside the text.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise invalid(
                f"Message role {self.role!r} is unknown.",
                fix=f"Use one of {', '.join(get_args(Role))}.",
            )
        if not isinstance(self.content, str):
            raise invalid("Message content must be text.", fix="Pass a string.")
        if self.images and self.role != "user":
            raise invalid(
                f"A message of the {self.role} has no images.",
                fix="Put them into a message of the user.",
            )
