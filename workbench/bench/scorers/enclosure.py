"""The child of the sandbox: closes the doors behind itself, then runs the code.

Run as a script by an interpreter without site packages, so it imports nothing but the standard
library. The request comes as JSON on standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

NOSUID, NODEV, NOEXEC, RDONLY = 2, 4, 8, 1
REMOUNT, BIND = 32, 4096
DETACH: Final = 2
SET_NO_NEW_PRIVS, CAPBSET_DROP = 38, 24
CAPABILITIES: Final = 64
CAPABILITY_VERSION_3: Final = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise if a system call failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount, by the system call."""
    checked(
        libc.mount(
            source.encode(), target.encode(), kind.encode(), flags, options.encode() or None
        ),
        f"mount {target}",
    )


def new_root(root: str, visible: Sequence[str], work_bytes: int) -> None:
    """A root in memory with these folders, read-only, and an empty ``/tmp``; the old one goes."""
    mount("none", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    for folder in visible:
        if os.path.islink(folder):
            os.symlink(os.readlink(folder), root + folder)
            continue
        os.makedirs(root + folder)
        mount(folder, root + folder, "", BIND)
        mount("", root + folder, "", REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    for name in ("/tmp", "/old"):
        os.mkdir(root + name)
    mount("none", f"{root}/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, f"size={work_bytes},mode=777")
    os.chdir(root)
    checked(libc.pivot_root(b".", b"old"), "pivot_root")
    checked(libc.umount2(b"/old", DETACH), "umount")
    os.rmdir("/old")
    mount("", "/", "", REMOUNT | RDONLY | NOSUID | NODEV)
    os.chdir("/tmp")


def give_up_privileges(uid: int | None) -> None:
    """No capability is left, and none can come back; ``uid`` is taken if given."""
    for capability in range(CAPABILITIES):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)  # fails beyond the last: no matter
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    checked(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    checked(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def limit(limits: Mapping[str, int]) -> None:
    """Set the limits; none of them can be raised again."""
    for name, most in limits.items():
        what = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def run(given: dict[str, Any]) -> None:
    """The code and the tests, then the mark, which tells their end from an exit of the code.

    Code that goes looking for the mark in its own process can find it: this guards the machine,
    not the score.
    """
    mark, code, tests = given.pop("mark"), given.pop("code"), given.pop("tests")
    space = {"__name__": "__answer__"}
    exec(compile(code, "answer", "exec"), space)  # noqa: S102
    exec(compile(tests, "tests", "exec"), space)  # noqa: S102
    sys.stdout.flush()
    os.write(1, mark.encode())
    os._exit(0)  # no exit handler of the code's own after the mark


def main() -> None:
    """From standard input to the end of the tests."""
    given = json.loads(sys.stdin.buffer.read())
    os.close(0)
    if given["root"]:
        new_root(given["root"], given["visible"], given["work_bytes"])
        give_up_privileges(given["uid"])
    limit(given["limits"])
    run(given)


if __name__ == "__main__":
    main()
