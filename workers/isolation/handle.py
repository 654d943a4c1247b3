"""One child process of a worker, as the worker sees it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from workers.isolation import protocol
from workers.isolation.inside import kernel

if TYPE_CHECKING:
    from asyncio import Future, StreamReader, StreamWriter, TimerHandle
    from collections.abc import Awaitable, Callable

    from workers.isolation.environment import Role

    Reply = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

END_S = 2.0  # between closing a child's socket and killing it, and then its fork server


class EndOfChild(Exception):  # noqa: N818 - an event, told by another error
    """The child's socket is closed, or what it sends makes no sense."""


class Child:
    """One process and the socket to it.

    `exited` is told by its fork server: the return code, or None when the server itself died.
    """

    def __init__(
        self,
        role: Role,
        pid: int,
        *,
        exited: Future[int | None],
        kill_server: Callable[[], None],
        reader: StreamReader,
        writer: StreamWriter,
        ours: socket.socket,
    ) -> None:
        self.role = role
        self.reader = reader
        self.rest: TimerHandle = asyncio.get_running_loop().call_later(0, lambda: None)
        self._pid = pid
        self._exited = exited
        self._kill_server = kill_server
        self._socket = ours
        self._writer = writer

    @property
    def has_lost_its_server(self) -> bool:
        """Whether it died with its fork server."""
        return self._exited.done() and self._exited.result() is None

    def on_exit(self, told: Callable[[Child, int | None], None]) -> None:
        """Have `told` called with this child and its return code (None: its server died)."""
        self._exited.add_done_callback(lambda exited: told(self, exited.result()))

    def is_alive(self) -> bool:
        """Whether it is waiting for a request: its socket is open and there is nothing to read."""
        if self._exited.done():
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return not self.reader.at_eof()
        except OSError:
            return False
        return False

    async def ask(self, frame: bytes, *, reply: Reply) -> dict[str, Any]:
        """The response to one request; raises EndOfChild if none will come.

        `reply` is given what the child asks meanwhile, and what it raises is raised.
        """
        answer = await self._exchange(frame)
        while "ask" in answer:
            answer = await self._exchange(protocol.pack(await reply(answer)))
        return answer

    async def _exchange(self, frame: bytes) -> dict[str, Any]:
        try:
            self._writer.write(frame)
            await self._writer.drain()
            return await protocol.read(self.reader)
        except (EOFError, OSError, ValueError, RecursionError, protocol.FrameTooLarge) as error:
            raise EndOfChild from error

    def kill(self) -> None:
        """SIGKILL for it and whatever it started."""
        if not self._exited.done():  # otherwise the pid may be reused by now
            kernel.kill_group(self._pid)

    async def wait_or_kill(self, patience_s: float) -> int | None:
        """Its return code; None where it had to be killed for it, or its server is dead."""
        if await self._is_gone(patience_s):
            return self._exited.result()
        self.kill()
        if not await self._is_gone(END_S):
            self._kill_server()  # it does not even reap
            await asyncio.wait([self._exited])
        return None

    async def end(self) -> None:
        """Let it exit; kill it, and whatever it started, if it does not."""
        self._writer.close()
        await self.wait_or_kill(END_S)

    async def _is_gone(self, patience_s: float) -> bool:
        done, _ = await asyncio.wait([self._exited], timeout=patience_s)
        return bool(done)
