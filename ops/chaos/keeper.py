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
class Charge:
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
class Keeper:
    """All processes under test."""

    charges: dict[str, Charge] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    _asked: set[int] = field(default_factory=set)  # pids that were sent a signal to end
    _task: asyncio.Task[None] | None = None

    def add(self, charge: Charge) -> None:
        """Start `charge` and keep it running."""
        self.charges[charge.name] = charge
        charge.start()

    def watch(self) -> None:
        """From now on, start again what dies."""
        self._task = asyncio.create_task(self._keep())

    def named(self, start: str) -> list[Charge]:
        """Those that run now and whose names begin with `start`."""
        return [one for name, one in self.charges.items() if name.startswith(start) and one.pid]

    def kill(self, charge: Charge, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of ours."""
        with contextlib.suppress(ProcessLookupError):
            if charge.pid:
                if how in ENDS:
                    self._asked.add(charge.pid)
                os.kill(charge.pid, how)
                if how is signal.SIGKILL:
                    self.bury(charge)

    def send_to_family(self, charge: Charge, how: signal.Signals) -> None:
        """Send a signal to one of ours and to all that descends from it."""
        for pid in processes.family(charge.pid) if charge.pid else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)

    def bury(self, charge: Charge) -> None:
        """Wait for the end of a killed process and note it."""
        if charge.process is None or charge.died_at:
            return
        code, pid = charge.process.wait(), charge.process.pid
        charge.died_at = time.monotonic()
        self.deaths.append(Death(charge.name, pid, time.time(), code, pid in self._asked))

    def owner_of(self, client_port: int) -> Charge | None:
        """Whose connection comes from this local port; its children's count as its own."""
        inode = _inode(client_port)
        if inode is None:
            return None
        running = [charge for charge in self.charges.values() if charge.pid]
        for charge in running:  # nearly always one of these themselves
            if _holds(charge.pid, inode):
                return charge
        for charge in running:
            if any(_holds(pid, inode) for pid in processes.family(charge.pid)[1:]):
                return charge
        return None

    async def stop(self) -> None:
        """End them all: TERM, then KILL."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        running = [charge for charge in self.charges.values() if charge.pid]
        for charge in running:
            self.kill(charge, signal.SIGCONT)
            self.kill(charge, signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for charge in running:
            if charge.process is not None:
                await asyncio.to_thread(_wait_or_kill, charge.process, deadline)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            for charge in self.charges.values():
                if charge.pid:
                    continue
                self.bury(charge)
                if now - charge.died_at >= AGAIN_AFTER_S:
                    charge.died_at = 0.0
                    charge.start()


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
