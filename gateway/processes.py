"""Several gateway processes on one address: the parent binds it, starts them and keeps them up.

Each is an ordinary gateway that inherits the listening socket and one end of a pipe. Through the
pipe it reports once a second that it is serving; the kernel reports through it that the process has
ended and, in the other direction, that the parent has. Nothing else is shared between them.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from runtime import logs
from runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket

    from runtime.settings import Settings

log = logs.logger("gateway")

LOOK_EVERY_S = 0.5  # for restarts and hung processes; exits and signals are noticed at once
HUNG_S = 60.0  # the same as the local stack gives a service that does not respond
GRACE_MARGIN_S = 5.0  # beyond the grace for requests: to close connections, write metrics
PIPE_READ_BYTES = 4096


class Process:
    """One of the gateway processes, and its replacements."""

    def __init__(self) -> None:
        self.pipe = -1  # our end, while it runs
        self.serves_since: float | None = None
        self.due_at = 0.0  # when to start the next, while none runs
        self._child: subprocess.Popen[bytes] | None = None
        self._heard_at = 0.0
        self._is_told = False
        self._backoff = Backoff()

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._child is not None

    def start(self, listening: socket) -> None:
        """Start it the way the parent was started; later, if the machine refuses."""
        self.pipe, its_end = os.pipe()
        words = [sys.executable, *sys.orig_argv[1:], str(listening.fileno()), str(its_end)]
        try:
            self._child = subprocess.Popen(words, pass_fds=(listening.fileno(), its_end))
        except OSError as error:
            os.close(self.pipe)
            log.error("gateway.process_refused", error=str(error))
            self._wait_for_next(is_fatal=True)
            return
        finally:
            os.close(its_end)
        self._heard_at = time.monotonic()
        log.info("gateway.process_started", pid=self._child.pid)

    def tell(self, number: signal.Signals) -> None:
        """Tell it to stop, if it is running."""
        self._is_told = True
        if self._child is not None:
            self._child.send_signal(number)

    def listen(self) -> int | None:
        """Read its pipe; its exit code if it has ended."""
        assert self._child is not None  # noqa: S101 - it has a pipe
        if not os.read(self.pipe, PIPE_READ_BYTES):
            return self._ended(self._child)
        now = self._heard_at = time.monotonic()
        self.serves_since = self.serves_since or now
        self._backoff.healthy(for_s=now - self.serves_since)
        return None

    def end_if_silent(self, *, for_s: float) -> None:
        """SIGKILL if it has been silent for too long: its event loop is stuck."""
        silent_s = time.monotonic() - self._heard_at
        if self._child is not None and silent_s > for_s:
            log.warning("gateway.process_hung", pid=self._child.pid, seconds=round(silent_s))
            self._child.kill()

    def _ended(self, child: subprocess.Popen[bytes]) -> int:
        os.close(self.pipe)
        code = child.wait()
        self.pipe, self._child, self.serves_since = -1, None, None
        if not self._is_told:
            pause_s = self._wait_for_next()
            log.warning("gateway.process_ended", pid=child.pid, exit_code=code, pause_s=pause_s)
        return code

    def _wait_for_next(self, *, is_fatal: bool = False) -> float:
        self._backoff.failed()
        pause_s = self._backoff.pause_s(is_fatal=is_fatal)
        self.due_at = time.monotonic() + pause_s
        return pause_s


class Parent:
    """Keeps `count` gateways on `listening` until told to stop."""

    def __init__(self, listening: socket, *, count: int, grace_s: float) -> None:
        self._listening = listening
        self._processes = [Process() for _ in range(count)]
        self._grace_s = grace_s
        self._woken, self._wake = os.pipe()
        self._is_stopping = False

    def stop(self) -> None:
        """Have `run` end them and return; from a signal handler."""
        self._is_stopping = True
        os.write(self._wake, b".")

    def run(self) -> int:
        """0 when told to stop; a process's exit code if it means that none can serve."""
        code = 0
        while not self._is_stopping and not code:
            for process in self._processes:
                if not process.is_running and time.monotonic() >= process.due_at:
                    process.start(self._listening)
            code = self._watch(LOOK_EVERY_S)
            for process in self._processes:
                # One that was told to stop from outside is silent while it finishes its requests.
                process.end_if_silent(for_s=HUNG_S + self._grace_s)
        return self._end() or code

    def _watch(self, seconds: float) -> int:
        """Listen to them for `seconds`; the exit code of one that shows why none can serve."""
        for process in self._heard(seconds):
            code = process.listen() or 0
            # Wrong settings, an unfit database: a single process would end the same way, and
            # whoever started the parent gets to know.
            if code > 0 and not any(other.serves_since for other in self._processes):
                return code
        return 0

    def _heard(self, seconds: float) -> Iterable[Process]:
        pipes = {process.pipe: process for process in self._processes if process.is_running}
        readable, _, _ = select.select([self._woken, *pipes], (), (), seconds)
        if self._woken in readable:
            os.read(self._woken, PIPE_READ_BYTES)
        return [pipes[pipe] for pipe in readable if pipe in pipes]

    def _end(self) -> int:
        """SIGTERM to all, SIGKILL to those that exceed the grace period: 1 if there were any."""
        self._listening.close()  # no new connections, once each process has closed its own copy
        self._tell(signal.SIGTERM)
        until = time.monotonic() + self._grace_s + GRACE_MARGIN_S
        while self._are_left() and time.monotonic() < until:
            self._hear_ends(until - time.monotonic())
        if not self._are_left():
            return 0
        self._tell(signal.SIGKILL)
        while self._are_left():
            self._hear_ends(LOOK_EVERY_S)
        return 1

    def _hear_ends(self, seconds: float) -> None:
        for process in self._heard(seconds):
            process.listen()

    def _tell(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.tell(number)

    def _are_left(self) -> bool:
        return any(process.is_running for process in self._processes)


def run(settings: Settings, listening: socket) -> int:
    """Serve with `gateway_processes` of them until SIGTERM or SIGINT."""
    parent = Parent(listening, count=settings.gateway_processes, grace_s=settings.grace_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: parent.stop())
    log.info("gateway.parent_started", count=settings.gateway_processes)
    code = parent.run()
    log.info("gateway.parent_stopped")
    return code
