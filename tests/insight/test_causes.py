"""Named causes: each rule speaks when its fact differs, and is silent when a side does not tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workbench.hf.inspecting import _held
from workbench.insight import ParitySheet
from workbench.insight.causes import EFFECTS, causes
from workbench.inspection import Inspection, kinds_of_weights

PLAIN = Inspection(
    model="huggingface/x",
    architecture="llama",
    parameters=135_000_000,
    rendered="<s>user\nHi<e>\n",
    token_ids=(1, 5, 6, 2),
    token_texts=("<s>", "user", "Hi", "<e>"),
    special_tokens={"bos": 1, "eos": 2},
    begin_text="<s>",
    adds_bos=False,
    end_tokens=(2,),
    sampler=(("repetition_penalty", 1.0), ("temperature", 0.0)),
    context_length=8192,
    left_out=0,
    weights={"attention": "BF16", "feed-forward": "BF16"},
    rope={"rope_theta": 100_000.0},
    tokenizer={"vocabulary": 49_152},
)
TWIN = replace(PLAIN, model="ollama/x")
DRAWN = (("repetition_penalty", 1.0), ("top_k", 50.0), ("temperature", 0.7), ("top_p", 0.9))


def codes(a: Inspection, b: Inspection) -> list[str]:
    return [cause.code for cause in causes(a, b)]


def test_twins_have_no_cause() -> None:
    assert codes(PLAIN, TWIN) == []
    assert ParitySheet.of(PLAIN, TWIN).same_prompt is True


@pytest.mark.parametrize(
    ("changes", "code", "effect"),
    [
        (
            {"rendered": "<s>system\nBe kind<e>\n<s>user\nHi<e>\n"},
            "SYSTEM_PROMPT_ADDED",
            "decisive",
        ),
        ({"rendered": "[INST] Hi [/INST]"}, "TEMPLATE_DIFFERS", "decisive"),
        ({"rendered": "<s>user\nHi<e>"}, "TEMPLATE_WHITE_SPACE", "some"),
        ({"rendered": "user\nHi<e>\n"}, "BEGIN_TOKEN", "small"),
        ({"token_ids": (1, 5, 7, 2)}, "TOKENS_DIFFER", "large"),
        ({"left_out": 1200, "context_length": 512}, "PROMPT_CUT", "decisive"),
        ({"parameters": 360_000_000}, "ANOTHER_MODEL", "decisive"),
        ({"tokenizer": {"vocabulary": 49_280}}, "VOCABULARY_DIFFERS", "some"),
        (
            {"weights": {"attention": "Q4_1", "feed-forward": "Q4_1+Q8_0"}},
            "WEIGHTS_ROUNDED",
            "large",
        ),
        ({"weights": {"attention": "Q8_0", "feed-forward": "Q8_0"}}, "WEIGHTS_ROUNDED", "some"),
        ({"weights": {"attention": "F16", "feed-forward": "F16"}}, "WEIGHTS_ROUNDED", "small"),
        (
            {"weights": {"attention": "INT4 (from BF16)", "feed-forward": "INT4 (from BF16)"}},
            "WEIGHTS_ROUNDED",
            "large",
        ),
        (
            {"weights": {"attention": "INT8 (from BF16)", "feed-forward": "INT8 (from BF16)"}},
            "WEIGHTS_ROUNDED",
            "some",
        ),
        ({"refuses": "The prompt has 744 tokens."}, "PROMPT_REFUSED", "decisive"),
        ({"stop": ("</answer>",)}, "STOP_DIFFERS", "some"),
        ({"rope": {"rope_theta": 10_000.0}}, "POSITIONS_DIFFER", "large"),
        ({"context_length": 4096}, "CONTEXT_DIFFERS", "small"),
        ({"computed_in": "float16 weights"}, "ARITHMETIC", "small"),
    ],
)
def test_one_difference_is_named(changes: dict[str, Any], code: str, effect: str) -> None:
    """From either side, and nothing besides it."""
    other = replace(TWIN, **changes)
    found = causes(PLAIN, other)
    assert [(cause.code, cause.effect) for cause in found if cause.code != "CONTEXT_DIFFERS"] == [
        (code, effect)
    ] or code == "CONTEXT_DIFFERS"
    assert code in codes(other, PLAIN)
    assert all(cause.fix and cause.says for cause in found)


def test_what_one_side_does_not_tell_is_no_difference() -> None:
    silent = Inspection(model="openai/x")
    assert codes(PLAIN, silent) == codes(silent, PLAIN) == []
    assert ParitySheet.of(PLAIN, silent).same_prompt is None
    mute = replace(silent, untold={"stop": "it does not tell"})
    assert codes(replace(PLAIN, stop=("</answer>",)), mute) == []


def test_a_prompt_is_said_to_fit_only_where_it_does() -> None:
    def said(**changes: Any) -> str:
        found = causes(PLAIN, replace(TWIN, context_length=4096, **changes))
        return next(cause.says for cause in found if cause.code == "CONTEXT_DIFFERS")

    assert "fits into both" in said()
    for changes in ({"left_out": 1200}, {"left_out": None}, {"refuses": "too long"}):
        assert "fits" not in said(**changes)


def test_stop_strings_that_are_special_tokens_of_the_prompt_do_the_same_as_end_tokens() -> None:
    assert codes(PLAIN, replace(TWIN, stop=("<e>", "<s>"))) == []


def test_seeds_and_the_order_of_samplers_matter_only_where_tokens_are_drawn() -> None:
    llama = (("repetition_penalty", 1.0), ("top_k", 50.0), ("typical_p", 1.0), ("top_p", 0.9),
             ("min_p", 0.0), ("temperature", 0.7))  # fmt: skip
    drawn, other = replace(PLAIN, sampler=DRAWN), replace(TWIN, sampler=llama)
    assert codes(drawn, other) == ["DRAWN_AT_RANDOM", "SAMPLER_ORDER"]
    surest = tuple((name, 1.0 if name == "top_k" else value) for name, value in DRAWN)
    assert codes(replace(drawn, sampler=surest), replace(drawn, sampler=surest)) == []
    (same,) = causes(drawn, replace(drawn, model=f"{drawn.model}?threads=1"))
    assert (same.code, same.effect) == ("DRAWN_AT_RANDOM", "some")
    narrow = replace(other, sampler=tuple((n, 0.1 if n == "min_p" else v) for n, v in llama))
    assert "SAMPLER_ON_ONE_SIDE" in codes(drawn, narrow)
    hot = replace(drawn, sampler=tuple((n, 40.0 if n == "top_k" else v) for n, v in DRAWN))
    assert codes(drawn, replace(hot, model="ollama/x")) == ["DRAWN_AT_RANDOM", "SAMPLING_DIFFERS"]


def test_the_most_effective_comes_first() -> None:
    other = replace(
        TWIN,
        rendered="[INST] Hi [/INST]",
        token_ids=(9, 9),
        weights={"attention": "Q4_1", "feed-forward": "Q4_1"},
        computed_in="int8",
        context_length=512,
    )
    ranks = [EFFECTS.index(cause.effect) for cause in causes(PLAIN, other)]
    assert ranks == sorted(ranks)
    assert len(ranks) >= 4


def test_a_begin_token_that_comes_twice() -> None:
    doubled = replace(TWIN, token_ids=(1, 1, 5, 6, 2), adds_bos=True)
    assert "BEGIN_TOKEN_TWICE" in codes(PLAIN, doubled)


def test_types_of_weights_by_kind() -> None:
    assert kinds_of_weights(
        {
            "blk.0.attn_q.weight": "Q4_1",
            "blk.0.attn_norm.weight": "F32",
            "blk.0.ffn_up.weight": "Q4_1",
            "blk.1.ffn_up.weight": "Q8_0",
            "token_embd.weight": "Q8_0",
            "model.layers.0.self_attn.q_proj.weight": "Q4_1",
            "lm_head.weight": "BF16",
        }
    ) == {
        "attention": "Q4_1",
        "embeddings": "Q8_0",
        "feed-forward": "Q4_1+Q8_0",
        "normalisation": "F32",
        "output head": "BF16",
    }


def test_a_sheet_survives_json_and_shows_where_prompts_differ() -> None:
    sheet = ParitySheet.of(
        PLAIN, replace(TWIN, rendered="<s>user\nHo<e>\n", token_ids=(1, 5, 8, 2))
    )
    import json

    assert ParitySheet.from_dict(json.loads(json.dumps(sheet.to_dict()))) == sheet
    assert [(s.a, s.b) for s in sheet.stretches() if not s.same] == [("i", "o")]
    facts = {fact.name: fact for fact in sheet.facts()}
    assert facts["architecture"].differs is False
    assert facts["weights"].a == "135,000,000"


def test_long_prompts_differ_only_where_they_do() -> None:
    """Other beginnings before what is the same must not make the ends look cut."""
    text = "".join(f"Sentence {n} of a harbour. " for n in range(2_000))
    sheet = ParitySheet.of(
        replace(PLAIN, rendered=f"<s>system\nBe kind<e>{text}<e>\n"),
        replace(TWIN, rendered=f"<s>{text}<e>\n"),
    )
    assert [(s.a, s.b) for s in sheet.stretches() if not s.same] == [("system\nBe kind<e>", "")]
    assert "".join(s.a for s in sheet.stretches()) == sheet.a.rendered
    unlike = ParitySheet.of(
        replace(PLAIN, rendered="<s>" + "ab" * 20_000), replace(TWIN, rendered="<s>" + "c" * 30_000)
    )
    assert [s.same for s in unlike.stretches()] == [True, False]


def test_weights_that_are_rounded_while_loading_are_told_so() -> None:
    stored = {"attention": "BF16", "feed-forward": "BF16", "normalisation": "BF16"}
    assert _held(stored, None) == stored
    assert _held(stored, "int4")["attention"] == "INT4 (from BF16)"
    assert _held(stored, "int4")["normalisation"] == "BF16"
