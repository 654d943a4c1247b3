"""The services' log files: bounded, readable, followable."""

from __future__ import annotations

import os
import shutil
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE_MAX_BYTES = 16 * 1024 * 1024
_BLOCK = 64 * 1024


def to_append(path: Path) -> IO[bytes]:
    """`path`, open for appending; nobody else may read it, and it is never a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # an earlier version's was everybody's to read
    return os.fdopen(descriptor, "ab")


def trim(folder: Path) -> None:
    """Move logs that have grown too large to `<name>.log.1`, one generation back.

    The file itself is emptied, not replaced: whoever writes to it has it open
    for appending and goes on at its new end. What is written between the copy
    and the emptying is lost, some lines in sixteen megabytes.
    """
    for path in folder.glob("*.log"):
        if path.stat().st_size > SIZE_MAX_BYTES:
            before = path.with_name(f"{path.name}.1")
            before.unlink(missing_ok=True)
            with to_append(before) as copy, path.open("rb") as file:
                shutil.copyfileobj(file, copy)
            os.truncate(path, 0)


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines; fewer where there are fewer."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            text = b""
            while position > 0 and text.count(b"\n") <= count:
                step = min(_BLOCK, position)
                position -= step
                file.seek(position)
                text = file.read(step) + text
    except FileNotFoundError:
        return []
    return text.decode(errors="replace").splitlines()[-count:] if count else []


class Follower:
    """Reads what is added to a log since the last look, across its being emptied."""

    def __init__(self, path: Path) -> None:
        """Begins at the present end."""
        self.path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        """Whole lines since the last call."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                added = file.read()
                self._position = file.tell()
        except FileNotFoundError:
            return
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
