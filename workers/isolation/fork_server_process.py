"""One process of a fork server, as the worker sees it; `inside.forking` runs inside."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from workers.isolation import memory, protocol
from workers.isolation.environment import environment
from workers.isolation.errors import raise_told
from workers.isolation.handle import Child
from workers.isolation.inside import kernel

if TYPE_CHECKING:
    from asyncio import Future, StreamReader, StreamWriter
    from asyncio.subprocess import Process

    from runtime.settings import Settings
    from workers.isolation.environment import Role

    Birth = tuple[int, Future[int | None]]  # the pid, and later how it ended

BUFFER_BYTES = 1 << 20


class Over(Exception):  # noqa: N818 - an event, told by another error
    """The process is gone, or does not listen."""


class ServerProcess:
    """From its start to its end; `is_over` from the moment its socket is closed."""

    def __init__(
        self,
        role: Role,
        process: Process,
        *,
        reader: StreamReader,
        writer: StreamWriter,
        ours: socket.socket,
    ) -> None:
        self.is_over = False
        self._role = role
        self._process = process
        self._socket = ours
        self._writer = writer
        self._ready: Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._births: deque[Future[Birth]] = deque()
        self._exits: dict[int, Future[int | None]] = {}
        self._listening = asyncio.create_task(self._listen(reader))

    async def ready(self) -> None:
        """Return when it can fork; raises Over, or what importing the kinds raised."""
        answer = await asyncio.shield(self._ready)
        if "raised" in answer:
            raise_told(answer["raised"])

    async def fork(self) -> Child:
        """A new child; raises Over, or OSError where the kernel refuses a process."""
        birth: Future[Birth] = asyncio.get_running_loop().create_future()
        ours, theirs = _pair()
        try:
            with theirs:
                self._request(theirs, birth)
            pid, exited = await birth
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)
        except BaseException:
            ours.close()  # if a child was forked nevertheless, it sees this and exits
            raise
        return Child(
            self._role,
            pid,
            exited=exited,
            kill_server=self.kill,
            reader=reader,
            writer=writer,
            ours=ours,
        )

    def kill(self) -> None:
        """SIGKILL; its children die with it."""
        if self._process.returncode is None:
            kernel.kill_group(self._process.pid)

    async def close(self) -> None:
        """End it and wait until it is reaped."""
        self.kill()
        await asyncio.wait([self._listening])

    def _request(self, theirs: socket.socket, birth: Future[Birth]) -> None:
        if self.is_over:
            raise Over
        try:
            # Past the transport, which cannot pass sockets on; nothing else is ever written.
            socket.send_fds(self._socket, [b"+"], [theirs.fileno()])
        except OSError as error:
            self.is_over = True
            self.kill()  # dead already, or so far behind that its socket is full
            raise Over from error
        self._births.append(birth)

    async def _listen(self, reader: StreamReader) -> None:
        try:
            while True:
                self._hear(await protocol.read(reader))
        except (EOFError, OSError):
            pass
        finally:
            self._bury()
        await self._process.wait()

    def _hear(self, told: dict[str, Any]) -> None:
        match told:
            case {"exited": pid, "returncode": returncode}:
                self._exits.pop(pid).set_result(returncode)
            case {"forked": pid}:
                self._exits[pid] = asyncio.get_running_loop().create_future()
                birth = self._births.popleft()
                if not birth.done():
                    birth.set_result((pid, self._exits[pid]))
            case {"failed": number}:
                birth = self._births.popleft()
                if not birth.done():
                    birth.set_exception(OSError(number, os.strerror(number)))
            case _:
                self._ready.set_result(told)

    def _bury(self) -> None:
        self.is_over = True
        self.kill()
        awaited: list[Future[Any]] = [self._ready, *self._births]
        for future in awaited:
            if not future.done():
                future.set_exception(Over())
                future.exception()  # told or not: nobody may be waiting any more
        for pid, exited in self._exits.items():
            kernel.kill_group(pid)  # it is already dying; what it started is not
            exited.set_result(None)
        self._exits.clear()
        self._writer.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """Our end and the child's, which blocks: Celery has moments with a default time-out."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(None)
    return ours, theirs


async def start(role: Role, settings: Settings) -> ServerProcess:
    """A process that has just been started, and is not `ready` yet."""
    ours, theirs = _pair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "workers.isolation.inside.forking",
                str(theirs.fileno()),
                role,
                str(os.getpid()),
                str(memory.limit_bytes(role, settings)),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # what handlers print belongs to the worker's log
                env=environment(role, settings),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return ServerProcess(role, process, reader=reader, writer=writer, ours=ours)
