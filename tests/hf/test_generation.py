"""One generation, run in this process: what happens between two tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.generation import Generation
from workbench.hf.loading import LoadedModel, load
from workbench.hf.protocol import Finished, Generate, Load, Message, Token
from workbench.types import Options


@pytest.fixture(scope="module")
def loaded(tiny_models: Path) -> LoadedModel:
    return load(Load(str(tiny_models / "org" / "endless"), None, "false", 1, None))


class Run:
    """A generation with its messages; ``on_token`` may cancel it."""

    def __init__(
        self, loaded: LoadedModel, on_token: Callable[[Run, int], None], **options: Any
    ) -> None:
        self.sent: list[Message] = []
        self.cancelled = False
        self._on_token = on_token
        values = Options(**{"temperature": 0.0, "max_tokens": 50, **options}).to_dict()
        self.generation = Generation(
            loaded,
            Generate(1, [{"role": "user", "content": "Hello there"}], values, 1, 1),
            self._send,
            lambda: self.cancelled,
        )

    def _send(self, message: Message) -> None:
        self.sent.append(message)
        if isinstance(message, Token):
            self._on_token(self, len(self.sent))

    def finish(self) -> Finished:
        return self.generation.run()

    @property
    def text(self) -> str:
        return "".join(message.text for message in self.sent if isinstance(message, Token))


def never(run: Run, count: int) -> None:
    pass


def cancel_at(token: int) -> Callable[[Run, int], None]:
    def on_token(run: Run, count: int) -> None:
        run.cancelled = run.cancelled or count == token

    return on_token


def test_cancelling_costs_one_more_token(loaded: LoadedModel) -> None:
    run = Run(loaded, cancel_at(5))
    finished = run.finish()
    assert finished.cancelled
    assert finished.output_tokens == len(run.sent) == 6


def test_cancelling_during_the_prompt_leaves_it(loaded: LoadedModel) -> None:
    evaluated = []
    handle = loaded.layers[0].register_forward_hook(lambda *unused: evaluated.append(1))
    run = Run(loaded, never)
    run.cancelled = True
    finished = run.finish()
    handle.remove()
    assert (finished.output_tokens, finished.cancelled, run.sent) == (0, True, [])
    assert evaluated == []
    assert Run(loaded, never).finish().output_tokens == 50  # and the model is as before


def test_held_back_text_comes_with_the_last_token(loaded: LoadedModel) -> None:
    whole = Run(loaded, never)
    whole.finish()
    # Every text is the beginning of this stop string, so all of it is held back to the end.
    run = Run(loaded, never, stop=(whole.text + "never comes",))
    run.finish()
    texts = [message.text for message in run.sent if isinstance(message, Token)]
    assert texts == [""] * 49 + [whole.text]


def test_held_back_text_is_sent_before_an_error(loaded: LoadedModel) -> None:
    whole = Run(loaded, never, max_tokens=10)
    whole.finish()

    def fail(run: Run, count: int) -> None:
        if count == 10:
            raise RuntimeError("the tenth token fails")

    run = Run(loaded, fail, stop=(whole.text + "never comes",))
    with pytest.raises(WorkbenchError) as caught:
        run.finish()
    assert caught.value.code is ErrorCode.HF_GENERATION_FAILED
    assert "the tenth token fails" in caught.value.message
    last = run.sent[-1]
    assert isinstance(last, Token)
    assert last.n_tokens == 0
    assert run.text == whole.text


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory: 4 GB")],
)
def test_exhausted_memory_has_its_own_code(loaded: LoadedModel, error: Exception) -> None:
    def fail(run: Run, count: int) -> None:
        raise error

    with pytest.raises(WorkbenchError) as caught:
        Run(loaded, fail).finish()
    assert caught.value.code is ErrorCode.HF_MEMORY_EXCEEDED


def test_hooks_are_gone_after_every_end(loaded: LoadedModel) -> None:
    def fail(run: Run, count: int) -> None:
        raise RuntimeError

    with pytest.raises(WorkbenchError):
        Run(loaded, fail).finish()
    Run(loaded, cancel_at(2)).finish()
    modules = [loaded.model, *loaded.layers]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
