"""What files say of the memory that a model will take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hf import tiny
from workbench.hf import files
from workbench.hf.footprint import footprint
from workbench.hf.options import LoadOptions
from workbench.prediction import predict
from workbench.providers.base import Footprint

MB = 2**20
PROCESS = 200 * MB
PASSED: Mapping[str, Any] = {"passed": True}


def of(
    root: Path,
    name: str,
    options: str = "",
    *,
    verdict: Mapping[str, Any] | None = PASSED,
    device: str = "cpu",
    num_ctx: int | None = None,
    prompts: bool = False,
) -> Footprint:
    made = footprint(
        files.resolve(root, name),
        LoadOptions.parse(options),
        device=device,
        known_verdict=verdict,
        num_ctx=num_ctx,
        copy_there=True,
        prompts=prompts,
    )
    assert made is not None
    return made


@pytest.fixture
def demo(demo_folder: Path, demo_safetensors: str) -> tuple[Path, str]:
    return demo_folder, demo_safetensors.removeprefix("huggingface/")


@pytest.mark.parametrize(
    ("options", "verdict", "measured_mb"),
    [
        ("", None, 1325),
        ("", PASSED, 960),
        ("dtype=float32", PASSED, 968),
        ("quantization=int8", PASSED, 860),
        ("quantization=int4", PASSED, 720),
    ],
)
def test_peaks_of_the_demo_model_are_near_the_measured_ones(
    demo: tuple[Path, str], options: str, verdict: Mapping[str, Any] | None, measured_mb: int
) -> None:
    """Measured on a machine with two cores, see benchmarks/RESULTS.md."""
    expected = predict(of(*demo, options, verdict=verdict), [], None).peak(8192)["host"]
    assert expected == pytest.approx(measured_mb * MB, rel=0.15)


def test_a_form_that_failed_its_check_is_not_expected(demo: tuple[Path, str]) -> None:
    packed, plain = of(*demo), of(*demo, verdict={"passed": False})
    assert plain.answering_bytes["host"] < packed.answering_bytes["host"]
    assert of(*demo, verdict=None).variant == "check"
    assert packed.variant == plain.variant == ""


def test_each_token_of_context_adds_its_keys_and_values(demo: tuple[Path, str]) -> None:
    made = of(*demo)
    assert made.token_bytes == {"host": 2 * 30 * 3 * 64 * 4}  # layers, heads, size, float32
    assert (made.context, of(*demo, "num_ctx=512").context) == (8192, 512)
    assert of(*demo, num_ctx=1024).context == 1024


def test_matrices_kept_for_prompts_count(demo: tuple[Path, str]) -> None:
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    used = {**PASSED, "prompts_from": 32}
    without, kept = (of(*demo, verdict=used, prompts=prompts) for prompts in (False, True))
    more = kept.answering_bytes["host"] - without.answering_bytes["host"]
    assert more == pytest.approx(30 * layer * 2, rel=0.001)
    assert kept.peak_bytes["host"] - without.peak_bytes["host"] == more
    refused = of(*demo, verdict={**PASSED, "prompts_from": 0}, prompts=True)
    assert refused == without


def test_a_gpu_holds_the_weights(demo: tuple[Path, str]) -> None:
    made = of(*demo, device="cuda:1")
    assert set(made.peak_bytes) == {"host", "cuda:1"}
    assert made.peak_bytes["cuda:1"] > 269 * 10**6


def test_another_kind_of_model_is_guessed_from_its_size(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "odd", num_hidden_layers=None)
    made = of(tmp_path, "odd")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert PROCESS < made.peak_bytes["host"] < PROCESS + 3 * size
