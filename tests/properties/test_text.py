"""From ids or bytes to text: however an answer is cut into pieces, the same text comes out."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hf import tiny
from tests.properties import times
from workbench.hf.text import AnswerText, CleanUp, StopFilter, ThinkFilter, cleans_up
from workbench.mailbox import Mailbox
from workbench.providers.ollama_client import OllamaClient
from workbench.types import Channel, TokenEvent

WORDS = st.sampled_from(
    [
        "the",
        " Paris",
        "日本語",
        "👩‍🚀",
        "🇫🇷",
        "é",
        "ß",
        "\n",
        "  ",
        " .",
        "don't",
        " '",
        "\u200d",
        "ע",
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=4)), max_size=24).map("".join)
CUTS = st.lists(st.integers(0, 60), max_size=12)


@cache
def tokenizer_of(kind: str) -> Any:
    return tiny.wrapped(getattr(tiny, kind)())


@cache
def demo_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def pieces_of(tokenizer: Any, ids: list[int]) -> list[str]:
    text = AnswerText(
        lambda some: decoded(tokenizer, some),
        tokenizer.clean_up_tokenization if cleans_up(tokenizer) else None,
        (),
    )
    pieces = [*(text.push(token_id) for token_id in ids), text.finish()]
    return ["".join(part for _, part in piece) for piece in pieces]


def parts_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def every_way(text: str, cuts: list[int]) -> list[list[str]]:
    """The text cut as drawn, at each single place, and into its letters."""
    return [
        parts_of(text, cuts),
        *([text[:at], text[at:]] for at in range(len(text) + 1)),
        list(text),
    ]


# -- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(text=TEXTS)
def test_deltas_joined_are_the_decoded_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 399), max_size=60))
def test_bytes_that_form_no_character_come_out_as_decode_has_them(ids: list[int]) -> None:
    tokenizer = tokenizer_of("byte_level")
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.model
@given(text=TEXTS)
def test_the_demo_model_s_tokenizer_too(demo_folder: Path, text: str) -> None:
    tokenizer = demo_tokenizer(str(demo_folder / "SmolLM2-135M-Instruct-GGUF"))
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


SPACED = st.lists(
    st.sampled_from([" ", ".", ",", "?", "!", "'", "n", "t", "n't", "m", "s", "ve", "re", "ab"]),
    max_size=30,
).map("".join)


@given(text=SPACED, cuts=CUTS)
@times(3)
def test_cleaning_in_parts_equals_cleaning_the_whole(text: str, cuts: list[int]) -> None:
    clean = tokenizer_of("cleaned_up").clean_up_tokenization
    for parts in every_way(text, cuts):
        stream = CleanUp(clean)
        assert "".join(stream.push(part) for part in parts) + stream.finish() == clean(text)


# -- stop strings --------------------------------------------------------------------------------

STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def cut_at_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, of several the longest."""
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end - len(stop)], stop


@given(text=st.text(alphabet="ab", max_size=14), cuts=CUTS, stops=STOPS)
@times(6)
def test_nothing_of_a_stop_string_gets_through(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    for parts in every_way(text, cuts):
        stream = StopFilter(stops)
        shown = "".join(stream.push(part) for part in parts) + stream.finish()
        assert (shown, stream.hit) == cut_at_stop(text, stops)


@given(text=st.text(alphabet="ab", max_size=14), stops=STOPS)
@times(3)
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    stream, shown = StopFilter(stops), ""
    for at, letter in enumerate(text, start=1):
        shown += stream.push(letter)
        if stream.hit is not None:
            break
        held = text[len(shown) : at]
        assert held == "" or any(stop.startswith(held) for stop in stops)


# -- thinking ------------------------------------------------------------------------------------

TAGGED = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "</", "<", ">", " ", "\n", "a", "é", "think"]),
    max_size=10,
).map("".join)


def thought(text: str, thinking: bool) -> dict[Channel, str]:
    """Reasoning and answer of a whole text."""
    begin = text.lstrip()
    if not thinking and not begin.startswith("<think>"):
        return {"reasoning": "", "content": text}
    inner = text if thinking else begin.removeprefix("<think>")
    reasoning, close, answer = inner.partition("</think>")
    if not close:
        return {"reasoning": inner.lstrip(), "content": ""}
    return {"reasoning": reasoning.strip(), "content": answer.lstrip()}


def joined(pieces: list[tuple[Channel, str]]) -> dict[Channel, str]:
    return {
        channel: "".join(text for other, text in pieces if other == channel)
        for channel in ("reasoning", "content")
    }


