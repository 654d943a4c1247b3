"""A process that runs one thing at a time for a worker, and may be killed at any moment.

Forked by `inside.forking`, which has called `prepare` before. The role `function` runs pure
functions and imports almost nothing; the role `kind` knows every kind. It talks over a socket,
because handlers print to stdout as they like.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from workers import reports
from workers.isolation import functions, protocol
from workers.isolation.inside import kernel, seccomp

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    Run = Callable[[dict[str, Any]], dict[str, Any]]
    Begin = Callable[[socket.socket], Run]

_SETTINGS = {"function": "RELAIS_RENDER_MEMORY_BYTES", "kind": "RELAIS_ISOLATED_MEMORY_BYTES"}


def prepare(role: str) -> Begin:
    """Import and load what children of `role` need; opens no connection and starts no thread.

    What it returns does the rest in each child, given the socket to the worker.
    """
    if role == "function":
        table = {name: functions.load(name) for name in functions.FUNCTIONS}
        return lambda _channel: (
            lambda request: {"result": table[request["name"]](request["arguments"])}
        )

    from workers.isolation.inside.kinds import KindRunner  # noqa: PLC0415 - half a second of imports

    runner = KindRunner()

    def begin(channel: socket.socket) -> Run:
        def ask(question: dict[str, Any]) -> dict[str, Any] | None:
            channel.sendall(protocol.pack(question))
            return protocol.receive(channel)

        runner.begin(ask)
        return runner.run

    return begin


def main(role: str, channel: socket.socket, begin: Begin, *, memory_bytes: int) -> NoReturn:
    """Serve requests until the worker closes the socket; never returns to the interpreter."""
    try:
        _reseed()
        run = begin(channel)
        kernel.limit(role, memory_bytes=memory_bytes)
        if role == "function":
            seccomp.confine()
        gc.enable()
    except BaseException as error:  # noqa: BLE001 - told to the worker, which raises it
        channel.sendall(protocol.pack({"raised": reports.raised(error)}))
        os._exit(1)
    limits = f"its process may take {memory_bytes >> 20} MiB: {_SETTINGS[role]}"
    with contextlib.suppress(
        ConnectionError
    ):  # the worker was killed: there is no one left to tell
        channel.sendall(protocol.pack({"ready": True}))
        while (request := protocol.receive(channel)) is not None:
            channel.sendall(_answer(run, request, role=role, limits=limits))
    # No atexit hooks and no waiting for threads that a handler may have left behind.
    sys.stdout.flush()
    os._exit(0)


def _answer(run: Run, request: dict[str, Any], *, role: str, limits: str) -> bytes:
    """The response frame, once nothing is left that the handler started."""
    try:
        content = run(request)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a handler ends its run, not us
        content = _raised(error, limits)
    if role == "kind" and kernel.end_descendants():
        content["recycle"] = True  # the handler's modules may still rely on what is gone
    try:
        return protocol.pack(content, default=_as_json)
    except BaseException as error:  # noqa: BLE001 - whatever a function returned
        return protocol.pack(_raised(error, limits))


def _raised(error: BaseException, limits: str) -> dict[str, Any]:
    # Memory that ran out once is fragmented: the next run gets a fresh process.
    worn_out = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
    raised = reports.raised(error)
    if isinstance(error, MemoryError):  # which says nothing by itself
        said = raised["report"]["message"]
        raised["report"]["message"] = f"{said} ({limits})" if said else limits
    elif worn_out and "remedy" in raised:
        raised["remedy"] = f"{limits[0].upper()}{limits[1:]}."
    return {"raised": raised, "recycle": worn_out}


def _as_json(value: object) -> object:
    if "pydantic_core" in sys.modules:
        return sys.modules["pydantic_core"].to_jsonable_python(value)
    message = f"{type(value).__name__} is not JSON"
    raise TypeError(message)


def _reseed() -> None:
    """Reseed: forked siblings would draw the same numbers."""
    random.seed()
    if "numpy.random" in sys.modules:  # its global generator is not reseeded by itself
        sys.modules["numpy.random"].seed()
