"""The account under which the servers run.

Postgres refuses to run as root, and a cache server has no business being root
either. Started as root, the stack hands both to the unprivileged account 65534
and gives it only the folders that it must write.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

UNPRIVILEGED_ID = 65534


def for_servers() -> int | None:
    """Uid (and gid) that servers run under; None: the account of this process."""
    return UNPRIVILEGED_ID if os.geteuid() == 0 else None


def hand_over(path: Path) -> None:
    """Give `path` itself, not what is in it, to the servers' account."""
    account = for_servers()
    if account is not None:
        os.chown(path, account, account)


def make_folder(path: Path) -> Path:
    """Make a private folder that belongs to the servers' account."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    hand_over(path)
    return path


def closed_ancestor(path: Path) -> Path | None:
    """The first folder on the way to `path` that the servers' account may not enter."""
    account = for_servers()
    if account is None:
        return None
    for folder in reversed([path.absolute(), *path.absolute().parents]):
        try:
            status = folder.stat()
        except FileNotFoundError:
            return None
        if not _enterable(status, account):
            return folder
    return None


def _enterable(status: os.stat_result, account: int) -> bool:
    if status.st_uid == account:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
