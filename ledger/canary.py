"""Canaries: small jobs that prove a queue is being worked on, by coming through it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ledger import statements

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))


async def mark(connection: AsyncConnection, *, queue: str) -> None:
    """Note that a canary came through `queue` just now."""
    await connection.execute(SQL["mark"], {"queue": queue})


async def ages_s(connection: AsyncConnection) -> dict[str, float]:
    """Seconds since the newest canary came through, by queue; a queue without one is absent."""
    return {row.name: row.age_s for row in await connection.execute(SQL["ages"])}
