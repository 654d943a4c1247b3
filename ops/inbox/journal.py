"""An append-only file of JSON lines; many writers share one fsync.

A line counts from the moment `append` returns: it is on disk then. A half-written last line
(the machine or the process died) was never acknowledged to anybody and is cut off on opening.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ops.errors import OpsError
from runtime import logs

log = logs.logger("inbox")


class JournalFullError(OpsError):
    """The disk has no room for the line; nothing was written, and the journal stays usable."""


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line lies in the file: first byte and length, newline included."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    lines: Sequence[bytes]
    durable: Callable[[Sequence[Line]], None]
    done: asyncio.Future[None]


class Journal:
    """One file, one writer; every line is one JSON object."""

    def __init__(self, path: Path) -> None:
        """`path` is made where it is missing; a second process is refused with OpsError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            message = f"{path} is in use by another inbox."
            raise OpsError(
                message, remedy="Stop that one, or choose another --data-dir."
            ) from error
        self._size = self._cut_torn_tail()
        self._waiting: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    def lines(self) -> Iterator[tuple[Line, bytes]]:
        """Every line of the file, oldest first."""
        offset = 0
        with self._path.open("rb") as file:
            for data in file:
                yield Line(offset, len(data)), data
                offset += len(data)

    def read(self, line: Line) -> bytes:
        """The bytes of one line."""
        return os.pread(self._file, line.size, line.offset)

    async def append(
        self, lines: Sequence[bytes], *, durable: Callable[[Sequence[Line]], None]
    ) -> None:
        """Write `lines` (each with its newline); return when they are on disk.

        `durable` is called with their places, in the order of the file, before any waiter
        goes on. Raises JournalFullError where the disk is full.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(lines, durable, done))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        """Write whatever is waiting, fsync once, wake everybody; until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                data = b"".join(line for waiting in batch for line in waiting.lines)
                try:
                    await loop.run_in_executor(self._thread, self._write, data)
                except JournalFullError as error:
                    for waiting in batch:
                        if not waiting.done.done():
                            waiting.done.set_exception(error)
                    continue
                for waiting in batch:
                    waiting.durable([self._place(line) for line in waiting.lines])
                    if not waiting.done.done():
                        waiting.done.set_result(None)
        finally:
            self._flusher = None

    def _place(self, data: bytes) -> Line:
        line = Line(self._size, len(data))
        self._size += len(data)
        return line

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            # The lines that did fit must not appear after a restart: their senders get a 452.
            os.ftruncate(self._file, self._size)
            message = f"{self._path} cannot grow: {error.strerror}."
            raise JournalFullError(message, remedy="Free some disk space.") from error
        try:
            os.fdatasync(self._file)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: only a fresh start
            # that reads the file again knows what is really there.
            log.error("inbox.fsync_failed", exc_info=error)
            os._exit(1)

    def _cut_torn_tail(self) -> int:
        size = os.fstat(self._file).st_size
        end = size
        block = 65_536
        while end > 0:
            start = max(0, end - block)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            log.warning("inbox.journal_repaired", cut_bytes=size - end)
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return end

    async def close(self) -> None:
        """Finish what is waiting and give the file back."""
        if self._flusher is not None:
            await self._flusher
        self._thread.shutdown()
        os.close(self._file)
