"""Ports on 127.0.0.1: free ones, taken ones, and who took them."""

from __future__ import annotations

import socket
from pathlib import Path

from ops.errors import PortInUseError

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"


def free() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_open(port: int, *, timeout_s: float = 0.5) -> bool:
    """Whether something accepts connections on `port`."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(port: int, *, service: str) -> None:
    """Raise PortInUseError, naming the program that has the port where it can be read."""
    if is_free(port):
        return
    holder = _holder(port)
    by = f" by {holder}" if holder else ""
    sentence = f"Port {port}, which {service} needs, is in use{by}."
    raise PortInUseError(sentence, remedy="Stop that program, or choose others with --port-base.")


def _holder(port: int) -> str:
    """`name (pid n)` of the process that listens on `port`, empty where unreadable."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            names = {link.readlink().name for link in (process / "fd").iterdir()}
            if names & inodes:
                name = (process / "comm").read_text().strip()
                return f"{name} (pid {process.name})"
        except OSError:
            continue
    return ""


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes
