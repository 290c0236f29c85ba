"""LoRA adapters in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hf import tiny
from tests.hf.asking import ask
from tests.hf.conftest import MakeProvider


@pytest.mark.filterwarnings("ignore")
async def test_an_adapter_answers_as_peft_has_it_and_not_as_its_base(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny.save_model(tmp_path / "org" / "base")
    adapter = tiny.save_adapter(tmp_path / "tuned", base, "org/base")
    provider = make_provider(tmp_path)
    name = "tuned?dtype=float32"
    answer = await ask(provider, name, "Hello there", max_tokens=20)
    plain = await ask(provider, "org/base?dtype=float32", "Hello there", max_tokens=20)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    tokenizer = AutoTokenizer.from_pretrained(base)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello there"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=20, do_sample=False, repetition_penalty=1.0)[
            0, inputs["input_ids"].shape[1] :
        ]
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert answer.text != plain.text
    info = await provider.show(name)
    assert info.details["adapter"]["base"] == "org/base"


async def test_two_ways_of_loading_are_two_models(
    make_provider: MakeProvider, tiny_models: Path
) -> None:
    provider = make_provider(tiny_models)
    await ask(provider, "org/endless", max_tokens=2)
    await ask(provider, "org/endless?dtype=float32", max_tokens=2)
    resident = {i.name: i for i in await provider.list_models() if i.status == "resident"}
    assert set(resident) == {"org/endless", "org/endless?dtype=float32"}
    assert resident["org/endless?dtype=float32"].dtype == "float32"
    assert resident["org/endless?dtype=float32"].id == "huggingface/org/endless?dtype=float32"
    assert provider.pids("org/endless") != provider.pids("org/endless?dtype=float32")
