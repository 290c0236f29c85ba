"""How many bytes of weights each token makes a runtime read, from the model files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Final

_BITS: Final = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8}


def safetensors_bytes(folder: Path, options: str = "") -> float:
    """Bytes read per token from a safetensors folder loaded with these options.

    Args:
        folder: with ``config.json`` and ``*.safetensors``.
        options: the part of a model id after ``?``: ``dtype=float32`` and ``quantization=int8``
            change the width. For int8 every matrix is taken to have 8 bits, what is least.
    """
    tied = bool(json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"))
    total = 0.0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        for name, tensor in header.items():
            if name == "__metadata__" or ("embed_tokens" in name and not tied):
                continue  # only one row of an embedding of its own is read; a tied one is the head
            bits = _BITS[tensor["dtype"]]
            if "dtype=float32" in options:
                bits = 32
            if "quantization=int8" in options and len(tensor["shape"]) > 1:
                bits = 8
            total += math.prod(tensor["shape"]) * bits / 8
    return total


def gguf_bytes(file: Path) -> float:
    """Bytes read per token from a GGUF file: all of its tensors, in their packed form."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file))
    names = {tensor.name for tensor in reader.tensors}
    return float(
        sum(
            int(tensor.n_bytes)
            for tensor in reader.tensors
            # As above: with a head of its own the embedding is only looked up.
            if not (tensor.name == "token_embd.weight" and "output.weight" in names)
        )
    )
