"""A process that runs one thing at a time for a worker, and may be killed at any moment.

Started by `workers.isolation` as `python -m workers.child FD ROLE PARENT_PID MEMORY_BYTES`.
The role `function` runs pure functions and imports almost nothing; the role `kind` knows every
kind. It talks over the socket FD, because handlers print to stdout as they like.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from workers import frames, functions, reports

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main(arguments: list[str]) -> None:
    """Serve requests until the worker closes the socket; never returns to the interpreter."""
    descriptor, role, parent_pid, memory_bytes = arguments
    _die_with(int(parent_pid))
    # The worker decides when its children end; a signal to the whole group is not for them.
    # Functions instead of SIG_IGN, which programs started by a handler would inherit.
    signal.signal(signal.SIGTERM, _stay)
    signal.signal(signal.SIGINT, _stay)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    channel = socket.socket(fileno=int(descriptor))
    try:
        run = _functions() if role == "function" else _kinds(channel)
        _limit(role, memory_bytes=int(memory_bytes))
    except Exception as error:  # noqa: BLE001 - told to the worker, which raises it
        channel.sendall(frames.pack({"raised": reports.raised(error)}))
        os._exit(1)
    channel.sendall(frames.pack({"ready": True}))
    while (request := frames.receive(channel)) is not None:
        channel.sendall(_answer(run, request))
    # No atexit hooks and no waiting for threads that a handler may have left behind.
    sys.stdout.flush()
    os._exit(0)


def _answer(run: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> bytes:
    try:
        return frames.pack(run(request), default=_as_json)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a handler ends its run, not us
        # Memory that ran out once is in pieces: the next run gets a fresh process.
        worn_out = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        return frames.pack({"raised": reports.raised(error), "recycle": worn_out})


def _as_json(value: object) -> object:
    if "pydantic_core" in sys.modules:
        return sys.modules["pydantic_core"].to_jsonable_python(value)
    message = f"{type(value).__name__} is not JSON"
    raise TypeError(message)


def _functions() -> Callable[[dict[str, Any]], dict[str, Any]]:
    table = {name: functions.load(name) for name in functions.FUNCTIONS}

    def run(request: dict[str, Any]) -> dict[str, Any]:
        return {"result": table[request["name"]](request["arguments"])}

    return run


def _kinds(channel: socket.socket) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from workers.child_kinds import KindRunner  # noqa: PLC0415 - half a second of imports

    def still_owned() -> bool:
        channel.sendall(frames.pack({"ask": "still_owned"}))
        answer = frames.receive(channel)
        return answer is not None and bool(answer["answer"])

    return KindRunner(still_owned=still_owned).run


def _die_with(parent_pid: int) -> None:
    if sys.platform == "linux":
        kernel = ctypes.CDLL(None, use_errno=True)
        kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before we could ask to be told
        os._exit(1)


def _limit(role: str, *, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if role == "function":  # pure: it opens and writes nothing
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def _stay(_number: int, _frame: object) -> None:
    pass


if __name__ == "__main__":
    main(sys.argv[1:])
