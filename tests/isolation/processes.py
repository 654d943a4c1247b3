"""What the kernel knows of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether `pid` lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    """The isolated processes that `pid` started."""
    found = [
        int(child)
        for listing in Path(f"/proc/{pid}/task").glob("*/children")
        for child in listing.read_text().split()
    ]
    return [child for child in found if is_running(child) and _is_ours(child)]


def wait_for(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Return when `condition` holds; fail after `within_s`."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def _is_ours(pid: int) -> bool:
    return b"workers.child" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
