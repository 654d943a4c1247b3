"""What isolated processes ask of the kernel: to die in time and to be kept within limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_HAS_LISTINGS = Path(f"/proc/self/task/{os.getpid()}/children").exists()
END_WITHIN_S = 2.0  # a killed process that does not end is stuck in the kernel
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def die_with(parent_pid: int, *, number: int = signal.SIGKILL) -> None:
    """Have this process sent a signal when its parent dies, however that comes about (Linux)."""
    _control(_PR_SET_PDEATHSIG, number)
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    if os.getppid() != parent_pid:  # it died before we could ask to be notified
        os._exit(1)


def adopt_orphans() -> None:
    """Adopt processes that descendants leave behind, so that they can be reaped (Linux)."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def limit(role: str, *, memory_bytes: int) -> None:
    """Limit what this process may use; a function opens and writes nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if role == "function":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def kill_group(pid: int) -> None:
    """SIGKILL for a child and what it started; nothing where all of it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_descendants(*, spare: Collection[int] = ()) -> bool:
    """SIGKILL for all that this process and its children have started, but for `spare` and theirs.

    Sessions and groups of their own do not save them; whoever calls must be a subreaper (see
    `adopt_orphans`). Returns when they are gone: whether there were any (Linux).
    """
    deadline = time.monotonic() + END_WITHIN_S
    were_any = False
    while left := list(_descendants(os.getpid(), spare)):
        were_any = True
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # not ours, or not yet
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return were_any


def _descendants(pid: int, spare: Collection[int]) -> Iterator[int]:
    for child in _children(pid):
        if child not in spare:
            yield child
            yield from _descendants(child, spare)


def _children(pid: int) -> list[int]:
    if not _HAS_LISTINGS:
        return _by_parent(pid)
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_bytes().split())
    return found


def _by_parent(parent_pid: int) -> list[int]:
    """The same where the kernel keeps no lists of children: look at every process."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == parent_pid:
                found.append(int(process.name))
    return found


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
