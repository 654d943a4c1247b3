"""Starts the processes under test and starts them again when they die, as a supervisor would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ops.stack import processes

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOK_EVERY_S = 0.1
AGAIN_AFTER_S = 0.5
END_S = 15.0
ENDS = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL})
TCP_CLIENT, TCP_INODE = 1, 9
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended, and when (seconds since 1970)."""

    name: str
    pid: int
    at: float
    exit_code: int = 0
    was_asked: bool = True  # by a signal of the harness


@dataclass(eq=False)
class Launched:
    """One process that shall run."""

    name: str
    words: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    skew: str = ""  # of its clock, in libfaketime's words
    died_at: float = 0.0  # monotonic

    @property
    def pid(self) -> int:
        """Of the process as it runs now; 0 where it does not."""
        alive = self.process is not None and self.process.poll() is None
        return self.process.pid if alive and self.process is not None else 0

    def start(self) -> None:
        """Start it, in a session of its own."""
        env = dict(self.env)
        if self.skew:
            env |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME": self.skew,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=env["PYTHONPATH"],
            )


@dataclass(eq=False)
class Launcher:
    """All processes under test."""

    processes: dict[str, Launched] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    _asked: set[int] = field(default_factory=set)  # pids that were sent a signal to end
    _task: asyncio.Task[None] | None = None

    def add(self, launched: Launched) -> None:
        """Start `launched` and keep it running."""
        self.processes[launched.name] = launched
        launched.start()

    def watch(self) -> None:
        """From now on, start again what dies."""
        self._task = asyncio.create_task(self._keep())

    def named(self, start: str) -> list[Launched]:
        """Those that run now and whose names begin with `start`."""
        return [one for name, one in self.processes.items() if name.startswith(start) and one.pid]

    def kill(self, launched: Launched, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of ours."""
        with contextlib.suppress(ProcessLookupError):
            if launched.pid:
                if how in ENDS:
                    self._asked.add(launched.pid)
                os.kill(launched.pid, how)
                if how is signal.SIGKILL:
                    self.bury(launched)

    def send_to_family(self, launched: Launched, how: signal.Signals) -> None:
        """Send a signal to one of ours and to all that descends from it."""
        for pid in processes.family(launched.pid) if launched.pid else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)

    def bury(self, launched: Launched) -> None:
        """Wait for the end of a killed process and note it."""
        if launched.process is None or launched.died_at:
            return
        code, pid = launched.process.wait(), launched.process.pid
        launched.died_at = time.monotonic()
        self.deaths.append(Death(launched.name, pid, time.time(), code, pid in self._asked))

    def owner_of(self, client_port: int) -> Launched | None:
        """Whose connection comes from this local port; its children's count as its own."""
        inode = _inode(client_port)
        if inode is None:
            return None
        running = [launched for launched in self.processes.values() if launched.pid]
        for launched in running:  # nearly always one of these themselves
            if _holds(launched.pid, inode):
                return launched
        for launched in running:
            if any(_holds(pid, inode) for pid in processes.family(launched.pid)[1:]):
                return launched
        return None

    async def stop(self) -> None:
        """End them all: TERM, then KILL."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        running = [launched for launched in self.processes.values() if launched.pid]
        for launched in running:
            self.kill(launched, signal.SIGCONT)
            self.kill(launched, signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for launched in running:
            if launched.process is not None:
                await asyncio.to_thread(_wait_or_kill, launched.process, deadline)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            for launched in self.processes.values():
                if launched.pid:
                    continue
                self.bury(launched)
                if now - launched.died_at >= AGAIN_AFTER_S:
                    launched.died_at = 0.0
                    launched.start()


def _wait_or_kill(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _inode(port: int) -> str | None:
    """Of the socket on 127.0.0.1 that has this local port and is connected."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        host, _, number = words[TCP_CLIENT].partition(":")
        if host == "0100007F" and int(number, 16) == port and words[TCP_INODE] != "0":
            return f"socket:[{words[TCP_INODE]}]"
    return None


def _holds(pid: int, inode: str) -> bool:
    try:
        links = (Path("/proc") / str(pid) / "fd").iterdir()
        return any(link.readlink().name == inode for link in links)
    except OSError:
        return False
