"""The stack's own passwords and keys, made once, readable by their owner only."""

from __future__ import annotations

import base64
import fcntl
import secrets
from typing import TYPE_CHECKING

from ops.stack import documents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MADE_HERE: dict[str, Callable[[], str]] = {
    "postgres_password": lambda: secrets.token_urlsafe(24),
    "redis_password": lambda: secrets.token_urlsafe(24),
    "flower_password": lambda: secrets.token_urlsafe(18),
    # Standard Webhooks: a prefix and 24 to 64 bytes in base64.
    "callback_secret": lambda: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
}


def read(path: Path) -> dict[str, str]:
    """The secrets there are; empty before the first start."""
    return documents.read(path) or {}


def ensure(path: Path) -> dict[str, str]:
    """The secrets, with those made that are missing; two callers at once agree."""
    with path.with_name(".secrets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read(path)
        missing = {name: make() for name, make in _MADE_HERE.items() if name not in found}
        if missing:
            found |= missing
            documents.write(path, found)
        return found


def keep(path: Path, *, name: str, value: str) -> None:
    """Add or replace one secret."""
    with path.with_name(".secrets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        documents.write(path, {**read(path), name: value})
