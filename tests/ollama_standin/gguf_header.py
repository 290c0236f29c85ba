"""The header of a GGUF file: metadata and tensor list, without touching the weights.

Long arrays (the vocabulary) are skipped instead of decoded: ``/api/show`` answers null for them,
and start-up must be quick.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    12: "Q3_K_M",
    15: "Q4_K_M",
    17: "Q5_K_M",
    18: "Q6_K",
    32: "BF16",
}


@dataclass(frozen=True)
class GgufHeader:
    """What the server tells about a model file."""

    metadata: dict[str, Any]
    tensors: list[dict[str, Any]]

    @property
    def architecture(self) -> str:
        """The family, for example ``llama``."""
        return str(self.metadata["general.architecture"])

    def of_architecture(self, key: str) -> int:
        """An integer stored under the architecture's own prefix."""
        return int(self.metadata[f"{self.architecture}.{key}"])

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(prod(tensor["shape"]) for tensor in self.tensors)

    @property
    def quantization(self) -> str:
        """The name of the file type."""
        return _FILE_TYPES.get(int(self.metadata.get("general.file_type", -1)), "unknown")


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32, as Go prints one: 1e-05, not 9.99...e-06."""
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next(c for c in candidates if struct.pack("<f", c) == struct.pack("<f", value))


class _Cursor:
    """Reads forward through the mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return value

    def skip_string(self) -> None:
        length = self.scalar("<Q")
        self.position += length

    def string(self) -> str:
        length = self.scalar("<Q")
        self.position += length
        return self.data[self.position - length : self.position].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.skip_array()
        if kind == _FLOAT32:
            return _shortest(self.scalar("<f"))
        return self.scalar(_SCALARS[kind])

    def skip_array(self) -> None:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind in _SCALARS:
            self.position += count * struct.calcsize(_SCALARS[kind])
            return
        for _ in range(count):
            if kind == _STRING:
                self.skip_string()
            else:
                self.skip_array()


def read_header(path: Path) -> GgufHeader:
    """Parse the header of ``path``."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file")
        cursor = _Cursor(data)
        cursor.position = 8
        tensor_count, value_count = cursor.scalar("<Q"), cursor.scalar("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            key = cursor.string()
            metadata[key] = cursor.value(cursor.scalar("<I"))
        tensors: list[dict[str, Any]] = []
        for _ in range(tensor_count):
            name = cursor.string()
            shape = [cursor.scalar("<Q") for _ in range(cursor.scalar("<I"))]
            kind = cursor.scalar("<I")
            cursor.position += 8  # the offset of the weights
            tensors.append(
                {"name": name, "type": _TENSOR_TYPES.get(kind, f"TYPE_{kind}"), "shape": shape}
            )
    return GgufHeader(metadata, tensors)
