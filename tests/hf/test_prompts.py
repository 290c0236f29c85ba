"""Prompts in bfloat16 beside packed steps: only where right and quicker, and only for prompts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hf.conftest import MakeProvider
from workbench.hf import files, footprint, quality, weights
from workbench.hf.digest import state_of
from workbench.hf.loading import LoadedModel, load
from workbench.hf.options import LoadOptions
from workbench.hf.protocol import Load
from workbench.hf.slots import SlotRunner
from workbench.hf.verdicts import Verdicts

PROMPT = [(7 * n + 3) % 60 for n in range(40)]


@pytest.fixture(scope="module")
def folder(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose file holds bfloat16, as most do."""
    from transformers import AutoModelForCausalLM

    made = tmp_path_factory.mktemp("stored") / "model"
    shutil.copytree(tiny_models / "org/endless", made)
    model: Any = AutoModelForCausalLM.from_pretrained(made, dtype=torch.bfloat16)
    model.save_pretrained(made)
    return made


@pytest.fixture(autouse=True)
def quick_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of two layers gains nothing; whether forms are right is what is tested here."""
    monkeypatch.setattr(quality, "is_faster", lambda verdict: True)
    pace = dict.fromkeys((32, 64, 128), 1.0)
    monkeypatch.setattr(quality, "prompt_paces", lambda runner: (dict.fromkeys(pace, 2.0), pace))


def load_it(folder: Path, verdict: dict[str, Any] | None = None, **how: Any) -> LoadedModel:
    wanted = Load(str(folder), None, "false", 1, None, verdict=verdict, **{"prompts": True, **how})
    return load(wanted)


def logits(loaded: LoadedModel, prompts: list[list[int]], steps: int) -> list[torch.Tensor]:
    """After the prompts, and after each of some steps."""
    runner = loaded.runner
    assert isinstance(runner, SlotRunner)
    runner.release()
    with torch.inference_mode():
        rows = [runner.forward(0, prompts, [0] * len(prompts))]
        for step in range(steps):
            starts = [len(prompt) + step for prompt in prompts]
            rows.append(runner.forward(0, [[5]] * len(prompts), starts))
    return rows


def test_prompts_are_read_in_bfloat16_and_steps_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, packed = load_it(folder), load_it(folder, prompts=False)
    details = loaded.description.details
    assert (details["form"], details["prompts"], details["step"]) == (
        "packed",
        "bfloat16",
        "recorded",
    )
    assert details["quality"]["prompts_from"] == 32
    assert details["quality"]["prompts_agreement"] >= 0.97
    assert packed.description.details["prompts"] == "packed"
    used: list[int] = []
    product = weights.product

    def counted(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        used.append(x.numel() // x.shape[-1])
        assert x.dtype == torch.bfloat16
        return product(x, matrix)

    monkeypatch.setattr(weights, "product", counted)
    got = logits(loaded, [PROMPT], 3)
    assert set(used) == {40}  # the prompt, whole, and none of the steps
    expected = logits(packed, [PROMPT], 3)
    for one, other in zip(got, expected, strict=True):
        assert not torch.equal(one, other)
        assert float((one - other).abs().mean()) < 0.05 * float(other.std())
    # A piece that is too short, and steps of many requests, are computed as ever.
    used.clear()
    for prompts in ([PROMPT[:9]], [[3]] * 40):
        same = zip(logits(loaded, prompts, 1), logits(packed, prompts, 1), strict=True)
        assert all(torch.equal(one, other) for one, other in same)
    assert not used


def test_what_was_found_is_believed_the_next_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_it(folder)
    monkeypatch.setattr(quality, "logits_of", None)
    again = load_it(folder, first.description.details["quality"])
    assert again.description.details["prompts"] == "bfloat16"
    for one, other in zip(logits(first, [PROMPT], 2), logits(again, [PROMPT], 2), strict=True):
        assert torch.equal(one, other)
    kept = [m for m in again.model.modules() if isinstance(m, weights.PromptLinear)]
    assert len(kept) == 14
    without = load_it(folder, first.description.details["quality"], prompts=False)
    assert without.description.details["prompts"] == "packed"
    assert not any(isinstance(m, weights.PromptLinear) for m in without.model.modules())


@pytest.mark.parametrize("fault", ["wrong", "slow", "raises"])
def test_prompts_that_would_be_wrong_or_slow_are_read_as_steps_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    class Faulty(weights.PromptLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self._all.reading:
                return super().forward(x)
            if fault == "raises":
                raise RuntimeError("no such kernel")
            return super().forward(x).flip(-1) if fault == "wrong" else super().forward(x)

    monkeypatch.setattr(weights, "PromptLinear", Faulty)
    if fault == "slow":
        pace = dict.fromkeys((32, 64, 128), 1.0)
        monkeypatch.setattr(quality, "prompt_paces", lambda runner: (pace, pace))
    loaded = load_it(folder)
    details = loaded.description.details
    assert (details["form"], details["prompts"]) == ("packed", "packed")
    assert details["quality"]["passed"] is True
    assert details["quality"]["prompts_from"] == 0
    assert not any(isinstance(m, Faulty) for m in loaded.model.modules())
    packed = load_it(folder, prompts=False)
    for one, other in zip(logits(loaded, [PROMPT], 1), logits(packed, [PROMPT], 1), strict=True):
        assert torch.equal(one, other)


def test_matrices_laid_out_for_prompts_give_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(70, 96, generator=generator).bfloat16()
    for shape in ((5, 96), (2, 17, 96), (1, 130, 96)):
        x = torch.randn(shape, generator=generator).bfloat16()
        got = weights.product(x, weights.laid_out(matrix))
        torch.testing.assert_close(got, torch.nn.functional.linear(x, matrix))


def test_weights_of_another_type_are_not_kept(tiny_models: Path) -> None:
    details = load_it(tiny_models / "org/endless").description.details
    assert details["prompts"] == "packed"
    assert details["quality"]["prompts_from"] == 0  # asked, and never again


def test_which_files_are_kept_for_prompts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = files.resolve(folder.parent, folder.name)
    size = int(model.info.details["expected_bytes"])

    def keeps(options: str = "", limit: int = 10**9) -> bool:
        return footprint.keeps_for_prompts(model, LoadOptions.parse(options), limit)

    monkeypatch.setattr(footprint, "multiplies_bfloat16", lambda: True)
    assert keeps()
    assert keeps(limit=size)
    assert not keeps(limit=size - 1)
    for options in ("prompts=step", "quantization=int8", "dtype=float32", "engine=plain"):
        assert not keeps(options)
    monkeypatch.setattr(footprint, "multiplies_bfloat16", lambda: False)
    assert not keeps()


async def test_a_verdict_that_says_nothing_of_prompts_is_asked_again(
    folder: Path, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "multiplies_bfloat16", lambda: True)
    manager = make_provider(folder.parent).manager
    state = state_of(await manager.resolve(folder.name))

    async def variant(options: str = "") -> str:
        found = await manager.footprint(folder.name + options)
        assert found is not None
        return found.variant

    Verdicts(folder.parent).put(state, {"form": "packed", "passed": True})
    assert await variant() == "check"
    assert await variant("?prompts=step") == ""
    Verdicts(folder.parent).put(state, {"form": "packed", "passed": True, "prompts_from": 0})
    assert await variant() == ""
