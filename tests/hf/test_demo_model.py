"""The real demo model, both formats, through the provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hf.asking import ask
from tests.hf.conftest import MakeProvider
from workbench.providers.huggingface import HuggingFaceProvider

pytestmark = pytest.mark.model

QUESTION = "What is the capital of France?"
GGUF = "SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def real(make_provider: MakeProvider, demo_folder: Path) -> HuggingFaceProvider:
    """A provider over the demo model; loading may be slow on a busy machine."""
    return make_provider(demo_folder, hf_model_timeout_ms=150_000)


@pytest.fixture
def safetensors(demo_safetensors: str) -> str:
    return demo_safetensors.removeprefix("huggingface/")


async def test_it_answers_and_stops(real: HuggingFaceProvider, safetensors: str) -> None:
    answer = await ask(real, safetensors, QUESTION)
    assert "Paris" in answer.text
    assert answer.finish.finish_reason == "stop"
    assert answer.finish.output_tokens == len(answer.tokens)
    assert answer.tokens[-1].text == ""  # the end token is counted and shows nothing
    info = await real.show(safetensors)
    assert info.chat_template is True
    assert (info.memory_bytes or 0) > 200_000_000


async def test_greedy_equals_plain_generate(
    real: HuggingFaceProvider, demo_folder: Path, safetensors: str
) -> None:
    prompt = "Write a short story about a lighthouse."
    answer = await ask(real, safetensors, prompt, max_tokens=40)
    assert answer.text == plain_answer(demo_folder / safetensors, prompt, 40)


def plain_answer(folder: Path, prompt: str, count: int) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**inputs, max_new_tokens=count, do_sample=False)[0]
    new = ids[inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True))


async def test_the_gguf_file_answers_too(real: HuggingFaceProvider) -> None:
    resident = await real.load(GGUF, keep_alive_s=60)
    assert resident.quantization == "Q4_1"
    assert resident.dtype == "float32"
    assert resident.details["weights"] == "unpacked to float32 at load"
    answer = await ask(real, GGUF, QUESTION)
    assert "Paris" in answer.text
    assert answer.finish.finish_reason == "stop"
