"""The machine and the software on it: versions, memory, disk, permissions, clock, GPU."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import platform
import resource
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Any, Final

import psutil
from packaging.requirements import Requirement

from workbench.discovery import database, server_file
from workbench.doctor.findings import Finding
from workbench.folders import checkout
from workbench.settings import Settings

_DISTRIBUTION: Final = "llm-workbench"
_SHOWN: Final = ("torch", "transformers", "gradio", "duckdb", "ollama")
_OLDEST_PYTHON: Final = (3, 11)
_LOW_DISK_BYTES: Final = 5 * 10**9
_LOW_MEMORY_BYTES: Final = 2 * 10**9
_FEW_FILES: Final = 1024
_BUILT: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MISMATCH: Final = 18
"""NVML's code for a driver that was updated under a running kernel module."""


def software(requirements: Iterable[str] | None = None) -> Iterator[Finding]:
    """Python and the packages, against what this version of the workbench asks for."""
    if sys.version_info < _OLDEST_PYTHON:
        wanted = ".".join(map(str, _OLDEST_PYTHON))
        yield Finding(
            "software",
            "bad",
            f"Python {platform.python_version()} is too old",
            f"Install Python {wanted} or newer, then the workbench again.",
        )
    if requirements is None:
        try:
            requirements = metadata.requires(_DISTRIBUTION) or ()
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            requirements = _SHOWN
    problems = [problem for item in requirements if (problem := _problem(Requirement(item)))]
    if problems:
        again = "make install" if checkout() else f"pip install --upgrade {_DISTRIBUTION}"
        yield Finding("software", "bad", "; ".join(problems), f"Run: {again}.")
        return
    found = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
    yield Finding("software", "ok", f"Python {platform.python_version()}, {found}")


def _problem(wanted: Requirement) -> str | None:
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is missing"
    if wanted.specifier.contains(version, prereleases=True):
        return None
    return f"{wanted.name} is {version}, but {wanted.specifier} is needed"


def memory(limit_file: Path = _CGROUP_LIMIT) -> Iterator[Finding]:
    """What is free, and whether a container allows less than the machine has."""
    machine = psutil.virtual_memory()
    message = f"{machine.available / 1e9:.1f} GB available"
    if machine.available < _LOW_MEMORY_BYTES:
        fix = "Close other programs or unload models before loading more."
        yield Finding("memory", "note", message, fix)
    else:
        yield Finding("memory", "ok", message)
    try:
        limit = int(limit_file.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return
    if limit < machine.total:
        yield Finding(
            "memory",
            "note",
            f"this process may use {limit / 1e9:.1f} GB of the machine's {machine.total / 1e9:.1f}",
            f"Raise the container's limit, or set WORKBENCH_MEMORY_BUDGET={limit // 10**6}MB.",
        )


def clock(now: dt.datetime | None = None) -> Finding:
    """A clock that is years off breaks certificates and orders the log wrongly."""
    now = now or dt.datetime.now(dt.UTC)
    if now < _BUILT:
        return Finding(
            "clock",
            "bad",
            f"the clock says {now:%Y-%m-%d}, which is before this version was made",
            "Set it (timedatectl set-ntp true): downloads need it for certificates.",
        )
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")


def open_files(soft: int | None = None) -> Finding:
    """Every connection and every worker takes some."""
    if soft is None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= soft < _FEW_FILES:
        return Finding(
            "files",
            "note",
            f"only {soft} files may be open at once",
            "Run: ulimit -n 4096, in the shell that starts the server.",
        )
    return Finding("files", "ok", f"{soft} files may be open at once")


def existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def disk(settings: Settings, low_bytes: int = _LOW_DISK_BYTES) -> Iterator[Finding]:
    """Room for the log and for the models, told once where they share a file system."""
    seen: set[int] = set()
    for what, path, setting in (
        ("log", database(settings).parent, "WORKBENCH_DB"),
        ("models", settings.hf_model_path, "HF_MODEL_PATH"),
    ):
        place = existing(path)
        if _keeps_no_files(place):
            yield Finding(
                "disk",
                "bad",
                f"the {what} cannot be written: {place} belongs to the system and keeps no files",
                f"Point {setting} elsewhere.",
            )
            continue
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        message = f"{free / 1e9:.1f} GB free for the {what} at {place}"
        if free < low_bytes:
            fix = "Make room: delete models (workbench models rm), or move the folder."
            yield Finding("disk", "note", message, fix)
        else:
            yield Finding("disk", "ok", message)


def _keeps_no_files(place: Path) -> bool:
    """Whether it is a file system that is none, such as /proc."""
    return shutil.disk_usage(place).total == 0


def permissions(settings: Settings) -> Iterator[Finding]:
    """Folders that can be written, and files that others cannot read."""
    wrong = False
    for what, path, setting in (
        ("log", database(settings).parent, "WORKBENCH_DB"),
        ("model", settings.hf_model_path, "HF_MODEL_PATH"),
    ):
        place = existing(path)
        if not os.access(place, os.W_OK | os.X_OK):
            wrong = True
            yield Finding(
                "permissions",
                "bad",
                f"the {what} folder {place} cannot be written by this user",
                f"Run: chown -R $USER {quote(str(place))}, or point {setting} elsewhere.",
            )
    for path in (database(settings), server_file(settings)):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            wrong = True
            yield Finding(
                "permissions",
                "note",
                f"other users of this machine can read {path}",
                f"Run: chmod 600 {quote(str(path))}.",
            )
    if not wrong:
        yield Finding("permissions", "ok", "folders can be written, files are this user's alone")


def gpu(wanted: str, nvml: Any = None, torch: str | None = None) -> Iterator[Finding]:
    """The NVIDIA driver, and whether torch can use it.

    Args:
        wanted: ``HF_ENABLE_GPU``.
        nvml: NVIDIA's library; None loads it.
        torch: torch's version; None is that of the installed one.
    """
    if nvml is None:
        nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if getattr(error, "value", None) == _MISMATCH:
            yield Finding(
                "gpu",
                "bad",
                "the NVIDIA driver was updated, but the old one is still loaded",
                "Restart the machine (or reload the nvidia kernel modules).",
            )
        elif wanted == "true":
            yield Finding(
                "gpu",
                "bad",
                f"HF_ENABLE_GPU=true, but no NVIDIA GPU can be used ({error})",
                "Install the NVIDIA driver, or set HF_ENABLE_GPU=auto.",
            )
        else:
            yield Finding("gpu", "ok", "no NVIDIA GPU; models run on the CPU")
        return
    driver, cuda = nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetCudaDriverVersion()
    can = f"{cuda // 1000}.{cuda % 1000 // 10}"
    build = (torch or metadata.version("torch")).partition("+")[2]
    needed = int(build[2:]) if build.startswith("cu") and build[2:].isdecimal() else None
    if build == "cpu":
        yield Finding(
            "gpu",
            "note" if wanted != "true" else "bad",
            f"there is an NVIDIA GPU, but this torch is built for the CPU (driver {driver})",
            "Install torch with CUDA in the same environment, see pytorch.org.",
        )
    elif needed is not None and needed // 10 > cuda // 1000:
        yield Finding(
            "gpu",
            "bad",
            f"torch wants CUDA {needed // 10}.{needed % 10}, the driver {driver} can CUDA {can}",
            "Update the NVIDIA driver, or install a torch built for the older CUDA.",
        )
    else:
        yield Finding("gpu", "ok", f"NVIDIA driver {driver}, CUDA up to {can}")
