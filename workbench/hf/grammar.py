"""Answers that must be JSON, or JSON of a given schema (llguidance does the work)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import llguidance.hf
import torch
from llguidance import LLMatcher, LLTokenizer

from workbench.errors import WorkbenchError, invalid

_SPACE: Final = {"whitespace_pattern": r"( |\n{1,2}[ \t]{0,20})?"}
"""Between the signs of JSON, as llama.cpp has it: a small model may else never end its spaces."""


class JsonGrammar:
    """Allows only tokens that keep the answer a beginning of valid JSON.

    Args:
        tokenizer: of the model, see :func:`grammar_tokenizer`.
        response_format: ``{"type": "json_object"}``, or ``{"type": "json_schema",
            "json_schema": {"schema": ...}}`` as the OpenAI API has it.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for another form, or a schema that cannot be followed.
    """

    def __init__(self, tokenizer: LLTokenizer, response_format: Mapping[str, Any]) -> None:
        schema = _schema(response_format)
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_SPACE)
            self._matcher = LLMatcher(tokenizer, grammar)
        except ValueError as error:
            raise _unusable(str(error)) from None
        if self._matcher.is_error():
            raise _unusable(self._matcher.get_error())

    def mask(self, scores: torch.Tensor) -> None:
        """Set the scores of all tokens that would break the form to minus infinity, in place."""
        bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        allowed = (bias > 0).to(scores.device)
        known = min(len(allowed), len(scores))
        # A model may have more rows of logits than its tokenizer has tokens.
        scores[known:] = -torch.inf
        scores[:known].masked_fill_(~allowed[:known], -torch.inf)

    def accept(self, token_id: int) -> None:
        """Go on by a token that :meth:`mask` allowed."""
        self._matcher.consume_token(token_id)


def grammar_tokenizer(tokenizer: Any, vocabulary: int, eos_ids: frozenset[int]) -> LLTokenizer:
    """The model's tokenizer in llguidance's form; about a second, so keep it.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for tokenizers without the fast implementation.
    """
    try:
        return llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=max(vocabulary, len(tokenizer)), eos_token=sorted(eos_ids) or None
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise invalid(
            f"response_format needs a tokenizer in the fast format, which this model lacks "
            f"({error}).",
            fix="Leave response_format out, or choose another model.",
            option="response_format",
        ) from None


def _schema(response_format: Mapping[str, Any]) -> Any:
    kind = response_format.get("type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        wrapper = response_format.get("json_schema")
        schema = wrapper.get("schema", wrapper) if isinstance(wrapper, Mapping) else None
        if isinstance(schema, Mapping):
            return schema
    raise invalid(
        f"response_format {dict(response_format)!r} is not understood.",
        fix='Use {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": '
        "...}}.",
        option="response_format",
    )


def _unusable(cause: str) -> WorkbenchError:
    return invalid(
        f"The JSON schema of response_format cannot be followed: {cause[:300]}",
        fix="Correct the schema, or leave out the keyword it names.",
        option="response_format",
    )
