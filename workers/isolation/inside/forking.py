"""The fork server: a process that has imported what children need and only forks them.

Started by `fork_server` as `python -m workers.isolation.inside.forking`, with the arguments
FD ROLE PARENT_PID MEMORY_BYTES. It has one thread and no connection but the socket FD to its
worker. Every socket that is sent to it there becomes the socket of a new child; it tells (as
`protocol` says) `{"forked": PID}` or `{"failed": ERRNO}`, in the order of the requests, and
`{"exited": PID, "returncode": N}` when a child has ended.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from workers import reports
from workers.isolation import protocol
from workers.isolation.inside import child, kernel

REQUESTS_MAX = 64  # taken at once
END_SIGNAL = signal.SIGUSR1  # from the kernel, when the worker dies


def main(arguments: list[str]) -> NoReturn:
    """Fork children until the worker closes the socket."""
    descriptor, role, parent_pid, memory_bytes = arguments
    # Memory that a collection frees here would be filled, and so copied, by every child.
    gc.disable()
    kernel.die_with(int(parent_pid))
    kernel.adopt_orphans()
    # The worker decides when its children end; they ignore a signal to the whole group.
    # Functions instead of SIG_IGN, which programs started by a handler would inherit.
    for number in (signal.SIGTERM, signal.SIGINT, END_SIGNAL):
        signal.signal(number, _stay)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    control = _taken_over(int(descriptor))
    try:
        begin = child.prepare(role)
    except BaseException as error:  # noqa: BLE001 - told to the worker, which raises it
        control.sendall(protocol.pack({"raised": reports.raised(error)}))
        os._exit(1)
    gc.freeze()
    # From here on, a signal that leaves time to kill what children have started.
    kernel.die_with(int(parent_pid), number=END_SIGNAL)
    channel = _Forks(control, parent_pid=int(parent_pid)).serve()
    child.main(role, channel, begin, memory_bytes=int(memory_bytes))


class _Forks:
    """Forks on request, reaps, and tells the worker of both."""

    def __init__(self, control: socket.socket, *, parent_pid: int) -> None:
        self._control = control
        self._parent_pid = parent_pid
        self._pid = os.getpid()
        self._children: set[int] = set()
        # Signals become readable, so that one wait covers them and the requests.
        self._wake, self._bell = socket.socketpair()
        for end in (self._wake, self._bell):
            end.settimeout(0)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _stay)

    def serve(self) -> socket.socket:
        """Returns in children only: the child's socket."""
        self._tell(ready=True)
        while True:
            readable, _, _ = select.select([self._control, self._wake], [], [])
            if self._wake in readable:
                self._wake.recv(4096)
                if os.getppid() != self._parent_pid:
                    self._end()
                self._reap()
            if self._control in readable:
                for channel in self._asked_for():
                    if self._fork(channel):
                        return channel

    def _asked_for(self) -> list[socket.socket]:
        """One socket for each child that the worker wants."""
        try:
            heard, descriptors, _, _ = socket.recv_fds(self._control, REQUESTS_MAX, REQUESTS_MAX)
        except ConnectionResetError:  # killed before it had read everything
            self._end()
        if not heard:
            self._end()
        return [_taken_over(descriptor) for descriptor in descriptors]

    def _fork(self, channel: socket.socket) -> bool:
        """True in the child, False in the server."""
        try:
            pid = os.fork()
        except OSError as error:
            channel.close()
            self._tell(failed=error.errno)
            return False
        if not pid:
            self._become_child()
            return True
        channel.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Here too, so that the group is there to be killed once the worker hears of it.
            os.setpgid(pid, pid)
        self._children.add(pid)
        self._tell(forked=pid)
        return False

    def _become_child(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, END_SIGNAL):
            signal.signal(number, signal.SIG_DFL)
        for ours in (self._control, self._wake, self._bell):
            ours.close()
        os.setpgid(0, 0)
        kernel.die_with(self._pid)
        kernel.adopt_orphans()

    def _reap(self) -> None:
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid in self._children:  # otherwise something that one of them had started
                self._children.remove(pid)
                kernel.kill_group(pid)
                ended.append((pid, os.waitstatus_to_exitcode(status)))
        if ended:
            # While a child lives its orphans are its own: these are of those that have ended.
            kernel.end_descendants(spare=self._children)
        for pid, returncode in ended:
            self._tell(exited=pid, returncode=returncode)

    def _tell(self, **content: Any) -> None:  # noqa: ANN401 - JSON
        try:
            self._control.sendall(protocol.pack(content))
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        """The worker is gone, or wants no more children."""
        for pid in self._children:
            kernel.kill_group(pid)
        kernel.end_descendants()
        os._exit(0)


def _taken_over(descriptor: int) -> socket.socket:
    """The socket `descriptor`; programs that a handler starts do not inherit it.

    It blocks, whatever default time-out the worker or a module of kinds has set for sockets.
    """
    taken = socket.socket(fileno=descriptor)
    taken.set_inheritable(False)
    taken.settimeout(None)
    return taken


def _stay(_number: int, _frame: object) -> None:
    pass


if __name__ == "__main__":
    main(sys.argv[1:])
