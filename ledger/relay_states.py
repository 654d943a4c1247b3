"""What the relays told us: a login was refused (535, stopped) or they are too busy (421).

A relay without a row is fine. Times are the database's; waits are seconds from its now.

While a relay must not be used, the lane of its emails is paused in every queue: they wait in
`ready` instead of being claimed over and over only to be told to wait. The relay's row is the
truth; the pause follows from it, is set again by any email that finds it missing (`park`), and ends
with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ledger import dependence, lanes, statements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class RelayNow:
    """Whether a relay may be used now."""

    is_stopped: bool = False
    stopped_login: str | None = None  # fingerprint of the login that was refused
    backoff_s: float = 0.0
    backoff_step: int = 0  # how many waits in a row; 0: it has recovered
    reason: str | None = None
    is_parked: bool = False  # the lane of its mails is paused

    @property
    def is_blocked(self) -> bool:
        """Whether nothing may be sent through it now."""
        return self.is_stopped or self.backoff_s > 0


@dataclass(frozen=True, slots=True)
class RelayRecord:
    """A relay's row as operators see it."""

    name: str
    stopped_at: datetime | None
    backoff_until: datetime | None
    backoff_step: int
    reason: str | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Stopped:
    """A relay that refused a login, given as its fingerprint."""

    tenant: str
    name: str
    login: str | None


IN_ORDER = RelayNow()


async def look(
    connection: AsyncConnection, relays: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], RelayNow]:
    """What is known of these (tenant, relay name); relays without trouble are left out."""
    pairs = sorted(set(relays))
    result = await connection.execute(
        SQL["look"],
        {
            "tenants": [tenant for tenant, _ in pairs],
            "names": [name for _, name in pairs],
            "lanes": [_lane(tenant, name) for tenant, name in pairs],
        },
    )
    return {
        (row.tenant, row.name): RelayNow(
            is_stopped=row.is_stopped,
            stopped_login=row.stopped_login,
            backoff_s=row.backoff_s,
            backoff_step=row.backoff_step,
            reason=row.reason,
            is_parked=row.is_parked,
        )
        for row in result
    }


async def list_all(connection: AsyncConnection, *, tenant: str) -> list[RelayRecord]:
    """Every relay of `tenant` that ever had trouble."""
    result = await connection.execute(SQL["list"], {"tenant": tenant})
    return [
        RelayRecord(
            name=row.name,
            stopped_at=row.stopped_at,
            backoff_until=row.backoff_until,
            backoff_step=row.backoff_step,
            reason=row.reason,
            changed_at=row.changed_at,
        )
        for row in result
    ]


async def stopped(connection: AsyncConnection) -> list[Stopped]:
    """Every stopped relay of every tenant."""
    return [Stopped(*row) for row in await connection.execute(SQL["stopped"])]


async def stop(
    connection: AsyncConnection, *, tenant: str, name: str, reason: str, login: str | None = None
) -> None:
    """Send nothing through this relay until it is resumed or its login changes."""
    values = {"tenant": tenant, "name": name, "reason": reason, "login": login}
    await connection.execute(SQL["stop"], values)
    await park(connection, tenant=tenant, name=name)


async def park(connection: AsyncConnection, *, tenant: str, name: str) -> None:
    """Pause the lane of a relay's mails for as long as the relay must not be used."""
    await connection.execute(SQL["park"], _named(tenant, name))


async def resume(connection: AsyncConnection, *, tenant: str, name: str) -> bool:
    """Use the relay again at once; False if it had no trouble."""
    result = await connection.execute(SQL["resume"], _named(tenant, name))
    return result.first() is not None


async def resume_with_new_login(
    connection: AsyncConnection, *, tenant: str, name: str, login: str | None
) -> bool:
    """Clear a stop that was caused by a login other than `login` (a fingerprint)."""
    values = {**_named(tenant, name), "login": login}
    result = await connection.execute(SQL["resume_with_new_login"], values)
    return result.first() is not None


async def back_off(
    connection: AsyncConnection,
    *,
    tenant: str,
    name: str,
    base_s: float,
    cap_s: float,
    reason: str,
) -> float:
    """Wait, twice as long as last time; seconds from now until the relay is tried again."""
    arguments = {"tenant": tenant, "name": name, "base_s": base_s, "cap_s": cap_s}
    await connection.execute(SQL["back_off"], {**arguments, "reason": reason})
    await park(connection, tenant=tenant, name=name)
    return (await look(connection, [(tenant, name)]))[tenant, name].backoff_s


async def recover(connection: AsyncConnection, *, tenant: str, name: str) -> None:
    """The relay took a message: its next trouble starts from the shortest wait."""
    await connection.execute(SQL["recover"], _named(tenant, name))


def _named(tenant: str, name: str) -> dict[str, str]:
    return {"tenant": tenant, "name": name, "lane": _lane(tenant, name)}


def _lane(tenant: str, name: str) -> str:
    """The lane of a relay's mails, as `tasks.kinds.lane_of` gives it to them."""
    return lanes.name(tenant, dependence.on_relay(name))
