"""Disk space: a lack of it is reported before it causes damage."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ops.errors import DiskFullError

if TYPE_CHECKING:
    from pathlib import Path

NEEDED_BYTES = 200 * 1024 * 1024
_MEBIBYTE = 1024 * 1024


def free_bytes(folder: Path) -> int:
    """Bytes that this process may still write below `folder`, or below where it will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def require(folder: Path) -> None:
    """Raise DiskFullError where less than 200 MB are free."""
    free = free_bytes(folder)
    if free < NEEDED_BYTES:
        sentence = (
            f"Only {free // _MEBIBYTE} MB are free on the disk of {folder}; "
            f"the stack needs {NEEDED_BYTES // _MEBIBYTE} MB."
        )
        raise DiskFullError(
            sentence, remedy="Free some space, or choose another disk with --data-dir."
        )
