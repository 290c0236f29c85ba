"""Frames: every message survives, however the bytes are cut; garbage is refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.hf import protocol
from workbench.hf.protocol import Decoder, Finished, Generate, Message, ProtocolError, Token, encode

MESSAGES: list[Message] = [
    protocol.Fork(1),
    protocol.Exited(7, None, 9),
    protocol.Load("/models/ä", "x.gguf", "auto", 2, None),
    Generate(3, [{"role": "user", "content": "日本 🚀 \0"}], {"stop": ["a"]}, 1, 2),
    Token(3, "👩‍🚀", 123456789012345678, 1, [{"token": "x", "logprob": -0.25}]),
    Finished(3, "stop", False, 1, 2, {"total": 5}, {"a": None}),
    protocol.Failed(None, {"code": "INTERNAL"}),
]


@given(cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_messages_survive_any_cut(cuts: list[int]) -> None:
    data = b"".join(encode(message) for message in MESSAGES)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = Decoder()
    received = [message for a, b in pairwise(edges) for message in decoder.feed(data[a:b])]
    assert received == MESSAGES


@pytest.mark.parametrize(
    "body", [b"", b"null", b'["Token",{}]', b'["os.system",{}]', b"\x80\x04.", b'["Fork",[1]]']
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">I", len(body)) + body))


def test_an_endless_frame_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">I", 2**31)))
