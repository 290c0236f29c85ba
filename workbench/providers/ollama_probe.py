"""What Ollama makes of a prompt, and how likely it finds a text, through its ordinary API.

Ollama has no call that tokenises or scores. The rendered prompt comes from the debug field of
``/api/chat`` (``_debug_render_only``, in servers of autumn 2025 and later), the token ids from the
``context`` of ``/api/generate``, and the probabilities from one-token answers to ever longer raw
prompts, of which the runner's prompt cache leaves one token each to compute.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

from workbench.errors import invalid
from workbench.inspection import Inspection, kinds_of_weights
from workbench.providers import ollama_wire as wire
from workbench.providers.base import CancellationToken
from workbench.types import ProviderEvent, ProviderFinish, ProviderToken

JsonObject = Mapping[str, Any]

_TEMPLATE: Final = "{{ .Prompt }}"
_TRIES: Final = 4
_UNTOLD: Final = "\N{REPLACEMENT CHARACTER}"
_PARAMETERS: Final[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
_CHAIN: Final = ("repetition_penalty", "top_k", "typical_p", "top_p", "min_p", "temperature")
"""llama.cpp's samplers in the order of their default chain, without those that are off."""
_DEFAULTS: Final[Mapping[str, float]] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
}
"""Ollama's own (``DefaultOptions`` in its source), where neither request nor model says more."""
_NO_DEBUG: Final = "this Ollama server does not tell how it renders a prompt; newer ones do"
_IDS_ONLY: Final = "Ollama tells ids, not the text of each"


class Call(Protocol):
    """Sends a request and returns the JSON object of the answer."""

    def __call__(
        self, method: str, path: str, body: JsonObject | None = None, **limits: float | None
    ) -> Awaitable[dict[str, Any]]:
        """``read_s`` is the longest silence in seconds."""
        ...


