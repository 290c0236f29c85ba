"""Disks of a test's own, to be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotPermitted(Exception):
    """Mounting needs rights that are not ours."""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own at ``folder``, which is made.

    Raises:
        NotPermitted: it cannot be mounted here.
    """
    folder.mkdir(parents=True)
    size = f"size={megabytes}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise NotPermitted
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Inside the block not a byte more fits on the disk."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        yield
    finally:
        ballast.unlink(missing_ok=True)


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Inside the block nothing can be written to the disk, which nobody may be writing to."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
