"""Large pages: which areas are merged, and that nothing in them changes."""

from __future__ import annotations

import mmap
import platform

import pytest

from workbench.hf import pages

SMAPS = """\
55d000000000-55d000800000 rw-p 00000000 00:00 0                          [heap]
Size:               8192 kB
Rss:                8192 kB
VmFlags: rd wr mr
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Rss:                 512 kB
7f0000400000-7f0000800000 r--p 00000000 08:01 77                         /lib/libc.so.6
Rss:                4096 kB
7f0000800000-7f0000c00000 rw-p 00000000 00:00 0                          [stack]
Rss:                4096 kB
"""


def test_areas_are_private_anonymous_memory() -> None:
    heap, sparse = (0x55D000000000, 0x55D000800000), (0x7F0000000000, 0x7F0000400000)
    assert pages.areas(SMAPS) == [heap, sparse]
    assert pages.areas(SMAPS, full=0.9) == [heap]


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], [(10, 20)]),
        ([(0, 5), (30, 40)], [(10, 20)]),
        ([(0, 12), (15, 16), (19, 40)], [(12, 15), (16, 19)]),
        ([(10, 20)], []),
        ([(5, 10), (20, 25)], [(10, 20)]),
    ],
)
def test_what_was_there_before_is_left_alone(
    others: list[pages.Area], left: list[pages.Area]
) -> None:
    assert pages.without((10, 20), others) == left


@pytest.mark.skipif(platform.system() != "Linux", reason="large pages are merged on Linux only")
def test_merged_memory_holds_what_it_held() -> None:
    before = pages.present()
    assert before
    pattern = bytes(range(256)) * (8 * pages.LARGE_BYTES // 256)
    with mmap.mmap(-1, len(pattern), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(pattern)
        pages.merge(before)  # how much it can merge is the system's business
        assert memory[:] == pattern
