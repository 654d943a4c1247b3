"""What the kernel knows of processes."""

from __future__ import annotations

import contextlib
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether `pid` lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def servers_of(pid: int) -> list[int]:
    """The fork servers that `pid` started."""
    return [child for child in started_by(pid) if is_running(child) and _is_ours(child)]


def children_of(pid: int) -> list[int]:
    """The isolated processes that the fork servers of `pid` forked."""
    return [child for server in servers_of(pid) for child in servers_of(server)]


def started_by(pid: int) -> list[int]:
    """All children of `pid`, zombies too."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, listing.read_text().split())
    return found


def threads_of(pid: int) -> int:
    """How many threads `pid` has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def sockets_of(pid: int) -> int:
    """How many sockets `pid` has open."""
    opened = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(target.startswith("socket:") for target in opened)


def private_kb(pid: int) -> int:
    """Memory that only `pid` has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def is_zombie(pid: int) -> bool:
    """Whether `pid` has ended and was not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_ours(pid: int) -> bool:
    return b"workers.isolation.inside.forking" in Path(f"/proc/{pid}/cmdline").read_bytes().split(
        b"\0"
    )
