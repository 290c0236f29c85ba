"""Downloads as the tests run them, and the files that they are about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hf import tiny
from tests.hub_standin import Hub
from workbench.errors import WorkbenchError
from workbench.hf import hub
from workbench.hf.listing import Wanted
from workbench.settings import Settings

REPO = "org/name"


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def model_files(tmp_path: Path, value: int = 1, tensors: int = 400) -> dict[str, bytes]:
    """A whole model of about 100 kB, with things beside it that must never be taken."""
    folder = tiny.write_folder(tmp_path / f"source-{value}")
    tiny.write_safetensors(folder / "model.safetensors", value, tensors=tensors, named=tiny.WHOLE)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return {
        **contents(folder),
        "modeling_evil.py": b"raise SystemExit",
        "pytorch_model.bin": b"\x80\x02.",
        "consolidated.safetensors": b"the same again",
        "onnx/model.onnx": b"onnx",
        ".gitattributes": b"",
    }


def fill(standin: Hub, cache: Path, given: Mapping[str, bytes], revision: str = "main") -> None:
    """Let huggingface_hub download into the cache."""
    from huggingface_hub import hf_hub_download

    if "org/name" not in standin.repos:
        standin.repo("org/name", given)
    for name in given:
        hf_hub_download("org/name", name, revision=revision, cache_dir=cache, endpoint=standin.url)


class Run:
    """A download with what it reported."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps: list[tuple[str, int | None, int | None]] = []
        self.cancelled = threading.Event()
        self.on_step: Callable[[], None] = lambda: None

    def __call__(self, name: str = REPO, **more: Any) -> dict[str, Any]:
        wanted = Wanted.parse(name, more.pop("revision", None), more.pop("gguf_file", None))
        return dict(hub.download(self.settings, wanted, self._report, self.cancelled))

    def _report(self, message: str, done: int | None = None, total: int | None = None) -> None:
        self.steps.append((message, done, total))
        self.on_step()

    def fails(self, name: str = REPO, **more: Any) -> WorkbenchError:
        with pytest.raises(WorkbenchError) as caught:
            self(name, **more)
        assert caught.value.fix
        return caught.value
