"""The decoding step as a recorded graph: the numbers of the model itself, whatever takes part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.hf import recorded, weights
from workbench.hf.loading import load
from workbench.hf.protocol import Load
from workbench.hf.slots import SlotRunner

SIZES: Final = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen3": {"head_dim": 8},
    "phi3": {"bos_token_id": 1, "eos_token_id": 2},
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def random_model(family: str, **more: Any) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **more})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each recording, whether it was one by layer."""
    tried = []
    step = recorded.RecordedStep

    def record(*arguments: Any, by_layer: bool) -> recorded.RecordedStep:
        tried.append(by_layer)
        return step(*arguments, by_layer=by_layer)

    monkeypatch.setattr("workbench.hf.slots.RecordedStep", record)
    return tried


@pytest.mark.parametrize(
    ("family", "form"),
    [*((family, "plain") for family in FAMILIES), *(("llama", form) for form in weights.FORMS)],
)
@torch.inference_mode()
def test_recorded_steps_compute_what_the_model_does(
    family: str, form: str, ways: list[bool]
) -> None:
    model = random_model(family)
    if form != "plain":
        weights.convert(model, form)
    fast = SlotRunner(model, torch.float32)
    fast.record()
    assert fast.recorded
    assert ways == [True]  # by layer, at the first try
    assert_same_steps(model, fast)


def assert_same_steps(model: Any, fast: SlotRunner) -> None:
    plain = SlotRunner(model, torch.float32)
    # Other numbers of requests and other lengths than those it was recorded with, long beyond the
    # window of sliding attention, and slots that do not begin with the first.
    for low, lengths in ((0, [1]), (0, [40, 3]), (2, [9, 20, 140]), (0, [5] * 8)):
        prompts = [
            [(3 * n + row) % 60 + 1 for n in range(length)] for row, length in enumerate(lengths)
        ]
        for runner in (plain, fast):
            runner.forward(low, prompts, [0] * len(lengths))
        for step in range(3):
            tokens = [[7 + step]] * len(lengths)
            starts = [length + step for length in lengths]
            expected = plain.forward(low, tokens, starts)
            torch.testing.assert_close(fast.forward(low, tokens, starts), expected)


@torch.inference_mode()
def test_a_layer_that_only_looks_like_the_others_has_the_model_recorded_whole(
    ways: list[bool],
) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, hidden: list[float]) -> None:
            super().__init__()
            self.hidden = hidden

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.hidden[0]

    model = random_model("llama")
    for number, layer in enumerate(model.model.layers):
        layer.mlp.act_fn = Scaled([1.0 + number])
    fast = SlotRunner(model, torch.float32)
    fast.record()
    assert fast.recorded
    assert ways == [True, False]
    assert_same_steps(model, fast)


@torch.inference_mode()
def test_a_model_whose_steps_depend_on_values_is_not_recorded() -> None:
    """Its frequencies change beyond a length; a graph would keep those of the recording."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    runner = SlotRunner(random_model("llama", rope_parameters=rope), torch.float32)
    runner.record()
    assert not runner.recorded


@torch.inference_mode()
def test_a_graph_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    wrong = copy.deepcopy(model)
    wrong.lm_head.weight.mul_(1.01)
    step = recorded.RecordedStep
    monkeypatch.setattr(
        "workbench.hf.slots.RecordedStep",
        lambda _, *arguments, by_layer: step(wrong, *arguments, by_layer=by_layer),
    )
    runner = SlotRunner(model, torch.float32)
    runner.record()
    assert not runner.recorded


@pytest.mark.parametrize(("options", "step"), [({}, "recorded"), ({"engine": "plain"}, "plain")])
def test_a_loaded_model_says_how_it_steps(
    tiny_models: Path, options: Mapping[str, str], step: str
) -> None:
    folder = str(tiny_models / "org/endless")
    loaded = load(Load(folder, None, "false", 1, None, options=dict(options)))
    assert loaded.description.details["step"] == step
