"""What a canary says when the ledger takes no note of it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from ledger import canary as ages
from ledger import database as ledger_database
from tasks import canary
from tasks.context import Context
from tasks.outcomes import Snooze, Succeeded

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

PAYLOAD = canary.Canary(queue="bulk")


async def come_through(settings: Settings, *, options: str = "") -> object:
    url = settings.require_database_url() + options
    engine = ledger_database.engine(
        settings.model_copy(update={"database_url": type(settings.database_url)(url)})
    )
    try:
        context = Context(
            job_id=uuid4(),
            attempt=1,
            kind=canary.NAME,
            queue="bulk",
            tenant="system",
            tries_left=0,
            settings=settings,
            database=engine,
        )
        return await canary.come_through(PAYLOAD, context)
    finally:
        await engine.dispose()


async def test_a_canary_outlives_a_ledger_that_takes_no_writes(
    settings: Settings, database: AsyncEngine
) -> None:
    """It is no failed job that somebody would have to look at, and is noted afterwards."""
    read_only = "?options=-c%20default_transaction_read_only%3Don"
    assert isinstance(await come_through(settings, options=read_only), Snooze)
    assert isinstance(await come_through(settings, options="?port=1"), Snooze)
    assert isinstance(await come_through(settings), Succeeded)
    async with database.connect() as connection:
        assert "bulk" in await ages.ages_s(connection)
