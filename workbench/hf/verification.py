"""The full check of models on disk: headers, shards, and the hash of every file that has one."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import source
from workbench.hf.digest import mark_of
from workbench.hf.files import find, model_files
from workbench.hf.folder import read_source
from workbench.hf.found import PROVIDER, ModelFile
from workbench.hf.noted import NotedHashes
from workbench.jobs import Reporter
from workbench.settings import Settings

_SHA256: Final = re.compile(r"^[0-9a-f]{64}$")
_SHA1: Final = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True, slots=True)
class _Check:
    """A file, and what its content should be; no hash where none is known."""

    name: str
    path: Path
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


@dataclass(slots=True)
class CheckedModel:
    """What is wrong with one model, and how to mend it.

    ``checked`` counts files whose hash was compared; ``unhashed`` names those for which nobody
    recorded one: theirs is noted, and the next check compares. ``opened`` says whether the
    tokenizer could be opened and fits the model; None if that was not tried.
    """

    model: ModelFile
    checked: int = 0
    checked_bytes: int = 0
    unhashed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fix: str = ""
    opened: bool | None = None

    @property
    def id(self) -> str:
        """Of the model."""
        return self.model.info.id

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "id": self.id,
            "ok": not self.problems,
            "checked": self.checked,
            "checked_bytes": self.checked_bytes,
            "unhashed": self.unhashed,
            "tokenizer": self.opened,
            "problems": self.problems,
            "fix": self.fix if self.problems else "",
        }


def verify(
    settings: Settings, names: Sequence[str] | None, report: Reporter, cancelled: threading.Event
) -> list[CheckedModel]:
    """Read every byte of the models and compare; blocking.

    Args:
        settings: where models are.
        names: without the provider; None for all.
        report: receives the bytes read so far and in total.
        cancelled: stops it soon.

    Raises:
        WorkbenchError: as :func:`workbench.hf.files.find`; ``CANCELLED``.
    """
    root, cache = settings.hf_model_path, settings.hub_cache
    if names is None:
        models = model_files(root, cache)
    else:
        models = [find(root, name, cache) for name in names]
    plans = [(model, list(_checks(model))) for model in models]
    total = sum(check.size for _, checks in plans for check in checks)
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        if cancelled.is_set():
            raise stopped()
        report(current, done, total)

    results, noted = [], NotedHashes(root)
    try:
        for model, checks in plans:
            result = CheckedModel(model, fix=_fix(model))
            current = f"checking {model.name}"
            if model.broken is not None:
                result.problems.append(f"It {model.broken.problem}.")
            for check in checks:
                _compare(check, result, noted, count)
            results.append(result)
    finally:
        noted.save()  # also of a check that was stopped
    report("done", total, total)
    return results


def stopped() -> WorkbenchError:
    """``CANCELLED``."""
    return WorkbenchError(
        ErrorCode.CANCELLED,
        "The check was stopped.",
        fix="Start it again for a result.",
        operation="verify",
        provider=PROVIDER,
    )


def _compare(
    check: _Check, result: CheckedModel, noted: NotedHashes, count: source.Counter
) -> None:
    try:
        if not check.path.is_file():
            result.problems.append(f"{check.name} is missing.")
            return
        expected = check.sha256 or check.git_sha1 or noted.get(check.path)
        hash_of = source.git_sha1 if check.git_sha1 else source.sha256
        state = mark_of(check.path)
        found = hash_of(check.path, count)
        if expected is None:
            noted.put(check.path, state, found)
            result.unhashed.append(check.name)
            return
    except OSError as error:
        result.problems.append(f"{check.name} cannot be read ({error.strerror or error}).")
        return
    result.checked += 1
    result.checked_bytes += check.size
    if found != expected:
        result.problems.append(
            f"{check.name} was changed or damaged: its hash is {found[:12]}…, not {expected[:12]}…."
        )


def _checks(model: ModelFile) -> Iterator[_Check]:
    assert model.place is not None
    folder = model.home
    if model.place.location == "hub cache":
        yield from _cached_checks(model, folder)
        return
    recorded = source.recorded_files(folder)
    if model.path.is_dir():
        for name, entry in sorted(recorded.items()):
            if not name.endswith(".gguf"):
                yield _Check(name, folder / name, _hex(entry.get("sha256")))
        own = (path for path in folder.iterdir() if path.suffix == ".safetensors")
        yield from (_Check(p.name, p) for p in sorted(own) if p.name not in recorded)
    else:
        name = model.path.name
        # A folder that was made for one file may name its hash alone.
        named = recorded.get(name, {}).get("sha256") or read_source(folder).get("sha256")
        yield _Check(name, model.path, _hex(named))


def _cached_checks(model: ModelFile, folder: Path) -> Iterator[_Check]:
    """In the hub's cache a file's link leads to a blob that is named by the hash."""
    paths = sorted(folder.iterdir()) if model.path.is_dir() else [model.path]
    for path in paths:
        if path.is_dir() or (model.path.is_dir() and path.suffix == ".gguf"):
            continue
        blob = path.readlink().name if path.is_symlink() else ""
        yield _Check(
            path.name,
            path,
            sha256=blob if _SHA256.match(blob) else None,
            git_sha1=blob if _SHA1.match(blob) else None,
        )


def _hex(value: object) -> str | None:
    return value if isinstance(value, str) and _SHA256.match(value) else None


def _fix(model: ModelFile) -> str:
    assert model.place is not None
    folder = model.home
    if model.place.location == "hub cache":
        repo = model.name.partition("@")[0]
        name = quote(repo)
        return f"Delete it and download it again: workbench models rm {name}, then pull {name}."
    origin = read_source(folder).get("repo")
    if isinstance(origin, str) and origin:
        gguf = f" --gguf {quote(model.path.name)}" if model.path.is_file() else ""
        return f"Download what is broken again: workbench models pull {quote(origin)}{gguf}."
    if read_source(folder).get("original"):
        name = quote(model.name)
        return f"Delete it and bring it again: workbench models rm {name}, then pull demo."
    return model.broken.fix if model.broken is not None else "Copy the file again from its source."
