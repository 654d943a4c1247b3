"""Addresses that must not get mail; compared in canonical form, within one tenant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from ledger import statements
from ledger.addresses import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))
PAGE = 100


@dataclass(frozen=True, slots=True)
class Suppressed:
    """One address, and why it gets no mail."""

    address: str
    reason: str
    created_at: datetime


async def suppress(
    connection: AsyncConnection, *, tenant: str, addresses: Sequence[str], reason: str
) -> int:
    """Send no more mail to `addresses`; returns how many of them are new."""
    return await suppress_many(connection, [(tenant, address, reason) for address in addresses])


async def suppress_many(
    connection: AsyncConnection, entries: Sequence[tuple[str, str, str]]
) -> int:
    """The same for (tenant, address, reason) of many tenants at once."""
    rows = [{"tenant": t, "address": canonical(a), "reason": reason} for t, a, reason in entries]
    result = await connection.execute(SQL["suppress"], {"rows": to_json(rows).decode()})
    return len(result.all())


async def lift(connection: AsyncConnection, *, tenant: str, address: str) -> bool:
    """Allow mail to `address` again; False if it was not suppressed."""
    result = await connection.execute(
        SQL["lift"], {"tenant": tenant, "address": canonical(address)}
    )
    return result.first() is not None


async def find(connection: AsyncConnection, *, tenant: str, address: str) -> Suppressed | None:
    """The suppression of `address`, if there is one."""
    result = await connection.execute(
        SQL["find"], {"tenant": tenant, "address": canonical(address)}
    )
    row = result.first()
    return None if row is None else Suppressed(row.address, row.reason, row.created_at)


async def list_all(
    connection: AsyncConnection, *, tenant: str, after: str = "", limit: int = PAGE
) -> list[Suppressed]:
    """One page in alphabetical order, starting after `after`."""
    result = await connection.execute(
        SQL["list"], {"tenant": tenant, "after": after, "limit": limit}
    )
    return [Suppressed(row.address, row.reason, row.created_at) for row in result]