@given(text=TAGGED, cuts=CUTS, thinking=st.booleans())
@times(5)
def test_thinking_and_answer_part_however_the_text_is_cut(
    text: str, cuts: list[int], thinking: bool
) -> None:
    for parts in every_way(text, cuts):
        think = ThinkFilter(thinking)
        pieces = [piece for part in parts for piece in think.push(part)] + think.finish()
        assert joined(pieces) == thought(text, thinking)
        order = [channel for channel, _ in groupby(channel for channel, _ in pieces)]
        assert order in ([], ["content"], ["reasoning"], ["reasoning", "content"])
        assert all(text for _, text in pieces)


# -- all of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(
    text=st.lists(WORDS | TAGGED, max_size=8).map("".join),
    stops=st.lists(st.sampled_from(["</think>", "\n", "本", "the", "é\n", "  ", "a"]), max_size=2),
    thinking=st.none() | st.booleans(),
)
@times(2)
def test_an_answer_streams_as_it_reads(
    kind: str, text: str, stops: list[str], thinking: bool | None
) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole, stop = cut_at_stop(decoded(tokenizer, ids), stops)
    think = ThinkFilter(thinking) if thinking is not None else None
    stream = AnswerText(lambda some: decoded(tokenizer, some), None, stops, think)
    pieces = [piece for token_id in ids for piece in stream.push(token_id)] + stream.finish()
    expected = {"reasoning": "", "content": whole} if thinking is None else thought(whole, thinking)
    assert joined(pieces) == expected
    assert stream.stop_string == stop


# -- what travels on -----------------------------------------------------------------------------


@given(texts=st.lists(TEXTS, max_size=5), cuts=st.lists(st.integers(0, 400), max_size=30))
def test_lines_of_ollama_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    """Between the bytes of a character too; a text may hold line ends and U+0085."""
    lines = [{"message": {"content": f"{text}\x85\u2028\n"}} for text in texts]
    data = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    async def chunks() -> Any:
        for a, b in pairwise(edges):
            yield data[a:b]

    async def read() -> list[dict[str, Any]]:
        client = OllamaClient("http://127.0.0.1:9")
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=chunks()))
        await client.aclose()
        client._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9")
        found = [line async for _, line in client.lines("/api/chat", {})]
        await client.aclose()
        return found

    assert asyncio.run(read()) == lines


TOKENS = st.lists(
    st.tuples(
        st.text(max_size=6), st.integers(0, 3), st.sampled_from(("content", "content", "reasoning"))
    ),
    max_size=20,
)


@given(tokens=TOKENS, chunk_size=st.integers(1, 12), reads=st.sets(st.integers(0, 20)))
@times(3)
def test_a_slow_reader_gets_all_of_it_in_fewer_events(
    tokens: list[tuple[str, int, Channel]], chunk_size: int, reads: set[int]
) -> None:
    """``reads`` are the moments at which it takes what is there."""
    sent = [
        TokenEvent("ses_1", seq, text, n, channel, seq * 10, ({"token": text},))
        for seq, (text, n, channel) in enumerate(tokens)
    ]

    async def read() -> list[TokenEvent]:
        mailbox, got = Mailbox(chunk_size), []

        async def reader() -> None:
            async for event in mailbox:
                assert isinstance(event, TokenEvent)
                got.append(event)

        task = asyncio.create_task(reader())
        for event in sent:
            mailbox.put(event)
            if event.seq in reads:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        mailbox.close()
        await task
        return got

    got = asyncio.run(read())

    def runs(events: list[TokenEvent]) -> list[tuple[Channel, str, int]]:
        return [
            (channel, "".join(e.text for e in run), sum(e.n_tokens for e in run))
            for channel, group in groupby(events, key=lambda e: e.channel)
            for run in [list(group)]
        ]

    assert runs(got) == runs(sent)
    assert [p for e in got for p in e.logprobs] == [p for e in sent for p in e.logprobs]
    assert [e.seq for e in got] == sorted({e.seq for e in got})
    assert got[:1] == sent[:1], "the first token is never held back or joined"
    longest = max((len(e.text) for e in sent), default=0)
    assert all(len(e.text) <= max(chunk_size, longest) for e in got)
    stamps = {e.t_ns for e in sent}
    assert all(e.t_ns in stamps for e in got)
    assert [e.t_ns for e in got] == sorted(e.t_ns for e in got)
