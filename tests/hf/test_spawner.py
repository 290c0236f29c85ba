"""What the processes of models are started with."""

from __future__ import annotations

import platform
import signal
import time
from pathlib import Path

import pytest

from workbench.hf.spawner import Zygote

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or not _ENABLED.is_file()
    or "[madvise]" not in _ENABLED.read_text(),
    reason="only glibc asks for large pages, and only where one has to ask",
)
def test_memory_of_workers_may_lie_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    zygote = Zygote({})
    try:
        # The areas of its heap are marked so (hg) as soon as there are any.
        deadline = time.monotonic() + 60
        while " hg" not in (smaps := Path(f"/proc/{zygote.pid}/smaps").read_text()):
            assert time.monotonic() < deadline, smaps[:2000]
            time.sleep(0.05)
    finally:
        zygote.close()


def test_a_zygote_without_workers_is_not_waited_for() -> None:
    zygote = Zygote({})
    zygote.close()
    assert zygote._process.returncode == -signal.SIGTERM, "neither imported nor killed at last"
