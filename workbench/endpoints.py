"""Servers that speak OpenAI's API, each registered as a provider of its own: the values.

Written as ``OPENAI_COMPAT_ENDPOINTS``, either ``name=url`` pairs or a JSON list of objects with the
fields of :class:`Endpoint`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

Server = Literal[
    "auto", "openai", "vllm", "sglang", "tgi", "llama.cpp", "transformers", "workbench"
]

RESERVED: Final = frozenset({"ollama", "huggingface", "scripted"})
_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_-]{0,39}$")


def base_url(value: str) -> str:
    """An address as OpenAI clients take it, ending with the version: ``http://gpu-box:8000/v1``."""
    text = value.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("give a URL such as http://gpu-box:8000/v1")
    if parts.username or parts.password:
        raise ValueError("give the key as api_key, not inside the URL")
    if parts.query or parts.fragment:
        raise ValueError("give a URL without ? and #")
    return text if parts.path else f"{text}/v1"


def _name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError("give lower-case letters, digits, - and _, for example vllm")
    if value in RESERVED:
        raise ValueError(f"{value} is a provider already; choose another name")
    return value


class Endpoint(BaseModel):
    """One server.

    Attributes:
        name: prefix of its model ids.
        base_url: where its API is, version included.
        api_key: sent as a bearer token; never logged.
        server: what answers there, as each spells options differently; ``auto`` looks at its list
            of models and takes plain OpenAI where that does not say.
        models: names that may be asked for beside those that it lists.
        concurrency: generations of one model at once; more wait in our queue.
        local: it runs on this machine, its address is its own (no tunnel, no proxy): it shares the
            cores, and the memory of the process that listens there is measured.
        vision: its models take images.
        metrics_url: its Prometheus page; None is ``/metrics`` beside the API, empty is none.
        continuous_usage: ask for token counts with every chunk (vLLM, SGLang).
        extra_body: further fields of every request, such as ``chat_template_kwargs``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_name)]
    base_url: Annotated[str, AfterValidator(base_url)]
    api_key: SecretStr | None = None
    server: Server = "auto"
    models: tuple[str, ...] = ()
    concurrency: int = Field(32, ge=1, le=100_000)
    local: bool = False
    vision: bool = False
    metrics_url: str | None = None
    continuous_usage: bool = False
    extra_body: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def scrape_url(self) -> str | None:
        """Where its own metrics may be."""
        if self.metrics_url is not None:
            return self.metrics_url or None
        return re.sub(r"/v\d+$", "", self.base_url) + "/metrics"


def read(value: object) -> object:
    """The setting's text as a list of mappings; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            # Not the parser's words: they may quote a key.
            raise ValueError("this is no JSON list") from None
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, mark, url = (part.strip() for part in item.partition("="))
        if not mark:
            raise ValueError(f"{name!r} has no address; give name=url, or a JSON list")
        found.append({"name": name, "base_url": url})
    return found


def distinct(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Refuse two of one name."""
    names = [endpoint.name for endpoint in endpoints]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two endpoints are named {name}")
    return endpoints


Endpoints = tuple[Endpoint, ...]
