"""Headers of weight files, read and checked without loading any weights (and without torch).

A header is data from the internet: every length and offset in it is checked against the file
before it is used, so that a cut or hostile file is named as such instead of crashing a loader.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

# Bounds far above what real files have, so that a header cannot cost minutes or memory.
_MAX_SAFETENSORS_HEADER: Final = 100 * 2**20
_MAX_TENSORS: Final = 1_000_000
_MAX_GGUF_ENTRIES: Final = 1_000_000
_MAX_ARRAY_DEPTH: Final = 4
_MAX_ARRAY_ITEMS: Final = 4_000_000
_MAX_DIMENSIONS: Final = 8
_MAX_ELEMENTS: Final = 2**60
_MAX_NAME: Final = 2**16
_MAX_TEXT: Final = 64 * 2**20
_GGUF_MAGIC: Final = b"GGUF"
_SAFETENSORS_BITS: Final[Mapping[str, int]] = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16,
    "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_DTYPE_NAMES: Final[Mapping[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8",
}  # fmt: skip


class BadHeader(Exception):
    """The file cannot be what its name says; the text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a safetensors file says of its tensors.

    ``dtype`` is that of most of the parameters, in torch's words.
    """

    tensors: frozenset[str]
    parameters: int
    dtype: str | None
    data_start: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself; of long lists in ``metadata`` only the length is kept."""

    version: int
    metadata: Mapping[str, Any]
    parameters: int
    quantization: str | None
    data_start: int

    @property
    def vocabulary(self) -> int | None:
        """Tokens of the tokenizer inside it."""
        length = str(self.metadata.get("tokenizer.ggml.tokens", "")).removeprefix("list of ")
        return int(length) if length.isdecimal() else None


def read_safetensors(path: Path) -> SafetensorsHeader:
    """Read and check the header of a safetensors file.

    Raises:
        BadHeader: if header or offsets do not fit the file.
        OSError: if it cannot be read.
    """
    stat = path.stat()
    return _safetensors(path, stat.st_mtime_ns, stat.st_size)


