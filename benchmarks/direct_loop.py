"""The worker's own generation loop, without router, engine, pipe, log and HTTP.

Reads requests from its input as :mod:`benchmarks.plain_generate` does, and answers all prompts of
one at once, in the batch that a worker would make of them. Started by :mod:`benchmarks.hf_engine`;
by hand::

    echo '{"prompts": ["Hi"], "max_tokens": 16}' | python -m benchmarks.direct_loop FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from workbench.hf.batch import Batch
from workbench.hf.footprint import multiplies_bfloat16
from workbench.hf.loading import load
from workbench.hf.protocol import Failed, Finished, Generate, Load, Message, Token
from workbench.settings import load_settings
from workbench.types import Options


def main() -> None:
    """Load, then answer until the input ends."""
    settings = load_settings()
    loaded = load(
        Load(sys.argv[1], None, "false", settings.threads, None, prompts=multiplies_bfloat16())
    )
    told: list[Message] = []
    batch = Batch(
        loaded,
        max_batch=settings.hf_max_batch,
        cache_bytes=2**30,
        send=told.append,
        cancelled=lambda number: False,
    )
    print(json.dumps({"ready": loaded.description.details}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompts = request["prompts"]
        options = Options(temperature=0.0, max_tokens=request["max_tokens"])
        told.clear()
        for number, prompt in enumerate(prompts):
            message = {"role": "user", "content": prompt}
            batch.add(Generate(number, [message], options.to_dict(), 0, settings.threads))
        while not batch.idle:
            batch.step()
        print(json.dumps(_figures(told, len(prompts)) | {"t_ns": time.monotonic_ns()}), flush=True)


def _figures(told: list[Message], count: int) -> dict[str, Any]:
    streams: list[dict[str, Any]] = [{"t_ns": [], "n_tokens": [], "text": ""} for _ in range(count)]
    for message in told:
        if isinstance(message, Token):
            stream = streams[message.request_id]
            stream["t_ns"].append(message.t_ns)
            stream["n_tokens"].append(message.n_tokens)
            stream["text"] += message.text
        elif isinstance(message, Finished):
            streams[message.request_id] |= {
                "output_tokens": message.output_tokens,
                "prompt_tokens": message.prompt_tokens,
                "finish_reason": message.finish_reason,
            }
        elif isinstance(message, Failed) and message.request_id is not None:
            streams[message.request_id]["error"] = str(message.error)
    return {"streams": streams}


if __name__ == "__main__":
    main()
