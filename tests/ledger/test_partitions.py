"""The history by day: made ahead, dropped whole, and never in the way of a change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import partitions
from ledger.shapes import Slice
from tests.ledger.jobs import accept, new_job

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


def name(days: int) -> str:
    return f"job_events_{datetime.now(UTC) + timedelta(days=days):%Y%m%d}"


async def test_days_are_made_ahead_once(database: AsyncEngine) -> None:
    async with database.begin() as connection:
        await partitions.make_ahead(connection)
        made = await partitions.make_ahead(connection, days=20)
        assert made == [name(days) for days in range(20 - len(made) + 1, 21)]
        assert await partitions.make_ahead(connection, days=20) == []


async def test_old_days_are_dropped_whole_and_others_stay(database: AsyncEngine) -> None:
    async with database.begin() as connection:
        await partitions.make_ahead(connection)
        kept = await partitions._names(connection)
        assert await partitions.drop_old(connection, events_s=86_400) == []
        gone = await partitions.drop_old(connection, events_s=-3 * 86_400)
        assert gone
        assert name(0) in gone
        assert set(await partitions._names(connection)) == set(kept) - set(gone)


async def test_a_change_on_a_day_that_nobody_made_is_kept_all_the_same(
    database: AsyncEngine,
) -> None:
    async with database.begin() as connection:
        await partitions.drop_old(connection, events_s=-30 * 86_400)
    await accept(database, new_job())
    async with database.begin() as connection:
        count = text("SELECT count(*) FROM relais.job_events_default")
        assert (await connection.execute(count)).scalar_one() == 1
        made = await partitions.make_ahead(connection)
        assert name(0) not in made  # its events stay where they are
        assert name(1) in made
        assert await partitions.prune_undated(connection, events_s=-60, limit=10) == Slice(1, 1)
