"""Disks of a test's own, to be filled."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def unmount_below(folder: Path) -> None:
    """Whatever is still mounted there: somebody was ended while he mounted."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in mounts:
        if Path(mount).is_relative_to(folder.resolve()):
            subprocess.run(["umount", "-l", mount], check=False)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Inside the block not a byte more fits on the disk; what others give back is taken too."""
    ballast, over = disk / "ballast", threading.Event()
    with ballast.open("wb") as file:

        def fill() -> bool:
            """Take what is free; False if there was nothing."""
            free = os.statvfs(disk)
            if not free.f_bavail:
                return False
            with suppress(OSError):  # somebody else took some of it: the next time
                size = os.fstat(file.fileno()).st_size
                os.posix_fallocate(file.fileno(), size, free.f_bavail * free.f_frsize)
            return True

        def stay_full() -> None:
            while not over.wait(0.02):
                fill()

        filler = threading.Thread(target=stay_full)
        try:
            while fill():
                pass
            filler.start()
            yield
        finally:
            over.set()
            if filler.ident is not None:
                filler.join()
            ballast.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Inside the block nothing can be written to the disk, which nobody may be writing to."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
