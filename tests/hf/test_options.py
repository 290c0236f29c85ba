"""Load options: in a name, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import options as load_options
from workbench.hf.options import LoadOptions, canonical, split_name

OPTIONS = st.builds(
    LoadOptions,
    dtype=st.sampled_from(LoadOptions.CHOICES["dtype"]),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    quantization=st.sampled_from(LoadOptions.CHOICES["quantization"]),
    attention=st.sampled_from(LoadOptions.CHOICES["attention"]),
    threads=st.integers(0, 1024),
    num_ctx=st.integers(0, 10_000),
)


@given(options=OPTIONS)
def test_options_survive_being_written_into_a_name(options: LoadOptions) -> None:
    name, text = split_name(f"org/model?{options.text()}")
    assert name == "org/model"
    assert LoadOptions.parse(text) == options


def test_a_name_without_options_has_none() -> None:
    assert split_name("org/model") == ("org/model", "")
    assert LoadOptions.parse("") == LoadOptions()
    assert LoadOptions().text() == ""


def test_a_name_wins_over_the_settings() -> None:
    defaults = LoadOptions.parse("quantization=int8&threads=2")
    assert LoadOptions.parse("threads=1", defaults) == LoadOptions(quantization="int8", threads=1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("quantisation=int8", "quantisation"),
        ("quantization=int3", "int8"),
        ("dtype=float64", "bfloat16"),
        ("device=tpu", "cuda"),
        ("threads=-1", "1024"),
        ("threads=many", "1024"),
        ("threads", "given a value, as in NAME?threads=0"),
        ("engine=plain&quantization=int8", "engine"),
    ],
)
def test_a_bad_option_names_itself_and_what_it_may_be(text: str, named: str) -> None:
    with pytest.raises(WorkbenchError) as caught:
        LoadOptions.parse(text)
    assert caught.value.code is ErrorCode.HF_INVALID_CONFIG
    assert named in f"{caught.value.message} {caught.value.fix}"


def test_what_the_packages_cannot_do_is_refused_before_anything_leaves_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusal(text: str) -> str:
        with pytest.raises(WorkbenchError) as caught:
            LoadOptions.parse(text).check_installed()
        assert caught.value.code is ErrorCode.HF_INVALID_CONFIG
        return f"{caught.value.message} {caught.value.fix}"

    monkeypatch.setattr(load_options, "_torch", lambda: "2.13.0+cpu")
    monkeypatch.setattr(load_options, "find_spec", lambda name: None)
    assert "Leave device out" in refusal("device=cuda:1")
    assert "pip install flash-attn" in refusal("attention=flash_attention_2")
    LoadOptions.parse("device=cpu&attention=sdpa").check_installed()
    monkeypatch.setattr(load_options, "_torch", lambda: "2.13.0+cu130")
    LoadOptions.parse("device=cuda").check_installed()
    # What fetches kernels from the hub is of no use to workers, which are offline.
    monkeypatch.setattr(load_options, "find_spec", lambda name: name == "kernels" or None)
    assert "flash-attn" in refusal("attention=flash_attention_2")
    monkeypatch.setattr(load_options, "find_spec", lambda name: name == "flash_attn" or None)
    LoadOptions.parse("attention=flash_attention_2").check_installed()


@pytest.mark.parametrize(
    "name", ["m", "m?", "m?threads=0", "m?dtype=auto&threads=0", "m?quantization=none"]
)
def test_the_same_way_of_loading_has_one_name(name: str) -> None:
    assert canonical(name) == "m"


def test_the_order_of_options_does_not_matter() -> None:
    assert canonical("m?threads=1&dtype=float32") == canonical("m?dtype=float32&threads=1")


def test_an_option_is_given_once() -> None:
    with pytest.raises(WorkbenchError, match="dtype"):
        canonical("m?dtype=float32&dtype=float16")
