"""The peer: plain ``transformers.generate`` with a streamer, as its documentation shows it.

Reads one JSON request per line (``prompt``, or ``prompts`` for a static batch; ``max_tokens``;
``ignore_eos`` to always reach it), answers with one JSON line of figures and stamps. Started by
:mod:`benchmarks.overhead` and :mod:`benchmarks.hf_engine`; can be run by hand::

    echo '{"prompt": "Hi", "max_tokens": 16}' | python -m benchmarks.plain_generate FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Stamps(BaseStreamer):  # type: ignore[misc]  # transformers is untyped
    """Notes when each token arrives; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        """Stamp a token."""
        if self._prompt_seen:
            self.times.append(time.monotonic_ns())
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing to flush."""


def main() -> None:
    """Load, then answer until the input ends."""
    folder, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if threads:
        torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic_ns()
        prompts = request.get("prompts") or [request["prompt"]]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            padding=len(prompts) > 1,
        )
        streamer = Stamps()
        never = {"eos_token_id": -1} if request.get("ignore_eos") else {}
        with torch.inference_mode():
            sequences = model.generate(
                **inputs,
                **never,
                max_new_tokens=request["max_tokens"],
                do_sample=False,
                streamer=streamer,
            )
        times = streamer.times
        figures = {
            "ttft_s": (times[0] - started) / 1e9,
            "decode_tps": (len(times) - 1) / ((times[-1] - times[0]) / 1e9),
            "tokens": len(times),
            "t_ns": times,
            "prompt_tokens": inputs["attention_mask"].sum(dim=1).tolist(),
            "texts": tokenizer.batch_decode(
                sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            ),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