def read_gguf(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Raises:
        BadHeader: if it is no GGUF, of an unknown version, or cut short.
        OSError: if it cannot be read.
    """
    stat = path.stat()
    return _gguf(path, stat.st_mtime_ns, stat.st_size)


# The caches are keyed by time and size as well: a file that was replaced is read again.


@lru_cache(maxsize=512)
def _safetensors(path: Path, mtime_ns: int, size: int) -> SafetensorsHeader:
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise BadHeader("is cut short: it has no header")
        (length,) = struct.unpack("<Q", start)
        if length > _MAX_SAFETENSORS_HEADER or 8 + length > size:
            raise BadHeader(
                f"is cut short or no safetensors file: its header should have {length} bytes, "
                f"the file has {size}"
            )
        try:
            table = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise BadHeader("has a header that is not JSON") from error
    if not isinstance(table, dict):
        raise BadHeader("has a header that is no table")
    table.pop("__metadata__", None)
    if len(table) > _MAX_TENSORS:
        raise BadHeader(f"claims {len(table)} tensors")
    counts: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in table.items():
        dtype, elements, span = _check_tensor(name, entry, size - 8 - length)
        counts[dtype] = counts.get(dtype, 0) + elements
        spans.append(span)
    _check_overlap(spans)
    main = max(counts, key=lambda dtype: counts[dtype], default=None)
    return SafetensorsHeader(
        tensors=frozenset(table),
        parameters=sum(counts.values()),
        dtype=_DTYPE_NAMES.get(main, main.lower()) if main else None,
        data_start=8 + length,
    )


def _check_overlap(spans: list[tuple[int, int]]) -> None:
    """Tensors lie one after the other; bytes that are two tensors' are a trick."""
    reached = 0
    for begin, end in sorted(spans):
        if begin < reached and end > begin:
            raise BadHeader("has tensors that overlap")
        reached = max(reached, end)


def _whole(value: object) -> int:
    if type(value) is not int:  # not bool, not 1e99
        raise TypeError
    return value


def _check_tensor(name: str, entry: object, data_size: int) -> tuple[str, int, tuple[int, int]]:
    """Type, number of elements and place of one tensor that lies inside the file."""
    try:
        assert isinstance(entry, dict)
        assert isinstance(entry["dtype"], str)
        assert isinstance(entry["shape"], list)
        dtype, shape = entry["dtype"], [_whole(n) for n in entry["shape"]]
        begin, end = (_whole(n) for n in entry["data_offsets"])
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise BadHeader(f"has a malformed entry for the tensor {name[:80]!r}") from error
    if len(shape) > _MAX_DIMENSIONS or any(n > _MAX_ELEMENTS for n in shape):
        raise BadHeader(f"has an impossible shape for the tensor {name[:80]!r}")
    if begin < 0 or end < begin or any(n < 0 for n in shape):
        raise BadHeader(f"has impossible offsets for the tensor {name[:80]!r}")
    if end > data_size:
        raise BadHeader(f"is cut short: {name[:80]!r} ends {end - data_size} bytes after its end")
    elements = math.prod(shape)
    bits = _SAFETENSORS_BITS.get(dtype)
    if bits is not None and (elements * bits + 7) // 8 != end - begin:
        raise BadHeader(f"gives the tensor {name[:80]!r} a size that does not fit its shape")
    return dtype, elements, (begin, end)


# -- GGUF ----------------------------------------------------------------------------------------

_SCALARS: Final[Mapping[int, struct.Struct]] = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class _Cursor:
    """Reads values one after the other; past the end of the file is a :class:`BadHeader`."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0
        self._items = 0

    def scalar(self, kind: struct.Struct) -> Any:
        self._need(kind.size)
        (value,) = kind.unpack_from(self._data, self.at)
        self.at += kind.size
        return value

    def string(self, longest: int = _MAX_TEXT) -> str:
        length = self.scalar(_U64)
        self._need(length)
        if length > longest:
            raise BadHeader(f"has a text of {length} bytes in its header")
        text = self._data[self.at : self.at + length].decode("utf-8", "replace")
        self.at += length
        return text

    def skip_string(self) -> None:
        length = self.scalar(_U64)
        self._need(length)
        self.at += length

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(depth)
        return self.scalar(_scalar(kind))

    def _array(self, depth: int) -> str:
        """Pass over a list (a vocabulary has 100,000 entries that nobody here needs)."""
        kind, length = self.scalar(_U32), self.scalar(_U64)
        if depth >= _MAX_ARRAY_DEPTH:
            raise BadHeader("has lists nested too deeply")
        if kind in (_STRING, _ARRAY):
            self._items += length
        if self._items > _MAX_ARRAY_ITEMS:
            raise BadHeader("has lists longer than any vocabulary")
        if kind == _STRING:
            for _ in range(length):
                self.skip_string()
        elif kind == _ARRAY:
            for _ in range(length):
                self._array(depth + 1)
        else:
            skipped = length * _scalar(kind).size
            self._need(skipped)
            self.at += skipped
        return f"list of {length}"

    def _need(self, count: int) -> None:
        if self.at + count > len(self._data):
            raise BadHeader("is cut short: its header ends early")


def _scalar(kind: int) -> struct.Struct:
    if kind not in _SCALARS:
        raise BadHeader(f"has a value of the unknown type {kind}")
    return _SCALARS[kind]


@lru_cache(maxsize=512)
def _gguf(path: Path, mtime_ns: int, size: int) -> GgufHeader:
    if size < 24:
        raise BadHeader(f"is cut short: it has {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _parse_gguf(data, size)


def _parse_gguf(data: mmap.mmap, size: int) -> GgufHeader:
    if data[:4] != _GGUF_MAGIC:
        raise BadHeader("is no GGUF file: it does not begin with GGUF")
    cursor = _Cursor(data)
    cursor.at = 4
    version = cursor.scalar(_U32)
    if version not in (2, 3):
        raise BadHeader(f"has the GGUF version {version}; 2 and 3 can be read")
    tensor_count, entry_count = cursor.scalar(_U64), cursor.scalar(_U64)
    if tensor_count > _MAX_GGUF_ENTRIES or entry_count > _MAX_GGUF_ENTRIES:
        raise BadHeader("claims an impossible number of entries")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        name = cursor.string(_MAX_NAME)
        metadata[name] = cursor.value(cursor.scalar(_U32))
    parameters, data_bytes = 0, 0
    for _ in range(tensor_count):
        name = cursor.string(_MAX_NAME)
        dimensions = cursor.scalar(_U32)
        if dimensions > _MAX_DIMENSIONS:
            raise BadHeader(f"gives the tensor {name[:80]!r} {dimensions} dimensions")
        elements = math.prod(cursor.scalar(_U64) for _ in range(dimensions))
        if elements > _MAX_ELEMENTS:
            raise BadHeader(f"has an impossible shape for the tensor {name[:80]!r}")
        kind, offset = cursor.scalar(_U32), cursor.scalar(_U64)
        parameters += elements
        data_bytes = max(data_bytes, offset + _tensor_bytes(kind, elements))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20:
        raise BadHeader(f"has the impossible alignment {alignment!r}")
    data_start = -(-cursor.at // alignment) * alignment
    missing = data_start + data_bytes - size
    if missing > 0:
        raise BadHeader(f"is cut short: {missing} bytes of its tensors are missing")
    return GgufHeader(
        version=version,
        metadata=metadata,
        parameters=parameters,
        quantization=_file_type(metadata.get("general.file_type")),
        data_start=data_start,
    )


def _tensor_bytes(kind: int, elements: int) -> int:
    """Bytes that a tensor takes; 0 for a type that is newer than the gguf package."""
    sizes = _block_sizes()
    if kind not in sizes:
        return 0
    block, block_bytes = sizes[kind]
    return -(-elements // block) * block_bytes


@lru_cache(maxsize=1)
def _block_sizes() -> Mapping[int, tuple[int, int]]:
    from gguf.constants import GGML_QUANT_SIZES  # brings numpy along, so only when needed

    return {int(kind): (int(n), int(size)) for kind, (n, size) in GGML_QUANT_SIZES.items()}


def _file_type(number: object) -> str | None:
    """``Q4_1`` for the number 3, and so on."""
    from gguf.constants import LlamaFileType

    try:
        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None
