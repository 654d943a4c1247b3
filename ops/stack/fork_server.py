"""The process that Python services are forked from, so that they share what they import.

`forking` is what runs in it. Services that it forked outlive it, as they outlive the supervisor: it
is started again when the next one is to be started.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

from ops.errors import StackError
from ops.stack import child, records, variables
from ops.stack.layout import CHECKOUT
from ops.stack.processes import Identity
from runtime import logs

if TYPE_CHECKING:
    from ops.stack.child import Command

log = logs.logger("stack")

# It needs descriptors of processes, and memory that shows in /proc; on macOS, libraries of the
# system do not survive a fork.
IS_AVAILABLE = sys.platform == "linux"
NAME = "fork-server"
_ANSWER_S = 60.0  # its imports on a busy machine
_END_S = 5.0
_LINE_BYTES = 4096  # more than all lines about one service
# Room for the words of its children, which are written over its own.
_ROOM = " " * 80


class Over(Exception):  # noqa: N818 - an event, told by another error
    """The server has ended, or takes no more requests."""


class Forked:
    """A service that was forked: to the supervisor like a `Popen`."""

    def __init__(self, pid: int, report: socket.socket, told: bytes) -> None:
        """On `report` the server tells how it ended; `told` has been read from there."""
        self.pid = pid
        self._report = report
        self._told = told
        self._returncode: int | None = None
        report.settimeout(0)

    def poll(self) -> int | None:
        """Its exit code, None while it runs; ChildProcessError where nobody can know any more."""
        if self._returncode is None:
            if self._report.fileno() != -1:
                try:
                    self._told = self._told or self._report.recv(_LINE_BYTES)
                except BlockingIOError:
                    return None
                self._report.close()
            if not self._told:
                message = "The fork server has ended, so nobody knows how its services end."
                raise ChildProcessError(message)
            self._returncode = int(json.loads(self._told)["returncode"])
        return self._returncode


class _Process:
    """One process of the fork server, and the socket to it."""

    def __init__(self, mark: str) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "ops.stack.forking", _ROOM),
                stdin=theirs.fileno(),
                start_new_session=True,
                # Nothing of Relais': what is imported with it could keep it for all services.
                env=variables.for_process({records.MARK: mark}),
                cwd=CHECKOUT,
            )
        log.info("stack.started", name=NAME, pid=self.process.pid)

    def fork(self, command: Command, output: IO[bytes]) -> Forked:
        """The service that was asked for; raises Over, or OSError where the kernel refuses it."""
        ours, theirs = socket.socketpair()
        ours.settimeout(_ANSWER_S)
        request = {"words": command.words, "env": dict(command.env), "cwd": command.cwd}
        try:
            with theirs:
                socket.send_fds(self.control, [b"+"], [theirs.fileno(), output.fileno()])
            ours.sendall(json.dumps(request).encode() + b"\n")
            told = ours.recv(_LINE_BYTES)
        except TimeoutError:
            self.process.kill()
            told = b""
        except (BrokenPipeError, ConnectionResetError):
            told = b""
        line, _, rest = told.partition(b"\n")
        answer: dict[str, int] = json.loads(line or b"{}")
        if "pid" in answer:
            return Forked(answer["pid"], ours, rest)
        ours.close()
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        if "returncode" in answer:
            sentence = f"It ended with {child.ending(answer['returncode'])} before it began."
            raise StackError(sentence, remedy="See its log.")
        raise Over

    def is_over(self) -> bool:
        """Whether it has ended; reaps it."""
        return self.process.poll() is not None


class ForkServer:
    """Forks services; used by all monitors at once."""

    def __init__(self, mark: str) -> None:
        """Nothing is started before `warm` or `spawn`; `mark` is that of its processes."""
        self._mark = mark
        self._lock = threading.Lock()
        self._current: _Process | None = None
        self._former: list[_Process] = []  # they take no requests, but have children

    @property
    def identity(self) -> Identity | None:
        """The process that forks now."""
        current = self._current
        return None if current is None else Identity.of(current.process.pid)

    def warm(self) -> None:
        """Have its imports begin."""
        self._running()

    def spawn(self, command: Command, *, log: IO[bytes]) -> Forked:
        """Start `command`, `python -m MODULE ...`, in a session of its own, with output to `log`.

        Of its environment only `RELAIS_*` may differ from this process's. Raises StackError.
        """
        for _ in range(2):  # that there must be a new one may become known only now
            process = self._running()
            try:
                return process.fork(command, log)
            except Over:
                self._part_with(process)
        sentence = "The fork server cannot start anything."
        raise StackError(sentence, remedy="See supervisor.log.")

    def close(self) -> None:
        """End it, when its children have ended."""
        with self._lock:
            every = [*self._former, *filter(None, [self._current])]
            self._former, self._current = [], None
        for one in every:
            one.control.close()
        for one in every:
            try:
                one.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()

    def _running(self) -> _Process:
        with self._lock:
            self._former = [one for one in self._former if not one.is_over()]
            if self._current is None:
                self._current = _Process(self._mark)
            return self._current

    def _part_with(self, process: _Process) -> None:
        with self._lock:
            if self._current is process:
                process.control.close()
                self._former.append(process)
                self._current = None
