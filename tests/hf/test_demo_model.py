"""The real demo model, both formats, through the provider."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hf.asking import ask
from tests.hf.conftest import MakeProvider
from workbench.hf import converted
from workbench.hf.loading import load
from workbench.hf.protocol import Load
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


async def test_greedy_in_the_fast_form_equals_plain_generate_in_float32(
    real: HuggingFaceProvider, demo_folder: Path, safetensors: str
) -> None:
    prompt = "Write a short story about a lighthouse."
    answer = await ask(real, f"{safetensors}?prompts=step", prompt, max_tokens=40)
    assert answer.text == plain_answer(demo_folder / safetensors, prompt, 40)


def plain_answer(folder: Path, prompt: str, count: int) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
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
    assert resident.details["weights"] == "unpacked"
    answer = await ask(real, GGUF, QUESTION)
    assert "Paris" in answer.text
    assert answer.finish.finish_reason == "stop"


def test_a_gguf_takes_the_fast_form_at_its_first_load(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether it is quicker depends on the machine and on what else runs there.
    monkeypatch.setattr("workbench.hf.quality.is_faster", lambda verdict: True)
    gguf = demo_folder / GGUF
    loaded = load(
        Load(str(gguf.parent), gguf.name, "false", 1, 134_515_008, converted=str(tmp_path / "copy"))
    )
    assert loaded.description.details["quality"]["passed"] is True
    assert loaded.description.dtype == "float16"


def test_an_unpacked_gguf_is_kept_and_used(demo_folder: Path, tmp_path: Path) -> None:
    gguf = demo_folder / GGUF
    copy = tmp_path / "copy"
    wanted = Load(
        str(gguf.parent),
        gguf.name,
        "false",
        1,
        134_515_008,
        options={"engine": "plain"},
        converted=str(copy),
    )
    first = load(wanted)
    assert converted.is_there(copy)
    assert [path for path in tmp_path.iterdir() if path != copy] == []
    # From a folder without the GGUF, so only the copy can have been read.
    second = load(replace(wanted, folder=str(tmp_path / "nothing-here")))
    assert second.description.details["weights"] == "unpacked"
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
    text = "Grüße! What is 12 x 12?"
    assert first.tokenizer(text)["input_ids"] == second.tokenizer(text)["input_ids"]
    assert first.tokenizer.chat_template == second.tokenizer.chat_template
    assert first.eos_ids == second.eos_ids
