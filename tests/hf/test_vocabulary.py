"""A tokenizer is opened as a load opens it, and its ids must fit the model."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tests.hf import tiny
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import child, proving, verification, vocabulary
from workbench.settings import Settings


def tokenizer(template: str | None = None) -> tuple[Any, int]:
    """One with a token for pictures beyond a vocabulary of this size."""
    made = tiny.wrapped(tiny.byte_level(), chat_template=template)
    size = len(made)
    made.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    return made, size


def test_a_token_that_no_prompt_has_may_lie_beyond_the_vocabulary() -> None:
    made, size = tokenizer(tiny.CHAT_TEMPLATE)
    vocabulary.check_ids("m", made, size)


def test_a_token_of_the_template_or_of_any_text_may_not() -> None:
    made, size = tokenizer("<image>" + tiny.CHAT_TEMPLATE)
    with pytest.raises(WorkbenchError, match=f"ids go up to {size}, but a vocabulary of {size}"):
        vocabulary.check_ids("m", made, size)
    made, size = tokenizer()
    with pytest.raises(WorkbenchError) as caught:
        vocabulary.check_ids("m", made, size - 1)
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED
    assert "one revision" in str(caught.value.fix)


def test_a_real_model_is_proven_and_a_broken_tokenizer_is_not(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "m")
    vocabulary.prove(folder, None, None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    with pytest.raises(WorkbenchError, match="a vocabulary of 300 tokens"):
        vocabulary.prove(folder, None, None)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Nothing"}}))
    with pytest.raises(WorkbenchError, match="tokenizer of m cannot be read"):
        vocabulary.prove(folder, None, None)


@pytest.mark.parametrize(
    ("script", "word"),
    [("raise SystemExit(3)", "ended the process"), ("import time; time.sleep(60)", "not open")],
)
def test_a_tokenizer_that_ends_or_holds_up_its_reader_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, script: str, word: str
) -> None:
    tiny.write_folder(settings.hf_model_path / "m")
    monkeypatch.setattr(child, "command", lambda module: [sys.executable, "-c", script])
    quick = settings.model_copy(
        update={"hf_model_timeout_ms": 300 if "sleep" in script else 60_000}
    )
    never = threading.Event()
    verdicts = verification.verify(quick, None, lambda *step: None, never)
    proving.prove(quick, verdicts, lambda *step: None, never)
    (told,) = (verdict.to_dict() for verdict in verdicts)
    assert (told["ok"], told["tokenizer"]) == (False, False)
    assert word in told["problems"][0]


def test_the_check_can_be_stopped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_folder(settings.hf_model_path / "m")
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(child, "command", lambda module: waiting)
    cancelled = threading.Event()
    verdicts = verification.verify(settings, None, lambda *step: None, cancelled)
    with pytest.raises(WorkbenchError) as caught:
        proving.prove(settings, verdicts, lambda *step: cancelled.set(), cancelled)
    assert caught.value.code is ErrorCode.CANCELLED
