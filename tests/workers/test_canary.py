"""What a canary says when the ledger takes no note of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import canary as ages
from tasks import canary
from tasks.outcomes import Outcome, Snooze, Succeeded
from tests import internal_kinds
from tests.internal_kinds import READ_ONLY, UNREACHABLE

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

PAYLOAD = canary.Canary(queue="bulk")


async def come_through(settings: Settings, *, options: str = "") -> Outcome:
    return await internal_kinds.run(
        canary.come_through, PAYLOAD, settings, kind=canary.NAME, options=options
    )


async def test_a_canary_outlives_a_ledger_that_takes_no_writes(
    settings: Settings, database: AsyncEngine
) -> None:
    """It is no failed job that somebody would have to look at, and is noted afterwards."""
    assert isinstance(await come_through(settings, options=READ_ONLY), Snooze)
    assert isinstance(await come_through(settings, options=UNREACHABLE), Snooze)
    assert isinstance(await come_through(settings), Succeeded)
    async with database.connect() as connection:
        assert "bulk" in await ages.ages_s(connection)
