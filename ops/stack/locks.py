"""Locks that the kernel takes back when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FileLock:
    """An exclusive lock on a file, held at most once per object."""

    def __init__(self, path: Path) -> None:
        """The file is made when the lock is first wanted, and never removed."""
        self._path = path
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._file is not None

    def take(self) -> bool:
        """Take it if nobody has it; whether it is held now."""
        if self._file is None:
            file = self._path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._file = file
        return True

    def release(self) -> None:
        """Give it back; nothing happens where it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def taken(path: Path) -> bool:
    """Whether somebody holds the lock on `path`."""
    probe = FileLock(path)
    free = probe.take()
    probe.release()
    return not free


@contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, waiting for whoever has it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
