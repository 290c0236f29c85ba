"""What was found on the disk: a model's files, where they lie, what is wrong with them."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from workbench.errors import ErrorCode
from workbench.types import ModelInfo

PROVIDER: Final = "huggingface"


class Unusable(Exception):
    """Why a model cannot be used, and what to do about it."""

    def __init__(
        self, problem: str, fix: str, code: ErrorCode = ErrorCode.HF_MODEL_LOAD_FAILED
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.code = code


@dataclass(frozen=True, slots=True)
class Place:
    """Where models lie.

    Args:
        base: names of models are paths relative to this folder.
        prefix: put before them; the name of ``base`` itself.
        fences: folders that symbolic links may lead to.
        location: in words, as ``details.location`` says it.
    """

    base: Path
    prefix: str
    fences: tuple[Path, ...]
    location: Literal["model folder", "hub cache"]

    def name(self, path: Path) -> str:
        """The model's name, without the provider."""
        relative = path.relative_to(self.base).as_posix()
        return "/".join(part for part in (self.prefix, relative) if part not in ("", "."))

    def holds(self, path: Path) -> bool:
        """Whether the path, all links followed, is inside."""
        try:
            real = path.resolve()
            return any(real.is_relative_to(fence.resolve()) for fence in self.fences)
        except (OSError, RuntimeError):  # a link that leads to itself
            return False


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where a model lies: a folder, and the GGUF file in it if it is one; or what is wrong.

    ``adapter`` is the folder of a LoRA adapter; ``folder`` then is that of its base. ``path`` is
    what the model itself is on disk (folder, or GGUF file), ``place`` where that was found.
    """

    name: str
    folder: Path
    gguf_file: str | None
    info: ModelInfo
    broken: Unusable | None = None
    adapter: Path | None = None
    path: Path = Path()
    place: Place | None = None

    @property
    def home(self) -> Path:
        """The folder that its own files lie in."""
        return self.path if self.path.is_dir() else self.path.parent


def model_id(name: str) -> str:
    """``huggingface/<name>``."""
    return f"{PROVIDER}/{name}"


def naming(place: Place, path: Path) -> dict[str, Any]:
    """The fields of a :class:`ModelInfo` that say which model it is."""
    name = place.name(path)
    return {"id": model_id(name), "name": name, "provider": PROVIDER}


def broken_model(
    place: Place,
    path: Path,
    format_: Literal["safetensors", "gguf"] | None,
    reason: Unusable,
    size: int | None = None,
) -> ModelFile:
    """What is there but cannot be used, with the reason."""
    info = ModelInfo(
        **naming(place, path),
        status="unusable",
        size_bytes=size,
        format=format_,
        problem=f"{path.name} {reason.problem}. {reason.fix}",
        details={"code": reason.code.value, "location": place.location},
    )
    return ModelFile(info.name, path, None, info, reason, path=path, place=place)


def unreadable(error: OSError) -> Unusable:
    """For what the system does not let us read."""
    fix = "Check the rights of the files."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        fix = "Raise the limit of open files (`ulimit -n`), or end what uses them."
    return Unusable(f"cannot be read ({error.strerror or error})", fix)
