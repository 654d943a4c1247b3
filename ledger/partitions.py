"""The history's partitions: one per day (UTC), created ahead, dropped whole when they expire.

`job_events_before` holds events from before the history was partitioned; `job_events_default` takes
events for which there is no day, so that no change of a job fails because of a missing day.
Creating and dropping a day locks the whole history for a moment, and everything that changes a job
waits behind that: do it in a transaction that gives up soon (`database.briefly`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger.shapes import Slice

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

DAYS_AHEAD = 7
DAY = timedelta(days=1)
_NAME = re.compile(r"job_events_(\d{8})")

NOW = text("SELECT statement_timestamp()")
NAMES = text("""
SELECT child.relname FROM pg_inherits
JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'relais.job_events'::regclass ORDER BY child.relname
""")
# Expired events outside the daily partitions, a slice at a time; the old table has an index on
# `at`, and the default partition is usually empty.
PRUNE_UNDATED = tuple(
    text(f"""
    DELETE FROM relais.{name} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM relais.{name}
        WHERE at < statement_timestamp() - :events_s * interval '1 second' LIMIT :limit
    ))
    """)
    for name in ("job_events_before", "job_events_default")
)


async def make_ahead(connection: AsyncConnection, *, days: int = DAYS_AHEAD) -> list[str]:
    """Create the missing partitions of today and the next `days`; returns their names.

    A day that has rows in the default partition is left there.
    """
    now: datetime = (await connection.execute(NOW)).scalar_one()
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    known = set(await _names(connection))
    wanted = {f"job_events_{today + n * DAY:%Y%m%d}": today + n * DAY for n in range(days + 1)}
    missing = {name: day for name, day in wanted.items() if name not in known}
    made = []
    for name, day in missing.items():
        if await _is_taken(connection, day):
            continue
        await connection.execute(
            text(
                f"CREATE TABLE relais.{name} PARTITION OF relais.job_events"
                f" FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + DAY).isoformat()}')"
            )
        )
        made.append(name)
    return made


async def drop_old(connection: AsyncConnection, *, events_s: float) -> list[str]:
    """Drop the days that ended more than `events_s` ago; their names."""
    now: datetime = (await connection.execute(NOW)).scalar_one()
    old = [
        name
        for name in await _names(connection)
        if (found := _NAME.fullmatch(name))
        and datetime.strptime(found.group(1), "%Y%m%d").replace(tzinfo=UTC) + DAY
        < now - timedelta(seconds=events_s)
    ]
    for name in old:
        await connection.execute(text(f"DROP TABLE relais.{name}"))
    return old


async def prune_undated(connection: AsyncConnection, *, events_s: float, limit: int) -> Slice:
    """Remove up to `limit` old events outside the daily partitions."""
    removed = 0
    for statement in PRUNE_UNDATED:
        values = {"events_s": events_s, "limit": limit - removed}
        removed += (await connection.execute(statement, values)).rowcount
    return Slice(removed, removed)


async def _names(connection: AsyncConnection) -> list[str]:
    return list((await connection.execute(NAMES)).scalars())


async def _is_taken(connection: AsyncConnection, day: datetime) -> bool:
    """Whether the default partition or the old table has rows of `day`, which must then stay."""
    bound = text("""
        SELECT EXISTS (SELECT FROM relais.job_events_default WHERE at >= :day AND at < :until)
            OR EXISTS (SELECT FROM pg_class AS c
                       WHERE c.oid = to_regclass('relais.job_events_before') AND :day < (
                           SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid),
                                                'TO \\(''([^'']+)''\\)'))[1]::timestamptz))
    """)
    values = {"day": day, "until": day + DAY}
    return bool((await connection.execute(bound, values)).scalar_one())