class OllamaProbe:
    """Asks one server. Foreign exceptions pass through, for the caller's seam.

    Args:
        call: sends a request.
        body: of the chat request that is looked into, as :func:`ollama_wire.chat_body` makes it.
    """

    def __init__(self, call: Call, body: JsonObject) -> None:
        self._call = call
        self._body = body

    async def rendered(self) -> str | None:
        """The prompt as text, with nothing cut off; None if the server does not tell."""
        answer = await self._call(
            "POST",
            "/api/chat",
            {
                **self._body,
                "stream": False,
                "truncate": False,
                "_debug_render_only": True,
                # A server that does not know the field answers: with one token only.
                "options": {**self._body["options"], "num_predict": 1},
            },
            read_s=None,
        )
        told = answer.get("_debug_info")
        text = told.get("rendered_template") if isinstance(told, dict) else None
        return text if isinstance(text, str) else None

    async def token_ids(self, text: str) -> tuple[int, ...] | None:
        """Ids of a text as the model reads it, special tokens recognised; None if not told."""
        answer = await self._generate(text, template=_TEMPLATE)
        ids, count = answer.get("context"), answer.get("prompt_eval_count")
        if not isinstance(ids, list) or not isinstance(count, int):
            return None
        return tuple(ids[:count])

    async def score(
        self, pieces: Sequence[str], n_top: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """The pieces as tokens, each with the likeliest ones at its place, then the finish.

        A piece that is not among the likeliest has the logprob None: it is below the last of them.
        Inside of a character the server cannot be asked, for a prompt is whole characters: there
        nothing is told, nor of a character where the likeliest are parts of some that the server
        does not tell apart.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` if the server does not render prompts.
        """
        prompt = await self.rendered()
        if prompt is None:
            raise invalid(
                "This Ollama server does not tell how it renders a prompt, so no text can be "
                "scored with it.",
                fix="Update Ollama.",
            )
        said, held, prompt_tokens = "", b"", None
        for count, piece in enumerate(pieces):
            if cancel.cancelled:
                return
            top: list[dict[str, Any]] = []
            if not held:
                top, seen = await self._next(prompt + said, n_top)
                prompt_tokens = prompt_tokens or seen
            spelt, last = piece.encode("utf-8", "surrogateescape"), count + 1 == len(pieces)
            held += spelt
            text = "" if _is_cut(held) and not last else held.decode("utf-8", "replace")
            yield ProviderToken(text, time.monotonic_ns(), logprobs=(_entry(spelt, top),))
            if text:
                said, held = said + text, b""
            if last:
                yield ProviderFinish("length", prompt_tokens, len(pieces))

    async def _next(self, text: str, n_top: int) -> tuple[list[dict[str, Any]], int | None]:
        """The likeliest tokens after a text, and its length in tokens."""
        seen = None
        for seed in range(_TRIES):
            # Drawn and not greedy: nothing is told of an end token, nor of half a character, so
            # another one must be chosen. The probabilities told are those before any sampling.
            answer = await self._generate(
                text, raw=True, logprobs=True, top_logprobs=n_top, seed=seed, temperature=2.0
            )
            seen = answer.get("prompt_eval_count")
            told = wire.logprobs_of(answer)
            if told and isinstance(told[0].get("top_logprobs"), list):
                return list(told[0]["top_logprobs"]), seen
        return [], seen

    async def _generate(
        self, prompt: str, *, seed: int = 0, temperature: float = 0.0, **fields: Any
    ) -> dict[str, Any]:
        options = {"num_predict": 1, "temperature": temperature, "seed": seed, "top_k": 40}
        if "num_ctx" in self._body["options"]:
            options["num_ctx"] = self._body["options"]["num_ctx"]
        return await self._call(
            "POST",
            "/api/generate",
            {
                "model": self._body["model"],
                "prompt": prompt,
                "stream": False,
                "truncate": False,
                "keep_alive": self._body["keep_alive"],
                "options": options,
                **fields,
            },
            read_s=None,
        )


def _entry(spelt: bytes, top: Sequence[JsonObject]) -> dict[str, Any]:
    own = next((one["logprob"] for one in top if _bytes(one) == spelt), None)
    told: dict[str, Any] = {"token": spelt.decode("utf-8", "replace"), "bytes": list(spelt)}
    if own is None and any(_may_begin(one, spelt) for one in top):
        # Several tokens, of which the first is among the likeliest: not below the last of them.
        told = {"token": _UNTOLD}
    return {**told, "logprob": own, "top_logprobs": [dict(one) for one in top]}


def _may_begin(one: JsonObject, spelt: bytes) -> bool:
    """Whether a token is the beginning of a character of this text, as far as is told."""
    begin, untold, _ = str(one.get("token")).partition(_UNTOLD)
    told = _bytes(one)
    if untold and told.decode("utf-8", "replace") == one.get("token"):
        told = begin.encode()
        return spelt.startswith(told) and spelt[len(told) : len(told) + 1] > b"\x7f"
    return _is_cut(told) and spelt.startswith(told)


def _bytes(one: JsonObject) -> bytes:
    return bytes(one.get("bytes") or str(one.get("token")).encode())


def _is_cut(spelt: bytes) -> bool:
    try:
        spelt.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def inspection(
    model: str,
    body: JsonObject,
    shown: JsonObject,
    entry: JsonObject | None,
    rendered: str | None,
    ids: tuple[int, ...] | None,
    cut: tuple[int, int] | None,
    digest: str | None,
    version: str | None,
) -> Inspection:
    """Put together what the server told.

    Args:
        model: model id.
        body: of the chat request.
        shown: the answer of ``/api/show``.
        entry: of ``/api/ps``.
        rendered: the prompt as text.
        ids: its token ids.
        cut: tokens of the whole prompt and of the context, if it does not fit.
        digest: of the weights.
        version: of the server.
    """
    inner = shown.get("model_info") or {}
    architecture = inner.get("general.architecture")
    own = _parameters(str(shown.get("parameters") or ""))
    asked = body["options"]
    trained = inner.get(f"{architecture}.context_length")
    context = (entry or {}).get("context_length") or asked.get("num_ctx")
    eos = inner.get("tokenizer.ggml.eos_token_id")
    untold = {"token_texts": _IDS_ONLY}
    if rendered is None:
        untold["rendered"] = _NO_DEBUG
    if ids is None:
        untold["token_ids"] = (
            "the prompt does not fit into the context" if cut else untold.get("rendered", "")
        ) or "the server does not tell"
    return Inspection(
        model=model,
        architecture=architecture,
        parameters=inner.get("general.parameter_count"),
        digest=digest,
        rendered=rendered,
        token_ids=ids,
        template=shown.get("template"),
        default_system=shown.get("system") or None,
        special_tokens={
            role: value
            for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
            if (value := inner.get(f"tokenizer.ggml.{key}_token_id")) is not None
        },
        adds_bos=inner.get("tokenizer.ggml.add_bos_token"),
        end_tokens=(eos,) if isinstance(eos, int) else (),
        stop=tuple(asked.get("stop") or own.get("stop", ())),
        sampler=_sampler(asked, own),
        defaults={
            name: value for name, value in own.items() if name in _DEFAULTS or name == "num_ctx"
        },
        context_length=context,
        trained_context_length=trained,
        left_out=cut[0] - cut[1] if cut else None if rendered is None else 0,
        weights=kinds_of_weights(
            {
                str(tensor.get("name")): str(tensor.get("type"))
                for tensor in shown.get("tensors") or ()
            }
        ),
        computed_in=None,
        rope={
            "rope_theta" if key.endswith("freq_base") else key.split("rope.", 1)[1]: value
            for key, value in inner.items()
            if key.startswith(f"{architecture}.rope.") and "dimension" not in key
        },
        tokenizer={
            "kind": inner.get("tokenizer.ggml.model"),
            "pre": inner.get("tokenizer.ggml.pre"),
            "vocabulary": inner.get(f"{architecture}.vocab_size"),
        },
        device=wire.device_of(entry),
        runtime=f"Ollama {version}" if version else "Ollama",
        untold=untold,
    )


def _sampler(asked: JsonObject, own: JsonObject) -> tuple[tuple[str, float], ...]:
    values = {**_DEFAULTS, **own, **asked}
    chain = [(name, float(values[_PARAMETERS.get(name, name)])) for name in _CHAIN]
    if values["temperature"] == 0:
        chain = [chain[0], chain[-1]]
    if values["repeat_penalty"] != 1:
        chain.insert(1, ("repeat_last_n", float(values["repeat_last_n"])))
    return tuple(chain)


def _parameters(text: str) -> dict[str, Any]:
    """The parameters of a model file, one a line: a name, spaces, a value, quoted if it is text."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if name == "stop":
            found.setdefault("stop", []).append(value.strip('"'))
        elif name:
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = value
    return found
