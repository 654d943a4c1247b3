"""What isolated processes ask of the kernel: to die in time and to be held to their limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def die_with(parent_pid: int) -> None:
    """Have this process killed when its parent dies, however that comes about (Linux)."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    if os.getppid() != parent_pid:  # it died before we could ask to be told
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, so that it can be reaped (Linux)."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def limit(role: str, *, memory_bytes: int) -> None:
    """Bound what this process may use; a function opens and writes nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if role == "function":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def kill_group(pid: int) -> None:
    """SIGKILL for a child and what it started; nothing where all of it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
