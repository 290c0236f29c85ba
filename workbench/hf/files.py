"""The models on disk: which are there, are they whole, and where is one (no torch here).

A model is a folder with ``config.json`` and safetensors weights, possibly nested (``org/name``), a
single ``.gguf`` file, or a LoRA adapter whose base is one of these. They lie below the model folder
(``HF_MODEL_PATH``) or in the hub's cache; of two with one name the model folder's is taken. What
is there but cannot be used is listed too, with the reason and the way to mend it. Pickle weights
(``.bin``, ``.pt``) run code when they are loaded and are never opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import cache
from workbench.hf.adapters import linked
from workbench.hf.completeness import judged
from workbench.hf.folder import folder_model, gguf_model
from workbench.hf.found import PROVIDER, ModelFile, Place, Unusable, broken_model, unreadable
from workbench.hf.options import MARK
from workbench.types import ModelInfo

__all__ = ["ModelFile", "ModelInfo", "any_there", "find", "model_files", "resolve", "scan"]

_MAX_DEPTH: Final = 4
_NAME_PART: Final = re.compile(r"^[^\W_][\w .+@=,()\[\]-]{0,150}$")


def scan(root: Path, hub_cache: Path | None = None) -> list[ModelInfo]:
    """All models by id, broken ones included. Never raises for a bad model.

    Headers are read once per file and remembered until the file changes.

    Args:
        root: the model folder.
        hub_cache: the hub's cache, if that is to be looked at too.
    """
    return [model.info for model in _judged(root, hub_cache)]


def model_files(root: Path, hub_cache: Path | None = None) -> list[ModelFile]:
    """As :func:`scan`, with the places on disk, and as the files alone say."""
    return _sorted(linked(_found(root, hub_cache)))


def _judged(root: Path, hub_cache: Path | None) -> list[ModelFile]:
    """What was found out of a base is said of its adapters too."""
    return _sorted(linked(judged(root, _found(root, hub_cache))))


def _found(root: Path, hub_cache: Path | None) -> list[ModelFile]:
    """Adapters without their bases."""
    found: dict[str, ModelFile] = {}
    for place in _places(root, hub_cache):
        for model in _models(place):
            found.setdefault(model.name, _callable(model))
    return list(found.values())


def _sorted(models: list[ModelFile]) -> list[ModelFile]:
    return sorted(models, key=lambda model: model.info.id)


def any_there(root: Path, hub_cache: Path | None = None) -> bool:
    """Whether :func:`scan` would find anything, usable or not. Stops at the first."""
    places = _places(root, hub_cache)
    return any(True for place in places for _ in _models(place))


def find(root: Path, name: str, hub_cache: Path | None = None) -> ModelFile:
    """The model of this name, usable or not, as its files alone say.

    Raises:
        WorkbenchError: ``FORBIDDEN_PATH`` if the name leads out of the model folder,
            ``HF_MODEL_NOT_FOUND`` with the names that exist.
    """
    check_name(name)
    path = root / name
    if path.exists() or path.is_symlink():
        place = _model_folder(root)
        if not place.holds(path):
            raise _forbidden(name, "leads out of the model folder through a symbolic link")
        model = next((found for found in _examine(place, path)), None)
        if model is not None and model.adapter is None:
            return model
    # What lies in the cache, and the base of an adapter, is found by looking at everything.
    for model in model_files(root, hub_cache):
        if model.name == name:
            return model
    raise _not_found(root, name, hub_cache)


def resolve(root: Path, name: str, hub_cache: Path | None = None) -> ModelFile:
    """The usable model of this name.

    Args:
        root: the model folder.
        name: as in the id, without the provider.
        hub_cache: the hub's cache, if that is to be looked at too.

    Raises:
        WorkbenchError: as :func:`find`; ``UNSAFE_FILE`` for pickle weights or custom code,
            ``HF_MODEL_LOAD_FAILED`` if files are missing or broken.
    """
    model = find(root, name, hub_cache)
    if model.adapter is None:
        (model,) = judged(root, [model])
    else:
        known = {one.name: one for one in _judged(root, hub_cache)}
        if name not in known:  # deleted since
            raise _not_found(root, name, hub_cache)
        model = known[name]
    if model.broken is not None:
        raise WorkbenchError(
            model.broken.code,
            f"{name} {model.broken.problem}.",
            fix=model.broken.fix,
            operation="load",
            provider=PROVIDER,
        )
    return model


def _callable(model: ModelFile) -> ModelFile:
    """The same, or unusable where no command could be given its name."""
    try:
        check_name(model.name)
    except WorkbenchError:
        assert model.place is not None
        load_options = "'?' begins load options" if MARK in model.name else "it is none for a model"
        reason = Unusable(
            f"has a name that no command takes ({load_options})",
            "Rename the folder or file: letters, digits, spaces and . _ - + @ = , ( ) [ ].",
            ErrorCode.FORBIDDEN_PATH,
        )
        return broken_model(model.place, model.path, None, reason, model.info.size_bytes)
    return model


def _model_folder(root: Path) -> Place:
    return Place(root, "", (root,), "model folder")


def _places(root: Path, hub_cache: Path | None) -> Iterator[Place]:
    """From the one that wins to the one that loses where names are equal."""
    if root.is_dir():
        yield _model_folder(root)
    if hub_cache is not None:
        yield from cache.snapshots(hub_cache)


def _models(place: Place) -> Iterator[ModelFile]:
    cached = place.location == "hub cache"
    pending = [(place.base, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield broken_model(place, folder, None, unreadable(error))
            continue
        if cached == (folder == place.base) and (not cached or _has_weights(entries)):
            yield from folder_model(place, folder, entries)
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if not place.holds(path):
                listed = folder == place.base or entry.name.endswith(".gguf")
                if listed and not cached:
                    yield broken_model(place, path, None, _LEADS_OUT)
            elif path.is_dir():
                if depth < _MAX_DEPTH:
                    pending.append((path, depth + 1))
            elif entry.name.endswith(".gguf"):
                yield gguf_model(place, path)


def _has_weights(entries: Sequence[os.DirEntry[str]]) -> bool:
    """A cache holds many a tokenizer or config alone, which nobody takes for a model."""
    return any(entry.name.endswith((".safetensors", ".bin", ".pt")) for entry in entries)


_LEADS_OUT: Final = Unusable(
    "leads out of the model folder through a symbolic link",
    "Move or copy the model into the model folder, or set HF_MODEL_PATH to where it is.",
    ErrorCode.FORBIDDEN_PATH,
)


def _examine(place: Place, path: Path) -> Iterator[ModelFile]:
    """The model that this one path is, if it is one."""
    if path.is_dir():
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            yield broken_model(place, path, None, unreadable(error))
            return
        yield from folder_model(place, path, entries)
    elif path.name.endswith(".gguf"):
        yield gguf_model(place, path)


def check_name(name: str) -> None:
    """Refuse what is no path inside the model folder (``FORBIDDEN_PATH``)."""
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise _forbidden(name, "is no path inside the model folder")
    if len(parts) > _MAX_DEPTH + 1 or not all(_NAME_PART.match(part) for part in parts):
        raise _forbidden(name, "has parts that no model name has")


def _forbidden(name: str, why: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.FORBIDDEN_PATH,
        f"The model name {name[:200]!r} {why}.",
        fix="Use a name as `workbench models list` shows it.",
        operation="load",
        provider=PROVIDER,
    )


def _not_found(root: Path, name: str, hub_cache: Path | None) -> WorkbenchError:
    names = [info.name for info in scan(root, hub_cache) if info.status != "unusable"]
    known = ", ".join(names[:20]) or "none"
    return WorkbenchError(
        ErrorCode.HF_MODEL_NOT_FOUND,
        f"There is no Hugging Face model {name!r} in {root} (there are: {known}).",
        fix="Use one of these names, or bring a model with `workbench models pull`.",
        operation="load",
        provider=PROVIDER,
        details={"models": names},
    )
