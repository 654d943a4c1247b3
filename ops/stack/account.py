"""The account under which the servers run.

Postgres refuses to run as root, and a cache server has no business being root
either. Started as root, the stack hands both to the unprivileged account 65534
and gives it only the folders that it must write.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

UNPRIVILEGED_ID = 65534


def for_servers() -> int | None:
    """Uid (and gid) that servers run under; None: the account of this process."""
    return UNPRIVILEGED_ID if os.geteuid() == 0 else None


def write_for_servers(path: Path, text: str) -> None:
    """Replace `path` by a file that servers may read and not write.

    Its folder must not belong to them either. Nothing is written through a link: what has this
    name is replaced, whatever it is.
    """
    account = for_servers()
    _replace(path, text, mode=0o600 if account is None else 0o640, group=account)


def write_private(path: Path, text: str) -> None:
    """Replace `path` by a file that this process's account alone may read."""
    _replace(path, text, mode=0o600, group=None)


def _replace(path: Path, text: str, *, mode: int, group: int | None) -> None:
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if group is not None:
                os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def make_folder(path: Path) -> Path:
    """Make a private folder that belongs to the servers' account."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    account = for_servers()
    if account is not None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(descriptor, account, account)
        finally:
            os.close(descriptor)
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
