"""The fork server: a process that has imported what children need and only forks them.

Started by `workers.child_server` as
`python -m workers.child_forking FD ROLE PARENT_PID MEMORY_BYTES`. It has one thread and no
connection but the socket FD to its worker. Every socket that is sent to it there becomes the
socket of a new child; it tells (as `workers.frames`) `{"forked": PID}` or `{"failed": ERRNO}`,
in the order of the requests, and `{"exited": PID, "returncode": N}` when a child has ended.
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

from workers import child, child_kernel, frames, reports

REQUESTS_MAX = 64  # taken at once


def main(arguments: list[str]) -> NoReturn:
    """Fork children until the worker closes the socket."""
    descriptor, role, parent_pid, memory_bytes = arguments
    # Memory that a collection frees here would be filled, and so copied, by every child.
    gc.disable()
    child_kernel.die_with(int(parent_pid))
    child_kernel.adopt_orphans()
    # The worker decides when its children end; a signal to the whole group is not for them.
    # Functions instead of SIG_IGN, which programs started by a handler would inherit.
    signal.signal(signal.SIGTERM, _stay)
    signal.signal(signal.SIGINT, _stay)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    control = _taken_over(int(descriptor))
    try:
        begin = child.prepare(role)
    except BaseException as error:  # noqa: BLE001 - told to the worker, which raises it
        control.sendall(frames.pack({"raised": reports.raised(error)}))
        os._exit(1)
    gc.freeze()
    channel = _Forks(control).serve()
    child.main(role, channel, begin, memory_bytes=int(memory_bytes))


class _Forks:
    """Forks on request, reaps, and tells the worker of both."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
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
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for ours in (self._control, self._wake, self._bell):
            ours.close()
        os.setpgid(0, 0)
        child_kernel.die_with(self._pid)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._children:  # else an orphan of one of them
                self._children.remove(pid)
                child_kernel.kill_group(pid)  # what it started and left behind
                self._tell(exited=pid, returncode=os.waitstatus_to_exitcode(status))

    def _tell(self, **content: Any) -> None:  # noqa: ANN401 - JSON
        try:
            self._control.sendall(frames.pack(content))
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        """The worker is gone, or wants no more children."""
        for pid in self._children:
            child_kernel.kill_group(pid)
        os._exit(0)


def _taken_over(descriptor: int) -> socket.socket:
    """The socket `descriptor`; programs that a handler starts do not inherit it."""
    taken = socket.socket(fileno=descriptor)
    taken.set_inheritable(False)
    return taken


def _stay(_number: int, _frame: object) -> None:
    pass


if __name__ == "__main__":
    main(sys.argv[1:])
