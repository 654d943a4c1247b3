"""Telling processes apart: a pid alone is given away again, pid and start time are not."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_LINUX = sys.platform == "linux"
_LOOK_S = 0.05
# Fields of /proc/<pid>/stat counted after the parenthesised name.
_STATE, _PARENT, _START = 0, 1, 19


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for as long as this machine is up; `started` names boot and moment."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has `pid` now; None where there is none (or only a zombie)."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return _started(self.pid) == self.started

    def send(self, how: signal.Signals) -> bool:
        """Send a signal if it still is that process; whether it was sent."""
        try:
            if not _LINUX:
                if self.alive():
                    os.kill(self.pid, how)
                    return True
                return False
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        # The descriptor pins the process before its start time is compared, so
        # the number cannot be given away between the look and the signal.
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(descriptor, how)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is gone, at most `timeout_s`; whether it is."""
        deadline = time.monotonic() + timeout_s
        if _LINUX:
            try:
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return True
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                return not self.alive() or bool(poll.poll(max(0.0, timeout_s) * 1000))
            finally:
                os.close(descriptor)
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_S)
        return True

    def uptime_s(self) -> float | None:
        """Seconds since it started; None where this cannot be read."""
        fields = _stat(self.pid)
        if fields is None or not self.alive():
            return None
        up_s = float((_PROC / "uptime").read_text().split()[0])
        return max(0.0, up_s - int(fields[_START]) / os.sysconf("SC_CLK_TCK"))


def family(pid: int) -> list[int]:
    """`pid` and all that descends from it, as far as it can be read."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None:
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, []))
    return found


def pss_bytes(pids: list[int]) -> int | None:
    """Proportional set size of these processes together: shared pages are shared out.

    None where the kernel does not tell this process.
    """
    return _together(pids, file="smaps_rollup", key="Pss:")


def rss_bytes(pids: list[int]) -> int | None:
    """Resident size of these processes together: shared pages count once for each."""
    return _together(pids, file="status", key="VmRSS:")


def marked(variable: str, start: str) -> list[Identity]:
    """Every process but this one whose environment has a `variable` that begins with `start`."""
    wanted = os.fsencode(f"{variable}={start}")  # a path, whatever the locale makes of it
    found: list[Identity] = []
    for entry in _PROC.glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(word.startswith(wanted) for word in words):
            identity = Identity.of(int(entry.name))
            if identity is not None:
                found.append(identity)
    return found


def _together(pids: list[int], *, file: str, key: str) -> int | None:
    sizes = []
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / file).read_text().splitlines()
        except OSError:
            continue
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith(key)]
    return sum(sizes) if sizes else None


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name may hold anything, spaces and parentheses included.
    return text.rpartition(")")[2].split()


def _started(pid: int) -> str | None:
    if not _LINUX:
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return printed.strip() or None
    fields = _stat(pid)
    if fields is None or fields[_STATE] in "ZX":
        return None
    return f"{_boot()}:{fields[_START]}"


@cache
def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
