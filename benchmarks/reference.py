"""The yardstick of quality: plain transformers in float32, and in bfloat16 for comparison.

Reads one JSON request per line, answers with one JSON line. ``{"greedy": prompt, "max_tokens": n,
"dtype": d}`` gives ``ids`` and ``prompt_tokens``; ``{"score": prompt, "ids": [...], "dtype": d}``
gives the ``logprobs`` of these tokens, teacher-forced; ``{"encode": text}`` gives its ``ids``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Reference:
    """A model in several dtypes.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._models = {
            name: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)).eval()
            for name in ("float32", "bfloat16")
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one request asks for."""
        if "encode" in request:
            return {
                "ids": self._tokenizer(request["encode"], add_special_tokens=False)["input_ids"]
            }
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": request.get("greedy") or request["score"]}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        model, length = self._models[request["dtype"]], prompt.shape[1]
        with torch.inference_mode():
            if "greedy" in request:
                found = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=request["max_tokens"],
                    do_sample=False,
                )
                return {"ids": found[0, length:].tolist(), "prompt_tokens": length}
            answer = torch.tensor([request["ids"]], dtype=torch.long)
            logits = model(torch.cat([prompt, answer], dim=1)).logits[0, length - 1 : -1]
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            return {"logprobs": logprobs.gather(1, answer[0][:, None])[:, 0].tolist()}


def main() -> None:
    """Load, then answer until the input ends."""
    reference = Reference(sys.argv[1])
    print(json.dumps({"ready": True, "eos": reference._tokenizer.eos_token_id}), flush=True)
    for line in sys.stdin:
        print(json.dumps(reference.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
