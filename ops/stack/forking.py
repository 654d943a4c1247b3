"""`python -m ops.stack.forking`: imports what the services share, and forks them on request.

Started by `fork_server`, with a socket as its standard input. It has one thread and no connection
but that socket. Each byte there brings a socket and a log; on that socket it is told what to run,
as one line of JSON, and answers with lines of JSON: `{"pid": N}` from the child when it begins,
`{"returncode": N}` when it has ended, or `{"errno": N}` where the kernel refuses a process.

It ends when it has neither a supervisor nor children. Where a file that it has loaded changed, it
takes no more requests: the next server has the new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.stack import records
from ops.stack.layout import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterable

# What workers, beat, gateway and Flower import, but for the modules that they run as. Of that, what
# is imported only when it is needed is named here too.
SHARED = (
    "gateway.server",
    "workers.app",
    "workers.schedule_runner",
    "workers.isolation.pool",
    "ledger.migrations.steps",
    "tasks.email.send",
    "tasks.templates.render",
    "tasks.callbacks",
    "tasks.workflows",
    "tasks.canary",
    "tasks.housekeeping",
    "tasks.preflight",
    "alembic.command",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.base",
    "celery.beat",
    "celery.concurrency.solo",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "encodings.idna",
    "flower.app",
    "kombu.transport.redis",
    "runtime.tally_folder",
    "sqlalchemy.dialects.postgresql.psycopg",
)
# Fields of /proc/<pid>/stat counted after the parenthesised name.
_ARGUMENTS, _ENVIRONMENT = slice(45, 47), slice(47, 49)


@dataclass(frozen=True, slots=True)
class Request:
    """One service to run: `words` begin with `python -m MODULE`."""

    report: socket.socket
    log: int
    words: list[str]
    env: dict[str, str]
    cwd: str


class Server:
    """Takes requests, forks, and tells how each child ended."""

    def __init__(self, control: socket.socket) -> None:
        """`control` is the socket to the supervisor."""
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._is_open = True
        self._loaded = _changed_at(_files())
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd

    def serve(self) -> Request | None:
        """What to run, in a child; None in the server, when it is over."""
        while self._is_open or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._bury(descriptor)
                elif (request := self._asked_for()) and self._fork(request):
                    return request
        return None

    def _asked_for(self) -> Request | None:
        heard, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        if not heard:
            self._hang_up()
            return None
        report, log = socket.socket(fileno=descriptors[0]), descriptors[1]
        with report.makefile("rb") as lines:
            line = lines.readline()
        if line and _changed_at(self._loaded) == self._loaded:
            return Request(report, log, **json.loads(line))
        if line:
            self._hang_up()
        report.close()
        os.close(log)
        return None

    def _hang_up(self) -> None:
        self._poll.unregister(self._control)
        self._control.close()
        self._is_open = False

    def _fork(self, request: Request) -> bool:
        """True in the child, False in the server."""
        try:
            pid = os.fork()
        except OSError as error:
            _tell(request.report, errno=error.errno)
            request.report.close()
            os.close(request.log)
            return False
        if not pid:
            self._forget()
            return True
        os.close(request.log)
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = (pid, request.report)
        self._poll.register(descriptor, select.POLLIN)
        return False

    def _bury(self, descriptor: int) -> None:
        pid, report = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        _tell(report, returncode=os.waitstatus_to_exitcode(status))
        report.close()

    def _forget(self) -> None:
        """Close what is the server's: a child has no part in it."""
        self._control.detach()  # standard input, which `become` replaces
        for descriptor, (_, report) in self._children.items():
            os.close(descriptor)
            report.close()


def become(request: Request) -> None:
    """Be the service that is asked for, as if it had been started by itself."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, source in ((0, nothing), (1, request.log), (2, request.log)):
        os.dup2(source, descriptor)
    for descriptor in {nothing, request.log} - {0, 1, 2}:
        os.close(descriptor)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    sys.orig_argv[:] = request.words
    _, _, module, *arguments = request.words
    sys.argv[1:] = arguments
    show(request.words, mark=request.env.get(records.MARK, ""))
    _tell(request.report, pid=os.getpid())
    request.report.close()
    gc.enable()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def show(words: list[str], *, mark: str) -> None:
    """Have `ps` show these words, and the stack find this process by its mark.

    The kernel shows what is in the memory that the words and the environment had at the start.
    Nobody else reads it: `os.environ` was emptied before, and what is set anew is kept elsewhere.
    """
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    for room, texts in ((_ARGUMENTS, words), (_ENVIRONMENT, [f"{records.MARK}={mark}"])):
        begin, end = map(int, fields[room])
        shown = b"".join(os.fsencode(text) + b"\0" for text in texts)
        if begin:  # else this kernel does not tell
            ctypes.memmove(begin, shown.ljust(end - begin, b"\0"), end - begin)


def preload() -> None:
    """Import what is shared; what cannot be imported, the service that needs it will say."""
    for module in SHARED:
        try:
            importlib.import_module(module)
        except Exception:  # noqa: BLE001 - anything may be wrong with code that is being changed
            traceback.print_exc()


def _files() -> set[str]:
    """Every file that is loaded; of the project's packages, every file."""
    found = {str(module.__file__) for module in list(sys.modules.values()) if _has_file(module)}
    for package in {Path(file).relative_to(CHECKOUT).parts[0] for file in found if _is_ours(file)}:
        for folder, _, names in os.walk(CHECKOUT / package):
            if not folder.endswith("__pycache__"):
                found.update(f"{folder}/{name}" for name in names)
    return found


def _changed_at(files: Iterable[str]) -> dict[str, int]:
    """When each was changed, in nanoseconds; 0 for one that is gone."""
    changed = dict.fromkeys(files, 0)
    for file in changed:
        with contextlib.suppress(OSError):
            changed[file] = os.stat(file).st_mtime_ns  # noqa: PTH116 - a thousand of them
    return changed


def _has_file(module: object) -> bool:
    return bool(getattr(module, "__file__", None))


def _is_ours(file: str) -> bool:
    if not file.startswith(f"{CHECKOUT}{os.sep}"):
        return False
    return not Path(file).relative_to(CHECKOUT).parts[0].startswith(".")


def _tell(report: socket.socket, **content: Any) -> None:  # noqa: ANN401 - JSON
    with contextlib.suppress(OSError):  # the supervisor is gone
        report.sendall(json.dumps(content).encode() + b"\n")


def main() -> None:
    """Serve until there is nobody left to serve; in a child, run its service."""
    control = socket.socket(fileno=0)
    # Memory that a collection frees here would be filled, and so copied, by every child.
    gc.disable()
    preload()
    gc.freeze()
    request = Server(control).serve()
    if request is not None:
        become(request)


if __name__ == "__main__":
    main()
