"""Weight files that lie about themselves: each is named as what it is, without torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from workbench.hf.headers import BadHeader, read_gguf, read_safetensors

GOOD = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {**GOOD["w"], **changes}}


def safetensors(header: object, data: int = 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": bytes(7),
    "a header longer than the file": safetensors(GOOD, length=10_000),
    "a header of 2^63 bytes": safetensors(GOOD, length=2**63),
    "a header over the limit": safetensors(GOOD, length=101 * 2**20),
    "no JSON": safetensors(b"not json"),
    "cut JSON": safetensors(b'{"w": {"dtype"'),
    "bytes that are no text": safetensors(b"\xff\xfe{}"),
    "a list": safetensors([1, 2]),
    "a number": safetensors(3),
    "null": safetensors(None),
    "nested without end": safetensors(b"[" * 100_000),
    "objects without end": safetensors(b'{"a":' * 100_000),
    "a pickle": b"\x80\x04\x95" + bytes(64),
    "a zip, as torch.save writes": b"PK\x03\x04" + bytes(64),
    "an entry that is text": safetensors({"w": "F32"}),
    "an entry that is null": safetensors({"w": None}),
    "no dtype": safetensors({"w": {"shape": [2, 2], "data_offsets": [0, 16]}}),
    "no shape": safetensors({"w": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "no offsets": safetensors({"w": {"dtype": "F32", "shape": [2, 2]}}),
    "a dtype that is a number": safetensors(entry(dtype=5)),
    "a shape that is text": safetensors(entry(shape="22")),
    "a shape of texts": safetensors(entry(shape=["2", "2"])),
    "a shape of fractions": safetensors(entry(shape=[2.0, 2.0])),
    "an infinite shape": safetensors(
        b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,16]}}'
    ),
    "a shape that is no number": safetensors(
        b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'
    ),
    "a shape of truths": safetensors(entry(shape=[True, 4])),
    "a negative shape": safetensors(entry(shape=[-2, -2])),
    "a huge shape": safetensors(entry(shape=[2**62, 2**62])),
    "a shape that overflows to the right size": safetensors(entry(shape=[2**62, 4])),
    "a million dimensions": safetensors(entry(shape=[1] * 1_000_000)),
    "an integer of 10,000 digits": safetensors(
        b'{"w":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,16]}}'
    ),
    "three offsets": safetensors(entry(data_offsets=[0, 8, 16])),
    "offsets backwards": safetensors(entry(data_offsets=[16, 0])),
    "negative offsets": safetensors(entry(data_offsets=[-16, 0])),
    "offsets after the end": safetensors(entry(data_offsets=[16, 32])),
    "offsets that are text": safetensors(entry(data_offsets=["0", "16"])),
    "a size that is not the shape's": safetensors(entry(shape=[3, 2])),
    "overlapping tensors": safetensors(
        {"a": entry()["w"], "b": entry(data_offsets=[8, 24])["w"]}, data=24
    ),
    "two tensors in the same bytes": safetensors({"a": entry()["w"], "b": entry()["w"]}),
}


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def gguf(
    *entries: bytes,
    tensors: bytes = b"",
    counts: tuple[int, int] | None = None,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    tensor_count, entry_count = counts or (1 if tensors else 0, len(entries))
    head = magic + struct.pack("<IQQ", version, tensor_count, entry_count)
    return head + b"".join(entries) + tensors + bytes(64)


def item(name: bytes | str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, length: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + content


def tensor(name: str = "w", dims: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", n) for n in dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def nested(depth: int) -> bytes:
    return array(4, 0) if depth == 0 else array(9, 1, nested(depth - 1))


GGUF: dict[str, bytes] = {
    "empty": b"",
    "the magic alone": b"GGUF",
    "another magic": gguf(magic=b"GGJT"),
    "the magic backwards": gguf(magic=b"FUGG"),
    "a pickle": b"\x80\x04\x95" + bytes(64),
    "an executable": b"\x7fELF" + bytes(64),
    "version 0": gguf(version=0),
    "version 1": gguf(version=1),
    "version 4": gguf(version=4),
    "the other byte order": gguf(version=3 << 24),
    "2^63 tensors": gguf(counts=(2**63, 0)),
    "2^63 entries": gguf(counts=(0, 2**63)),
    "entries that are not there": gguf(counts=(0, 1000)),
    "a name of 2^63 bytes": gguf(struct.pack("<Q", 2**63), counts=(0, 1)),
    "a name longer than the file": gguf(struct.pack("<Q", 10_000), counts=(0, 1)),
    "a name of 100 kB": gguf(item("a" * 100_000, 4, bytes(4))),
    "a text of 2^40 bytes": gguf(item("a", 8, struct.pack("<Q", 2**40))),
    "a value of an unknown type": gguf(item("a", 99, bytes(8))),
    "a list of an unknown type": gguf(item("a", 9, array(99, 1))),
    "a list of 2^62 texts": gguf(item("a", 9, array(8, 2**62))),
    "a list of 2^62 lists": gguf(item("a", 9, array(9, 2**62))),
    "a list of 2^62 numbers": gguf(item("a", 9, array(4, 2**62))),
    "a list of five million empty texts": gguf(item("a", 9, array(8, 5_000_000, bytes(64)))),
    "lists in lists in lists in lists in lists": gguf(item("a", 9, nested(5))),
    "alignment 0": gguf(item("general.alignment", 4, struct.pack("<I", 0))),
    "alignment 4 GB": gguf(item("general.alignment", 4, struct.pack("<I", 2**32 - 1))),
    "a negative alignment": gguf(item("general.alignment", 5, struct.pack("<i", -32))),
    "an alignment that is text": gguf(item("general.alignment", 8, text("32"))),
    "an alignment that is a truth": gguf(item("general.alignment", 7, b"\x01")),
    "a tensor of nine dimensions": gguf(tensors=tensor(dims=(1,) * 9)),
    "a tensor of 2^32 dimensions": gguf(tensors=text("w") + struct.pack("<I", 2**32 - 1)),
    "a tensor of 2^63 elements": gguf(tensors=tensor(dims=(2**63,))),
    "elements that overflow to few": gguf(tensors=tensor(dims=(2**32, 2**32, 2**32))),
    "a tensor after the end": gguf(tensors=tensor(offset=2**40)),
    "a tensor longer than the file": gguf(tensors=tensor(dims=(10_000,))),
    "a tensor whose entry is cut": gguf(tensors=tensor()[:-12], counts=(1, 0))[:-64],
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS.keys())
def test_hostile_safetensors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadHeader):
        read_safetensors(path)


@pytest.mark.parametrize("content", GGUF.values(), ids=GGUF.keys())
def test_hostile_gguf(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadHeader):
        read_gguf(path)


def test_the_good_ones_are_read(tmp_path: Path) -> None:
    """What the tables above change one thing of."""
    path = tmp_path / "model"
    path.write_bytes(safetensors({**GOOD, "__metadata__": {"format": "pt"}}))
    assert (read_safetensors(path).parameters, read_safetensors(path).dtype) == (4, "float32")
    path.write_bytes(
        gguf(
            item("general.alignment", 4, struct.pack("<I", 32)),
            item("words", 9, array(8, 2, text("a") + text("b"))),
            tensors=tensor(dims=(2, 2)),
        )
    )
    assert read_gguf(path).parameters == 4
    assert read_gguf(path).metadata["words"] == "list of 2"
