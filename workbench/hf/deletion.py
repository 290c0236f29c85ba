"""Deleting a model from disk: exactly its files, and how many bytes that freed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.hf import converted
from workbench.hf.files import check_name, find, model_files
from workbench.hf.folder import SOURCE_FILE
from workbench.hf.found import PROVIDER, ModelFile, model_id
from workbench.hf.hub import PARTIAL_FOLDER
from workbench.hf.listing import is_companion
from workbench.hf.options import split_name
from workbench.hf.source import recorded_files, rewrite_without
from workbench.settings import Settings

_BLOCK_BYTES: Final = 512
"""The unit of ``st_blocks``, whatever the file system's own blocks are."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting a model would remove.

    ``also`` names models that go with it (those of one snapshot in the hub's cache, which is
    deleted as a whole), ``orphans`` LoRA adapters that lose their base. ``size_bytes`` is what is
    occupied on disk now and would be free.
    """

    id: str
    location: str
    paths: tuple[Path, ...]
    size_bytes: int
    also: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    snapshot: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "id": self.id,
            "size_bytes": self.size_bytes,
            "location": self.location,
            "also": list(self.also),
            "orphans": list(self.orphans),
        }


def plan(settings: Settings, name: str) -> Deletion:
    """What deleting this model would remove; nothing is changed.

    Args:
        settings: where models are.
        name: as in the id, without the provider; of an unfinished download too.

    Raises:
        WorkbenchError: ``FORBIDDEN_PATH``, ``HF_MODEL_NOT_FOUND`` as
            :func:`workbench.hf.files.find`.
    """
    root, cache = settings.hf_model_path, settings.hub_cache
    base, options = split_name(name)
    if options:
        raise invalid(
            f"{name[:200]!r} names a way to load {base[:200]}, and files have none.",
            fix=f"Delete {base[:200]}, without the load options.",
        )
    check_name(name)
    unfinished = root / PARTIAL_FOLDER / name.replace("/", "--")
    left = (unfinished,) if unfinished.is_dir() else ()
    try:
        model = find(root, name, cache)
    except WorkbenchError as error:
        if not left or error.code is not ErrorCode.HF_MODEL_NOT_FOUND:
            raise
        return Deletion(model_id(name), "unfinished download", left, occupied(left))
    models = [other for other in model_files(root, cache) if other.name != name]
    orphans = tuple(
        other.info.id
        for other in models
        if other.adapter is not None and other.broken is None and other.folder == model.path
    )
    assert model.place is not None
    if model.place.location == "hub cache":
        snapshot = model.place.base
        also = tuple(o.info.id for o in models if o.place is not None and o.place.base == snapshot)
        size = _cached_bytes(snapshot)
        return Deletion(
            model.info.id, "hub cache", (snapshot,), size, also, orphans, snapshot=snapshot
        )
    copies = converted.copies(root, model.info.digest, model.path) if model.gguf_file else ()
    paths = (*_own_paths(model, models), *copies, *left)
    return Deletion(model.info.id, "model folder", paths, occupied(paths), (), orphans)


def carry_out(settings: Settings, deletion: Deletion) -> int:
    """Delete; returns the bytes that are free now, measured by what is gone.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` while the model is being downloaded,
            ``FORBIDDEN_PATH`` if the system does not allow it.
    """
    root = settings.hf_model_path
    try:
        if deletion.snapshot is not None:
            return _delete_cached(deletion.snapshot)
        _check_not_downloading(root, deletion.id)
        before = _inodes(deletion.paths)
        for path in deletion.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
                _forget(path)
            _remove_empty(path.parent, root)
    except OSError as error:
        raise WorkbenchError(
            ErrorCode.FORBIDDEN_PATH,
            f"{error.filename} cannot be deleted ({error.strerror or error}).",
            fix="Check the rights of the folder.",
            operation="delete",
            provider=PROVIDER,
        ) from None
    left = _inodes(deletion.paths)
    return sum(size for inode, size in before.items() if inode not in left)


def occupied(paths: Iterable[Path]) -> int:
    """Bytes that would be free without these files and folders; links are not followed."""
    return sum(_inodes(paths).values())


def _inodes(paths: Iterable[Path]) -> dict[tuple[int, int], int]:
    """Disk use by inode; a file that has another name elsewhere frees nothing."""
    seen: dict[tuple[int, int], tuple[int, int, int]] = {}
    for path in _walk(paths):
        try:
            stat = path.lstat()
        except OSError:
            continue
        key = (stat.st_dev, stat.st_ino)
        names = seen.get(key, (0, 0, 0))[0] + 1
        links = 0 if path.is_dir() and not path.is_symlink() else stat.st_nlink
        seen[key] = (names, links, stat.st_blocks * _BLOCK_BYTES)
    return {key: size for key, (names, links, size) in seen.items() if names >= links}


def _walk(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        if path.is_dir() and not path.is_symlink():
            for folder, folders, names in os.walk(path):
                yield from (Path(folder, name) for name in (*folders, *names))


# -- the model folder ------------------------------------------------------------------------------


def _own_paths(model: ModelFile, others: list[ModelFile]) -> list[Path]:
    """The files of this model and of no other."""
    path = model.path
    if path.is_symlink():
        return [path]  # what it leads to is a model of its own
    folder = model.home
    neighbours = [other for other in others if other.path.parent == folder or other.path == folder]
    if path.is_dir():
        if not any(other.path.is_relative_to(path) for other in others):
            return [path]
        # Other models lie in it: only what this one is made of goes.
        goes = [p for p in path.iterdir() if p.is_file() and p.suffix != ".gguf"]
        return [p for p in goes if not neighbours or not _is_shared(p)]
    assert model.place is not None
    if neighbours or folder == model.place.base:
        return [path]
    # The last GGUF of its folder takes the tokenizer that was downloaded beside it along.
    known = recorded_files(folder)
    beside = [p for p in folder.iterdir() if p.is_file() and p != path]
    return [path, *(p for p in beside if _is_shared(p) or p.name in known)]


def _is_shared(path: Path) -> bool:
    return is_companion(path.name) or path.name == SOURCE_FILE


def _forget(path: Path) -> None:
    """Take a deleted GGUF out of its folder's record."""
    if path.suffix == ".gguf" and (path.parent / SOURCE_FILE).is_file():
        rewrite_without(path.parent, path.name)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove folders that became empty, up to the model folder."""
    while folder != root and folder.is_relative_to(root) and folder.is_dir():
        if any(folder.iterdir()):
            return
        folder.rmdir()
        folder = folder.parent


def _check_not_downloading(root: Path, model: str) -> None:
    name = model.partition("/")[2]
    path = root / PARTIAL_FOLDER / f"{name.replace('/', '--')}.lock"
    if not path.is_file():
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise invalid(f"{model} is being downloaded.", fix="Stop the download first.") from None


# -- the hub's cache -------------------------------------------------------------------------------


def _cached_bytes(snapshot: Path) -> int:
    return int(_strategy(snapshot).expected_freed_size)


def _delete_cached(snapshot: Path) -> int:
    repo = snapshot.parent.parent
    places = (repo, repo.parent / "blobs")
    strategy = _strategy(snapshot)
    before = occupied(places)
    strategy.execute()
    return before - occupied(places)


def _strategy(snapshot: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """huggingface_hub's own plan: blobs that other snapshots use stay."""
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(snapshot.parent.parent.parent).delete_revisions(snapshot.name)
