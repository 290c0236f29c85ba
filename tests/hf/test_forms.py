"""Fast forms of the weights: right, refused when they are not, and remembered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import files, quality, verdicts, weights
from workbench.hf.digest import state_of
from workbench.hf.loading import LoadedModel, load
from workbench.hf.protocol import Load
from workbench.hf.slots import SlotRunner
from workbench.hf.verdicts import Verdicts


def load_tiny(root: Path, verdict: dict[str, Any] | None = None, **options: Any) -> LoadedModel:
    return load(
        Load(str(root / "org/endless"), None, "false", 1, None, options=options, verdict=verdict)
    )


@pytest.fixture(autouse=True)
def fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of two layers gains nothing from packing; that is not what is tested here."""
    monkeypatch.setattr(quality, "is_faster", lambda verdict: True)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (weights.PackedLinear, 0.002),
        (weights.Int8Linear, 0.02),
        (weights.DynamicInt8Linear, 0.03),
        (weights.Int4Linear, 0.15),
    ],
)
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_form_computes_nearly_what_the_matrix_does(
    form: Callable[..., nn.Module], error: float, rows: int, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(64, 96, generator=generator)
    bias = torch.randn(64, generator=generator) if with_bias else None
    x = torch.randn(2, rows, 96, generator=generator)
    expected = nn.functional.linear(x, weight, bias)
    got = form(weight, bias)(x)
    assert got.shape == expected.shape
    assert got.dtype == torch.float32
    assert (got - expected).abs().mean() / expected.abs().mean() < error


def test_packed_rows_depend_on_their_neighbours_by_rounding_only() -> None:
    generator = torch.Generator().manual_seed(1)
    packed = weights.PackedLinear(torch.randn(64, 96, generator=generator), None)
    x = torch.randn(17, 96, generator=generator)
    together = packed(x)
    alone = torch.cat([packed(x[n : n + 1]) for n in range(17)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    # Neighbours a million times larger change nothing either: no scale is shared between rows.
    x[1:] *= 1e6
    torch.testing.assert_close(packed(x)[0], together[0], rtol=1e-5, atol=1e-5)


def test_a_large_matrix_is_packed_by_pieces_that_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(70, 96, generator=generator), torch.randn(70, generator=generator)
    x = torch.randn(3, 2, 96, generator=generator)
    for one_bias in (bias, None):
        whole = weights.PackedLinear(weight, one_bias)(x)
        with monkeypatch.context() as patch:
            patch.setattr(weights, "_PIECE_BYTES", 32 * 96 * 4)
            pieces = weights.PackedLinear(weight, one_bias)
        assert torch.equal(pieces(x), whole)


def test_rounded_rows_do_not_depend_on_their_neighbours() -> None:
    generator = torch.Generator().manual_seed(1)
    rounded = weights.DynamicInt8Linear(torch.randn(64, 96, generator=generator), None)
    x = torch.randn(17, 96, generator=generator)
    x[1:9] *= 1e6
    x[9:15] *= 1e-6
    x[15], x[16] = 0, 3
    x[12, 5], x[13] = float("inf"), float("nan")
    together = rounded(x)
    for n in range(17):
        # Equal to the last bit, numbers that are none included.
        torch.testing.assert_close(
            rounded(x[n : n + 1])[0], together[n], rtol=0, atol=0, equal_nan=True
        )
    assert together[13].isnan().all()
    assert not together[12].isfinite().any()
    assert (together[15] == 0).all()


@pytest.mark.parametrize("rounding_passes", [True, False])
def test_int8_rounds_activations_where_that_passes(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, rounding_passes: bool
) -> None:
    class Wrong(weights.DynamicInt8Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).flip(-1)

    # The limits are for trained models; the noise of this one is more easily disturbed.
    monkeypatch.setitem(quality.LIMITS, "int8", (1.2, 0.7))
    if not rounding_passes:
        monkeypatch.setitem(weights.FORMS, "int8_dynamic", Wrong)
    loaded = load_tiny(tiny_models, quantization="int8")
    details = loaded.description.details
    assert details["form"] == ("int8_dynamic" if rounding_passes else "int8")
    assert (loaded.description.dtype, details["step"]) == ("int8", "recorded")
    down = [m for name, m in loaded.model.named_modules() if name.endswith("down_proj")]
    assert {type(module) for module in down} == {weights.Int8Linear}
    # Remembered is what was made in the end, and it is not tried again.
    monkeypatch.setattr(quality, "logits_of", None)
    again = load_tiny(tiny_models, details["quality"], quantization="int8")
    assert again.description.details["form"] == details["form"]


def test_weights_beyond_float16_are_not_packed() -> None:
    with pytest.raises(weights.Unsuitable, match="float16"):
        weights.PackedLinear(torch.full((16, 32), 1e6), None)
    with pytest.raises(weights.Unsuitable):
        weights.PackedLinear(torch.full((16, 32), float("nan")), None)


def test_a_model_is_packed_when_it_stays_right(tiny_models: Path) -> None:
    loaded = load_tiny(tiny_models)
    assert loaded.description.dtype == "float16"
    assert loaded.description.details["form"] == "packed"
    verdict = loaded.description.details["quality"]
    assert verdict["passed"] is True
    assert verdict["perplexity"] == pytest.approx(verdict["reference_perplexity"], rel=0.01)
    # The count is the model's own, which packed weights no longer show.
    plain = load_tiny(tiny_models, engine="plain")
    assert loaded.description.parameters == plain.description.parameters


def test_a_form_that_answers_garbage_is_not_used(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Garbage(weights.PackedLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).flip(-1)

    for name in ("packed", "int8", "int8_dynamic"):
        monkeypatch.setitem(weights.FORMS, name, Garbage)
    loaded = load_tiny(tiny_models)
    assert loaded.description.details["form"] == "plain"
    assert loaded.description.details["quality"]["passed"] is False
    assert not any(isinstance(m, Garbage) for m in loaded.model.modules())
    with pytest.raises(WorkbenchError, match="int8 is not used") as caught:
        load_tiny(tiny_models, quantization="int8")
    assert caught.value.code is ErrorCode.HF_INVALID_CONFIG


def test_a_verdict_is_believed_the_next_time(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = load_tiny(tiny_models).description.details["quality"]

    def not_again(*unused: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(quality, "logits_of", not_again)
    assert load_tiny(tiny_models, verdict).description.details["form"] == "packed"
    failed = {**verdict, "passed": False, "problem": "it was wrong here"}
    assert load_tiny(tiny_models, failed).description.details["form"] == "plain"
    with pytest.raises(WorkbenchError, match="it was wrong here"):
        load_tiny(tiny_models, {**failed, "form": "int8"}, quantization="int8")


def test_a_model_of_unknown_layers_is_run_as_it_is(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose forward pass does not honour our cache answers wrongly in a batch."""
    forward = SlotRunner.forward

    def deaf(self: SlotRunner, low: int, tokens: Any, starts: Any) -> Any:
        return forward(self, low, tokens, [0] * len(starts))

    monkeypatch.setattr(SlotRunner, "forward", deaf)
    loaded = load_tiny(tiny_models, dtype="float32")
    assert loaded.description.details["engine"] == "plain"


def test_verdicts_are_kept_for_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = {"form": "packed", "passed": True}
    Verdicts(tmp_path).put("digest", verdict)
    assert Verdicts(tmp_path).get("digest", "packed") == verdict
    assert Verdicts(tmp_path).get("digest", "int8") is None
    assert Verdicts(tmp_path).get("another", "packed") is None
    assert Verdicts(tmp_path).get(None, "packed") is None
    monkeypatch.setattr(verdicts, "_machine", lambda: "another processor")
    assert Verdicts(tmp_path).get("digest", "packed") is None


def test_a_verdict_is_on_the_weights_as_they_are_now(tiny_models: Path, tmp_path: Path) -> None:
    """Their digest is of samples: a copy that was edited elsewhere had the verdict of the model."""
    for name in ("one", "two"):
        shutil.copytree(tiny_models / "org/endless", tmp_path / name)
    one, two = (files.resolve(tmp_path, name) for name in ("one", "two"))
    weights = two.folder / "model.safetensors"
    assert one.info.digest == two.info.digest
    before = state_of(two)
    assert before is not None
    weights.write_bytes(weights.read_bytes())  # as an editor of tensors leaves it
    assert state_of(two) not in (None, before)
    weights.unlink()
    assert state_of(two) != before


def test_a_damaged_file_of_verdicts_asks_again(tmp_path: Path) -> None:
    (tmp_path / verdicts.FILE).write_text("{ not json")
    assert Verdicts(tmp_path).get("digest", "packed") is None
    Verdicts(tmp_path).put("digest", {"form": "packed", "passed": True})
    assert Verdicts(tmp_path).get("digest", "packed") is not None
