"""Which bound ended an answer: runtimes say ``length`` of several."""

from __future__ import annotations

import json
from collections.abc import Sequence

from workbench.types import Options, ProviderFinish, ProviderToken, ProviderWarning


def warnings(
    finish: ProviderFinish,
    options: Options,
    tokens: Sequence[ProviderToken],
    context_length: int | None = None,
) -> list[ProviderWarning]:
    """What the reader should know of an answer that ``length`` ended; told is what is known.

    Args:
        finish: what the runtime said at its end.
        options: that it was asked with.
        tokens: of the answer.
        context_length: tokens of the context that the model was loaded with, if that is known.
    """
    if finish.finish_reason != "length":
        return []
    found = [_bound(finish, options, tokens, context_length)]
    if _is_cut_json(options, tokens):
        cut = ProviderWarning(
            "JSON_CUT",
            "The answer is no whole JSON, as its length ended it. Raise max_tokens "
            f"({options.max_tokens:,}), or give the schema bounds (maxLength, maxItems).",
        )
        found.insert(0, cut)
    return [warning for warning in found if warning is not None]


def _bound(
    finish: ProviderFinish,
    options: Options,
    tokens: Sequence[ProviderToken],
    context_length: int | None,
) -> ProviderWarning | None:
    """The bound that it was if it was not ``max_tokens``, which needs no warning."""
    count, most, prompt = finish.output_tokens, options.max_tokens, finish.prompt_tokens
    if count is None or count >= most:
        return None
    bounds = finish.details.get("context_limit"), context_length, options.num_ctx
    context = min((bound for bound in bounds if bound), default=None)
    left = context - prompt - count if context and prompt else None
    sizes = [token.n_tokens for token in tokens if token.n_tokens]
    # An answer may end before a bound that its next chunk would pass.
    chunk = max([1, *sizes, -(-count // len(sizes)) if sizes else 1])
    if count + chunk > most and (left is None or left > 0):
        return None
    counts = {"prompt_tokens": prompt, "output_tokens": count, "context_tokens": context}
    if left is not None and left < chunk:
        return ProviderWarning(
            "CONTEXT_FULL",
            f"The context of {context:,} tokens ended the answer, not max_tokens ({most:,}): "
            f"it holds {prompt:,} of prompt and {count:,} of answer. Raise num_ctx if the "
            "model allows it, or shorten the prompt or the history.",
            counts,
        )
    return ProviderWarning(
        "RUNTIME_LIMIT",
        f"The runtime ended the answer after {count:,} tokens at a limit of its own, not "
        f"at max_tokens ({most:,}); it does not say which.",
        counts,
    )


def _is_cut_json(options: Options, tokens: Sequence[ProviderToken]) -> bool:
    """Whether JSON was asked for and only the beginning of it came; other text is no JSON."""
    wanted = options.response_format
    if wanted is None or wanted.get("type") == "text":
        return False
    text = "".join(token.text for token in tokens if token.channel == "content").strip()
    try:
        json.loads(text)
    except ValueError:
        return text[:1] in ("", "{", "[", '"')
    return False
