"""Whether a checkpoint's files hold the tensors of its architecture, as it was last found out.

Found out by the process of :mod:`workbench.hf.proving`, or by a load that failed of it, and kept
until the files or the libraries change. Looked up at every scan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from workbench.hf.digest import state_of
from workbench.hf.found import ModelFile, Unusable, broken_model
from workbench.hf.verdicts import Verdicts

_FORM: Final = "tensors"


def can_be_asked(model: ModelFile) -> bool:
    """Whether names and shapes alone tell.

    Not of a GGUF, whose tensors are unpacked to learn it; nor of what others have quantised, which
    every method stores in a way of its own, and some only where there is a GPU.
    """
    plain = model.gguf_file is None and model.adapter is None and model.info.quantization is None
    return plain and model.broken is None


def is_known(root: Path, model: ModelFile) -> bool:
    """Whether it was found out for the files as they are now."""
    return Verdicts(root).get(state_of(model), _FORM) is not None


def keep(root: Path, state: str | None, misfit: Unusable | None) -> None:
    """Keep what was found out.

    Args:
        root: the model folder.
        state: of the model when it was asked, :func:`workbench.hf.digest.state_of`.
        misfit: what is wrong; None if nothing is, or nothing can be told.
    """
    verdict: dict[str, Any] = {"form": _FORM, "passed": misfit is None}
    if misfit is not None:
        verdict |= {"problem": misfit.problem, "fix": misfit.fix}
    Verdicts(root).put(state, verdict)


def judged(root: Path, models: Iterable[ModelFile]) -> list[ModelFile]:
    """The models; what is known to lack tensors is unusable."""
    verdicts = Verdicts(root)
    return [_judged(verdicts, model) for model in models]


def _judged(verdicts: Verdicts, model: ModelFile) -> ModelFile:
    if not can_be_asked(model):
        return model
    verdict = verdicts.get(state_of(model), _FORM)
    if verdict is None or verdict["passed"]:
        return model
    assert model.place is not None
    misfit = Unusable(verdict["problem"], verdict["fix"])
    size = model.info.size_bytes
    broken = broken_model(model.place, model.path, "safetensors", misfit, size)
    # An adapter finds its base by where that came from, also to say what is wrong with it.
    details = {**model.info.details, **broken.info.details}
    return replace(broken, info=replace(broken.info, details=details))
