"""The machine and the software that figures were taken with; stored once, named in every row."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from workbench.settings import Settings
from workbench.store import Environment

_PACKAGES: Final = (
    "llm-workbench",
    "torch",
    "transformers",
    "accelerate",
    "gguf",
    "ollama",
    "openai",
    "duckdb",
    "gradio",
    "numpy",
)


def capture(settings: Settings) -> Environment:
    """Describe this machine; takes some tens of milliseconds and imports nothing heavy."""
    return Environment(
        cpu=_cpu(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        ram_bytes=psutil.virtual_memory().total,
        os=platform.platform(),
        python=platform.python_version(),
        gpu=_gpu(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        git_revision=_git_revision(),
        details={
            "logical_cpus": psutil.cpu_count(),
            "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "threads": settings.threads,
        },
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    drivers = Path("/proc/driver/nvidia/gpus")
    names = []
    for card in sorted(drivers.glob("*/information")) if drivers.is_dir() else ():
        names += [
            line.partition(":")[2].strip()
            for line in card.read_text().splitlines()
            if line.startswith("Model")
        ]
    return ", ".join(names) or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with a mark if it was changed."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
