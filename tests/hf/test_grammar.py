"""Answers of a fixed form come to an end."""

from __future__ import annotations

import json

import torch

from tests.hf import tiny
from workbench.hf.grammar import JsonGrammar, grammar_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"hue": {"enum": ["red", "blue"]}},
    "required": ["hue"],
    "additionalProperties": False,
}


def test_a_model_that_would_write_spaces_for_ever_is_made_to_go_on() -> None:
    tokenizer = tiny.wrapped(tiny.byte_level(), eos_token="<|end|>")
    end = tokenizer.eos_token_id
    made = grammar_tokenizer(tokenizer, len(tokenizer), frozenset([end]))
    grammar = JsonGrammar(made, {"type": "json_schema", "json_schema": {"schema": SCHEMA}})
    ids: list[int] = []
    while len(ids) < 200:
        scores = torch.zeros(len(tokenizer))
        grammar.mask(scores)
        allowed = [n for n in range(len(scores)) if scores[n] == 0]
        spaces = [n for n in allowed if not tokenizer.decode([n]).strip()]
        chosen = (spaces or allowed)[0]
        if chosen == end:
            break
        ids.append(chosen)
        grammar.accept(chosen)
    assert len(ids) < 200
    assert json.loads(tokenizer.decode(ids))["hue"] in ("red", "blue")
