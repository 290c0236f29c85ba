"""How fast all cores together read memory: the limit of decoding, which reads all weights a token.

Prints one JSON line: ``{"bytes_per_s": ...}``, the best of several passes.
"""

from __future__ import annotations

import json
import time

import torch

BUFFER_BYTES = 2**30  # many times the last-level cache of any desktop or small server
PASSES = 7


def main() -> None:
    """Read the buffer several times with all threads."""
    buffer = torch.ones(BUFFER_BYTES // 4, dtype=torch.float32)
    best = float("inf")
    for _ in range(PASSES):
        started = time.perf_counter()
        buffer.sum()  # one streaming read; the additions are far cheaper than the memory
        best = min(best, time.perf_counter() - started)
    print(json.dumps({"bytes_per_s": BUFFER_BYTES / best}))


if __name__ == "__main__":
    main()
