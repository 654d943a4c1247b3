"""One child process of a worker, as the worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from workers import frames

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter, TimerHandle
    from asyncio.subprocess import Process
    from collections.abc import Callable

    from runtime.settings import Settings

END_S = 2.0  # between closing a child's socket and killing it
BUFFER_BYTES = 1 << 20
_CHECKOUT = Path(__file__).resolve().parent.parent
_HARMLESS = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")

Role = Literal["function", "kind"]


class EndOfChild(Exception):  # noqa: N818 - an event, told by another error
    """The child's socket is closed or no sense comes out of it."""


class Child:
    """One process and the socket to it."""

    def __init__(
        self,
        role: Role,
        process: Process,
        *,
        reader: StreamReader,
        writer: StreamWriter,
        ours: socket.socket,
    ) -> None:
        self.role = role
        self.reader = reader
        self.rest: TimerHandle = asyncio.get_running_loop().call_later(0, lambda: None)
        self._socket = ours
        self._process = process
        self._writer = writer
        self._waiter = asyncio.ensure_future(process.wait())

    def is_alive(self) -> bool:
        """Whether it waits quietly for a request: its socket is open and has nothing to say."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return not self.reader.at_eof()
        except OSError:
            return False
        return False

    async def ask(self, frame: bytes, *, still_owned: Callable[[], bool] | None) -> dict[str, Any]:
        """The answer to one request; raises EndOfChild where none comes any more."""
        try:
            self._writer.write(frame)
            await self._writer.drain()
            while "ask" in (answer := await frames.read(self.reader)):
                owned = still_owned is None or still_owned()
                self._writer.write(frames.pack({"answer": owned}))
        except (EOFError, OSError, ValueError, RecursionError, frames.FrameTooLarge) as error:
            raise EndOfChild from error
        return answer

    def kill(self) -> None:
        """SIGKILL for it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def wait_or_kill(self, patience_s: float) -> int | None:
        """Its return code; None where it had to be killed for it."""
        done, _ = await asyncio.wait([self._waiter], timeout=patience_s)
        if done:
            return self._process.returncode
        self.kill()
        await asyncio.wait([self._waiter])
        return None

    async def end(self) -> None:
        """Let it go; kill it, and whatever it started, if it does not."""
        self._writer.close()
        await self.wait_or_kill(END_S)
        self.kill()  # what it started and left behind


async def spawn(role: Role, settings: Settings) -> Child:
    """Start a child; it answers with one frame when its imports are done."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "workers.child",
                str(theirs.fileno()),
                role,
                str(os.getpid()),
                str(settings.isolated_memory_bytes),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # what handlers print belongs to the worker's log
                env=_environment(role, settings),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)
    return Child(role, process, reader=reader, writer=writer, ours=ours)


def _environment(role: Role, settings: Settings) -> dict[str, str]:
    # A function works on strangers' templates: no password is in its reach.
    known = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    if role == "kind":
        known = {**os.environ, **_as_variables(settings)}
    path = [str(_CHECKOUT), os.environ.get("PYTHONPATH", "")]
    return {
        **known,
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "PYTHONUTF8": "1",
    }


def _as_variables(settings: Settings) -> dict[str, str]:
    """What was set in `settings`, so that the child reads the same whatever they came from."""
    variables: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, tuple):
            text = ",".join(value)
        elif isinstance(value, dict):
            text = json.dumps({key: secret.get_secret_value() for key, secret in value.items()})
        else:
            text = str(value)
        variables[f"RELAIS_{name.upper()}"] = text
    return variables
