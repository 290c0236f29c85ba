"""From messages to the token ids that a model sees, within its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from workbench.errors import WorkbenchError, invalid
from workbench.hf.protocol import Warned
from workbench.hf.tools import template_messages
from workbench.types import Options

_NO_TEMPLATE: Final = (
    "This model has no chat template: it continues the plain text of the messages and does not "
    "know who said what."
)
_ROOM: Final = 4
"""When old messages are left out, at most one part in this many of the context is kept free."""

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked.

    Attributes:
        text: as rendered by the chat template.
        ids: token ids.
        limit: the most tokens that prompt and answer may have together.
        warnings: what the reader of the answer must know (``request_id`` 0, to be replaced).
    """

    text: str
    ids: list[int]
    limit: int
    warnings: tuple[Warned, ...] = field(default=())


def make_prompt(
    tokenizer: Any,
    messages: Messages,
    options: Options,
    context_length: int | None,
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    raw: bool = False,
) -> Prompt:
    """Render, tokenise and fit into the context.

    Args:
        tokenizer: of the model.
        messages: fields of ``types.Message``, oldest first.
        options: ``num_ctx``, ``max_tokens`` and ``overflow`` are looked at.
        context_length: what the model was made for, in tokens, or None.
        tools: functions that the model may ask for.
        raw: take the text of the only message as it stands.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` if the template refuses the messages, the prompt is
            empty, or it does not fit (with ``overflow="truncate"``: if the system message and the
            last one alone do not fit).
    """
    plain = raw or not tokenizer.chat_template
    warnings = [Warned(0, "NO_CHAT_TEMPLATE", _NO_TEMPLATE)] if plain and not raw else []
    text, ids = _render(tokenizer, messages, tools, plain=plain)
    limits = [n for n in (options.num_ctx, context_length) if n]
    limit = min(limits, default=len(ids) + options.max_tokens)
    whole = len(ids)
    if whole >= limit and options.overflow == "truncate":
        room = min(options.max_tokens, limit // _ROOM)
        shorter, left_out = list(messages), 0
        while len(ids) > limit - room and (fewer := _without_oldest(shorter)):
            left_out += len(shorter) - len(fewer)
            shorter = fewer
            text, ids = _render(tokenizer, shorter, tools, plain=plain)
        if left_out and len(ids) < limit:
            warnings.append(
                Warned(
                    0,
                    "PROMPT_TRUNCATED",
                    f"The {left_out} oldest messages were left out: with them the prompt has "
                    f"{whole} tokens, and the context holds {limit}.",
                    {"left_out": left_out, "prompt_tokens": whole, "context_limit": limit},
                )
            )
    if not ids:
        raise invalid("The prompt is empty.", fix="Write something to be answered.")
    if len(ids) >= limit:
        raise invalid(
            f"The prompt has {len(ids)} tokens, but the context holds {limit} "
            "and must leave room for an answer.",
            fix="Shorten the prompt or the history, or raise num_ctx if the model allows it.",
            prompt_tokens=len(ids),
            context_length=context_length,
            num_ctx=options.num_ctx,
            limit=limit,
        )
    return Prompt(text, ids, limit, tuple(warnings))


def _render(
    tokenizer: Any, messages: Messages, tools: Sequence[Mapping[str, Any]], *, plain: bool
) -> tuple[str, list[int]]:
    if plain:
        text = "\n".join(message["content"] for message in messages)
        return text, list(tokenizer(text)["input_ids"])
    try:
        text = tokenizer.apply_chat_template(
            template_messages(messages),
            tools=[dict(tool) for tool in tools] or None,
            add_generation_prompt=True,
            tokenize=False,
        )
    except WorkbenchError:
        raise
    except Exception as error:  # whatever the model's own template raises
        cause = next((line for line in str(error).splitlines() if line.strip()), "")[:500]
        if type(error).__name__ == "TemplateSyntaxError":  # jinja2 is transformers' business
            raise invalid(
                f"The model's chat template is broken: {cause}",
                fix="Download the model's chat template again (chat_template.jinja or "
                "tokenizer_config.json), or choose another model.",
            ) from error
        raise invalid(
            f"The model's chat template refuses these messages: {cause}",
            fix="Check the roles and their order; some models take no system message.",
        ) from error
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _without_oldest(messages: Messages) -> list[dict[str, Any]]:
    """One turn less: the oldest message that is no system message, and the answer to it.

    Empty when only system messages and the last message are left.
    """
    head = [message for message in messages[:-1] if message["role"] == "system"]
    rest = [message for message in messages if message not in head]
    if len(rest) <= 1:
        return []
    rest = rest[1:]
    while len(rest) > 1 and rest[0]["role"] != "user":
        rest = rest[1:]
    return [*head, *rest]
