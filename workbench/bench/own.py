"""A user's own specs and datasets, in the folder ``WORKBENCH_BENCHMARKS``: kept, listed, deleted.

A file is checked before it gets its name, and no file is ever written over.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import figures
from workbench.bench import datasets, library
from workbench.errors import ErrorCode, WorkbenchError, invalid

if TYPE_CHECKING:
    from workbench.settings import Settings


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file of the folder. ``kind`` is ``spec`` or ``dataset``, ``changed_at`` in UTC."""

    name: str
    kind: str
    size_bytes: int
    changed_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a file is; ``new`` is False where the same one was there already."""

    path: Path
    new: bool


def files(settings: Settings) -> list[OwnFile]:
    """The files of the folder that a spec or the page may name, in order of their names."""
    found = []
    for path in library.own_files(settings, library.UPLOADS):
        try:
            state = path.stat()
        except OSError:
            continue  # deleted meanwhile
        changed_at = dt.datetime.fromtimestamp(state.st_mtime, dt.UTC)
        kind = "spec" if _is_spec(path) else "dataset"
        found.append(OwnFile(path.name, kind, state.st_size, changed_at))
    return found


def keep(settings: Settings, name: str, content: bytes) -> Kept:
    """Check a spec or a dataset, and put it into the folder under its name.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: no name for such a file, empty, too large, a fault in
            it (the message names the line), or another file of that name is there.
            ``FORBIDDEN_PATH``: the spec reads other files. ``DISK_FULL``: there is no room, or no
            right to write. Whatever it is, the folder is as it was.
    """
    path = library.folder(settings) / Path(name).name
    _check_name(path.name)
    if not content.strip():
        raise invalid(f"{path.name} is empty.", fix="Was it saved before it was chosen?")
    if len(content) > settings.workbench_dataset_max_size:
        raise invalid(
            f"{path.name} has {len(content):,} bytes, more than "
            f"{settings.workbench_dataset_max_size:,}.",
            fix="Take a part of it, or raise WORKBENCH_DATASET_MAX_SIZE.",
        )
    if _is_there(path, content):
        return Kept(path, new=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(settings, path, len(content))
        # In the same file system, so that it can be linked; hidden, so that nobody lists it.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".checked-") as folder:
            checked = Path(folder) / path.name
            checked.write_bytes(content)
            _check(settings, checked, content)
            while not _place(checked, path):
                if _is_there(path, content):
                    return Kept(path, new=False)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise invalid(f"The name {path.name} is too long.", fix="Rename the file.") from None
        raise WorkbenchError(
            ErrorCode.DISK_FULL,
            f"{path} cannot be written: {error.strerror}.",
            fix="Make room, or set WORKBENCH_BENCHMARKS to another folder.",
            operation="bench",
        ) from None
    return Kept(path, new=True)


def delete(settings: Settings, name: str) -> None:
    """Take a file out of the folder, for good.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: there is none of that name, or it cannot be deleted.
    """
    named = {path.name: path for path in library.own_files(settings, library.UPLOADS)}
    if name not in named:
        raise invalid(f"There is no file {name!r} among your files.", fix="Look at the list anew.")
    try:
        named[name].unlink(missing_ok=True)
    except OSError as error:
        raise invalid(
            f"{name} cannot be deleted: {error.strerror}.",
            fix=f"Check the rights of {library.folder(settings)}.",
        ) from None


def _is_spec(path: Path) -> bool:
    return path.suffix.lower() == ".toml"


def _check_name(name: str) -> None:
    if name.startswith("."):
        raise invalid(
            f"{name} begins with a dot, as the names of hidden files do.", fix="Rename the file."
        )
    if Path(name).suffix.lower() not in library.UPLOADS:
        raise invalid(
            f"{name} is neither a spec nor a dataset.",
            fix=f"Names end in {', '.join(library.UPLOADS)}.",
        )
    if not name.isprintable():
        raise invalid(f"The name {name!r} cannot be shown.", fix="Rename the file.")


def _is_there(path: Path, content: bytes) -> bool:
    """Whether this very file is there.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, another one of that name is.
    """
    try:
        if path.is_file() and path.read_bytes() == content:
            return True
        if not os.path.lexists(path):
            return False
    except OSError:
        return False  # said where it is written
    raise invalid(
        f"Another {path.name} is among your files; it was not written over.",
        fix="Rename the new file, or delete the one that is there first.",
    )


def _check_room(settings: Settings, path: Path, needed: int) -> None:
    reserve = settings.workbench_disk_reserve
    free = shutil.disk_usage(path.parent).free
    if needed + reserve > free:
        raise WorkbenchError(
            ErrorCode.DISK_FULL,
            f"{path.name} needs {figures.size(needed)}, and {figures.size(reserve)} must stay free "
            f"(WORKBENCH_DISK_RESERVE); {figures.size(free)} are free at {path.parent}.",
            fix="Make room, or set WORKBENCH_BENCHMARKS to another folder.",
            operation="bench",
        )


def _check(settings: Settings, path: Path, content: bytes) -> None:
    """As a run would, but for what a spec names: that may come later."""
    if not _is_spec(path):
        try:
            datasets.load(path.name, settings, folder=path.parent)
        except WorkbenchError as problem:
            problem.message = problem.message.replace(f"{path.parent}{os.sep}", "")
            raise
        return
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise invalid(f"{path.name} is not UTF-8.", fix="Save it as UTF-8.") from None
    library.parse(text, settings)


def _place(checked: Path, path: Path) -> bool:
    """Give it its name, whole and at once; False: that was taken meanwhile."""
    try:
        os.link(checked, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with path.open("xb") as file:
                file.write(checked.read_bytes())
        except FileExistsError:
            return False
    return True
