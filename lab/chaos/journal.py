"""A history in a file: one JSON object a line, on the disk before anybody is answered."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Journal:
    """Append-only; `note` returns when the line is durable."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, what: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON
        """Append one entry, stamped with the time of day (seconds since 1970)."""
        self.note_all(what, [fields])

    def note_all(self, what: str, entries: Iterable[dict[str, Any]]) -> None:
        """Append many at the price of one."""
        at = time.time()
        lines = (to_json({"at": at, "what": what, **fields}) + b"\n" for fields in entries)
        os.write(self._file, b"".join(lines))
        os.fdatasync(self._file)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole entry of `path`; none where there is no such file."""
    if not path.exists():
        return []
    return [from_json(line) for line in path.read_bytes().split(b"\n") if line]
