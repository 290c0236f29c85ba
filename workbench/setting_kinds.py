"""The kinds of values that settings have: how each is written, and what it may be."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from workbench import endpoints, hosts

_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MODEL_ID: Final = re.compile(r"^[^\s/=,]+/[^\s=,]+$")


def _size(value: object) -> object:
    """Bytes from ``12GB`` or ``12g`` (powers of 1000, as they are shown), ``12 GiB`` (of 1024)."""
    if isinstance(value, str) and value.strip():
        match = _SIZE.match(value)
        if match is None:
            raise ValueError("give a size such as 12GB or 800MB")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])
    return None if value == "" else value


def _ollama_url(value: str) -> str:
    """Normalise OLLAMA_HOST as Ollama reads it: scheme and port are optional."""
    text = value.strip().rstrip("/")
    if not text:
        text = "127.0.0.1:11434"
    if "://" not in text:
        text = f"http://{text}"
    match = re.match(r"^(https?)://(\[[0-9a-fA-F:]+\]|[\w.-]+)(?::(\d{1,5}))?$", text)
    if match is None or not 0 < int(match[3] or 1) < 65536:
        raise ValueError("give host:port or a URL, for example http://127.0.0.1:11434")
    scheme, host = match[1], match[2]
    port = match[3] or ("443" if scheme == "https" else "11434")
    # A server may listen on every address; a client cannot connect to "every address".
    everywhere = host == "0.0.0.0"  # noqa: S104
    return f"{scheme}://{'127.0.0.1' if everywhere else host}:{port}"


def _server_url(value: str | None) -> str | None:
    """The address of another workbench's server."""
    if not (text := (value or "").strip().rstrip("/")):
        return None
    if not re.fullmatch(r"https?://(\[[0-9a-fA-F:]+\]|[\w.-]+)(:\d{1,5})?", text):
        raise ValueError("give scheme, host and port, for example http://192.0.2.7:7860")
    return text


def _fallbacks(value: object) -> object:
    """``huggingface/a=ollama/b,...`` as a mapping from the model that failed to who answers."""
    if not isinstance(value, str):
        return value
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        model, _, fallback = (part.strip() for part in item.partition("="))
        if not (_MODEL_ID.match(model) and _MODEL_ID.match(fallback)):
            raise ValueError(
                f"{item!r} is no pair of model ids; give provider/model=provider/model"
            )
        if model == fallback:
            raise ValueError(f"{model} cannot be its own fallback")
        if model in pairs:
            raise ValueError(f"{model} has two fallbacks")
        pairs[model] = fallback
    return pairs


Fallbacks = Annotated[dict[str, str], NoDecode, BeforeValidator(_fallbacks)]
OllamaUrl = Annotated[str, AfterValidator(_ollama_url)]
OllamaHosts = Annotated[
    dict[str, OllamaUrl],
    NoDecode,
    BeforeValidator(hosts.read),
    AfterValidator(hosts.distinct),
]
ServerUrl = Annotated[str | None, AfterValidator(_server_url)]
Endpoints = Annotated[
    endpoints.Endpoints,
    NoDecode,
    BeforeValidator(endpoints.read),
    AfterValidator(endpoints.distinct),
]
Size = Annotated[int | None, Field(ge=2**20), BeforeValidator(_size)]
Bytes = Annotated[int, Field(ge=1), BeforeValidator(_size)]
Reserve = Annotated[int, Field(ge=0), BeforeValidator(lambda value: _size(value) or 0)]
OptionalReserve = Annotated[
    int | None,
    Field(ge=0),
    BeforeValidator(lambda v: None if v is None or v == "" else _size(v) or 0),
]
Share = Annotated[float, Field(gt=0, le=1)]
Budget = Annotated[int, Field(ge=2**26), BeforeValidator(_size)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
