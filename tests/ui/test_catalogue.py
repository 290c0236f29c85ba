"""Which models are offered, in which order, and which ones a fresh page starts with."""

from __future__ import annotations

from typing import Any

from workbench.types import ModelInfo
from workbench.ui.catalogue import choices, has_models, label, ordered, preselect


def model(id: str, **facts: Any) -> ModelInfo:
    provider, _, name = id.partition("/")
    return ModelInfo(id=id, name=name, provider=provider, **facts)


HF = model("huggingface/a", format="safetensors")
HF_TWIN = model("huggingface/b", format="safetensors")
GGUF = model("huggingface/c/c.gguf", format="gguf")
OLLAMA = model("ollama/x:1b", format="gguf")
SCRIPTED = model("scripted/steady", format="schedule")


def test_scripted_models_come_last() -> None:
    assert [info.id for info in ordered([SCRIPTED, OLLAMA, HF])] == [HF.id, OLLAMA.id, SCRIPTED.id]


def test_both_runtimes_are_preselected() -> None:
    assert preselect([SCRIPTED, OLLAMA, GGUF, HF]) == [HF.id, OLLAMA.id]


def test_one_runtime_alone_gives_two_formats() -> None:
    assert preselect([HF, HF_TWIN, GGUF]) == [HF.id, GGUF.id]
    assert preselect([HF, HF_TWIN]) == [HF.id, HF_TWIN.id]


def test_only_what_works_is_preselected() -> None:
    broken = model("huggingface/0", status="unusable", problem="no tokenizer")
    assert preselect([broken, SCRIPTED]) == [None, None]
    assert not has_models([SCRIPTED])


def test_label_tells_siblings_apart() -> None:
    info = model(
        "huggingface/a",
        format="safetensors",
        dtype="bfloat16",
        size_bytes=269_000_000,
        status="resident",
    )
    assert label(info) == "huggingface/a  ·  bf16, safetensors, 269 MB, resident"
    assert label(model("ollama/x")) == "ollama/x"


def test_chosen_model_that_vanished_stays_chosen() -> None:
    entries = choices([HF], ["ollama/gone", None, HF.id])
    assert [value for _, value in entries] == [HF.id, "ollama/gone"]
    assert "not listed" in entries[1][0]
