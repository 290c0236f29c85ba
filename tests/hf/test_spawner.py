"""What the processes of models are started with."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from workbench.hf.spawner import Zygote


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc reads GLIBC_TUNABLES")
def test_memory_of_workers_may_lie_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    zygote = Zygote({})
    try:
        started = Path(f"/proc/{zygote.pid}/environ").read_text()
    finally:
        zygote.close()
    # What the user set stays. glibc itself cuts the variable at its colons while it reads it.
    assert "GLIBC_TUNABLES=glibc.malloc.check=0:glibc.malloc.hugetlb=1" in started.replace(
        "\0", ":"
    )
