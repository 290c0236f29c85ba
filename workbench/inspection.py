"""What a runtime makes of a request before it answers: the facts behind a parity sheet.

What a runtime does not tell is None, never guessed; ``untold`` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Inspection:
    """One model's view of a request.

    Attributes:
        model: model id.
        architecture: as the files name it, such as ``llama``.
        parameters: weights.
        digest: of the weights.
        rendered: the prompt as text, chat template applied.
        token_ids: of the prompt, as the model sees it.
        token_texts: of each id, where the runtime tells.
        template: the chat template's source; its language differs between runtimes.
        default_system: a system prompt that comes with the model, used where a request has none.
        special_tokens: ids by role (``bos``, ``eos``, ``pad``).
        begin_text: the begin token as text.
        adds_bos: whether the tokenizer puts a begin token before every text.
        end_tokens: ids that end an answer.
        stop: strings that end an answer.
        sampler: settings in the order in which they are applied, as (name, value).
        defaults: settings that the model's files ask for and a request may override.
        context_length: tokens that prompt and answer may have here.
        trained_context_length: tokens that the model was made for.
        left_out: tokens of the prompt that did not fit; None if the runtime does not tell.
        refuses: why the runtime would not answer this request at all; None if it would.
        weights: types by kind of tensor, such as ``{"attention": "Q4_1"}``; as ``INT8 (from BF16)``
            where they are rounded while loading.
        computed_in: type of the activations.
        rope: settings of the rotary position embedding.
        tokenizer: ``kind``, ``pre`` (pre-tokenizer) and ``vocabulary`` (size).
        device: where it computes.
        runtime: name and version of the software.
        untold: by attribute, why it is None.
    """

    model: str
    architecture: str | None = None
    parameters: int | None = None
    digest: str | None = None
    rendered: str | None = None
    token_ids: tuple[int, ...] | None = None
    token_texts: tuple[str, ...] | None = None
    template: str | None = None
    default_system: str | None = None
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    begin_text: str | None = None
    adds_bos: bool | None = None
    end_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    sampler: tuple[tuple[str, float], ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    context_length: int | None = None
    trained_context_length: int | None = None
    left_out: int | None = None
    refuses: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    computed_in: str | None = None
    rope: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    runtime: str | None = None
    untold: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`, from JSON."""
        known = {one.name for one in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        for name in ("token_ids", "token_texts", "end_tokens", "stop"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        given["sampler"] = tuple((name, value) for name, value in given.get("sampler", ()))
        return cls(**given)


def kinds_of_weights(types: Mapping[str, str]) -> dict[str, str]:
    """Types of stored tensors by kind; several types of one kind are joined by ``+``.

    Args:
        types: by tensor name, as safetensors and GGUF files name them.
    """
    found: dict[str, set[str]] = {}
    for name, kind in types.items():
        found.setdefault(_kind(name), set()).add(kind)
    return {kind: "+".join(sorted(found[kind])) for kind in sorted(found)}


_KINDS: Mapping[str, tuple[str, ...]] = {
    "normalisation": ("norm",),
    "embeddings": ("token_embd", "embed_tokens", "wte"),
    "output head": ("lm_head", "output.weight"),
    "attention": ("attn", "attention"),
    "feed-forward": ("ffn", "mlp"),
}


def _kind(name: str) -> str:
    for kind, parts in _KINDS.items():
        if any(part in name for part in parts):
            return kind
    return "other"
