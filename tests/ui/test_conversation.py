"""What a pane sends next and what it shows."""

from __future__ import annotations

from workbench.types import Message, Status
from workbench.ui.conversation import (
    SHOWN_CHARS,
    Turn,
    adopted,
    conversation_id,
    to_send,
    to_show,
)

A, B = "huggingface/a", "ollama/b"


def turn(prompt: str, answer: str = "", *, model: str = A, conversation: str = "con_1") -> Turn:
    return Turn(conversation, model, prompt, answer)


def roles(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def texts(shown: list[dict[str, object]]) -> list[str]:
    return [message["content"][0]["text"] for message in shown]  # type: ignore[index]


def test_first_request_is_the_prompt_alone() -> None:
    assert roles(to_send((), A, "", "Hi")) == [("user", "Hi")]


def test_system_prompt_comes_first_and_blank_is_none() -> None:
    assert roles(to_send((), A, "Be brief.", "Hi"))[0] == ("system", "Be brief.")
    assert roles(to_send((), A, "  \n", "Hi")) == [("user", "Hi")]


def test_follow_up_carries_the_history() -> None:
    sent = to_send((turn("1", "one"), turn("2", "two")), A, "", "3")
    assert roles(sent) == [
        ("user", "1"),
        ("assistant", "one"),
        ("user", "2"),
        ("assistant", "two"),
        ("user", "3"),
    ]


def test_partial_answer_is_sent_as_it_was_read() -> None:
    stopped = Turn("con_1", A, "1", "half an ans", status=Status.CANCELLED, note="cancelled")
    assert roles(to_send((stopped,), A, "", "go on"))[1] == ("assistant", "half an ans")


def test_turn_without_an_answer_is_left_out_with_its_question() -> None:
    failed = Turn("con_1", A, "1", "  ", status=Status.ERROR, note="error HF_TIMEOUT")
    assert roles(to_send((turn("0", "zero"), failed), A, "", "2")) == [
        ("user", "0"),
        ("assistant", "zero"),
        ("user", "2"),
    ]


def test_reasoning_is_never_sent_back() -> None:
    thought = Turn("con_1", A, "1", "one", reasoning="let me see")
    assert "let me see" not in str(to_send((thought,), A, "", "2"))


def test_no_model_gets_another_models_words() -> None:
    turns = (turn("1", "by a"), turn("2", "by b", model=B, conversation="con_2"))
    assert roles(to_send(turns, B, "", "3")) == [
        ("user", "2"),
        ("assistant", "by b"),
        ("user", "3"),
    ]
    assert roles(to_send(turns, A, "", "3")) == [("user", "3")], "not even its own from before"


def test_the_user_may_carry_an_answer_over_and_the_page_says_so() -> None:
    carried = adopted((turn("0", "old", model=B), turn("1", "by a")), A, B)
    assert roles(to_send(carried, B, "", "2"))[:2] == [("user", "1"), ("assistant", "by a")]
    assert carried[0].conversation_id != "con_1"
    assert A in texts(to_show(carried, B))[-1]
    back = adopted(carried, B, A)
    assert texts(to_show(back, A)) == ["1", "by a"], "its own words need no note"


def test_conversation_continues_with_its_model_only() -> None:
    turns = (turn("1", "one"),)
    assert conversation_id(turns, A) == "con_1"
    assert conversation_id(turns, B) not in ("", "con_1")


def test_history_stays_on_the_page_when_the_model_changes() -> None:
    shown = to_show((turn("1", "one"),), B)
    assert texts(shown)[:2] == ["1", "one"]
    assert B in texts(shown)[2]
    assert "not sent" in texts(shown)[2]
    again = to_show((turn("1", "one"), turn("2", "two", model=B)), B)
    assert [t for t in texts(again) if "not sent" in t] == [texts(shown)[2]]


def test_reasoning_is_folded_once_the_answer_begins() -> None:
    thinking = Turn("con_1", A, "1", "", reasoning="hm")
    assert to_show((thinking,), A, live=True)[1]["metadata"] == {
        "title": "thinking",
        "status": "pending",
    }
    answering = Turn("con_1", A, "1", "yes", reasoning="hm")
    assert to_show((answering,), A, live=True)[1]["metadata"]["status"] == "done"


def test_note_says_how_a_turn_ended() -> None:
    stopped = Turn("con_1", A, "1", "half", status=Status.CANCELLED, note="cancelled")
    assert texts(to_show((stopped,), A)) == ["1", "half", "`cancelled`"]
    assert texts(to_show((stopped,), A, live=True)) == ["1", "half"]


def test_note_is_not_said_twice_beside_a_notice() -> None:
    failed = Turn("c", "m", "1", "said", status=Status.ERROR, note="error HF_GENERATION_FAILED")
    assert "HF_GENERATION_FAILED" in str(to_show((failed,), "m"))
    assert "HF_GENERATION_FAILED" not in str(to_show((failed,), "m", told=True))
    both = to_show((failed, Turn("c", "m", "2", "well")), "m", told=True)
    assert "HF_GENERATION_FAILED" in str(both), "of an earlier turn there is no notice"


def test_long_prompt_is_cut_on_the_page_but_not_for_the_model() -> None:
    long = "x" * (SHOWN_CHARS + 5)
    assert len(texts(to_show((turn(long, "y"),), A))[0]) < SHOWN_CHARS + 100
    assert to_send((turn(long, "y"),), A, "", "2")[0].content == long


def test_leading_space_survives() -> None:
    """Gradio's own processing dedents texts; an indented code block must stay one."""
    assert texts(to_show((turn("1", "    indented"),), A))[1] == "    indented"


def test_growing_answer_is_sent_as_a_difference() -> None:
    """Gradio appends only where the new value starts with the old one."""
    from gradio.utils import diff

    before = to_show((turn("1", "one two"),), A, live=True)
    after = to_show((turn("1", "one two three"),), A, live=True)
    assert diff(before, after) == [["append", [1, "content", 0, "text"], " three"]]
