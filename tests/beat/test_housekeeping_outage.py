"""Housekeeping that a failover cuts short: no failed job that somebody would have to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from ledger import database as ledger_database
from tasks import housekeeping
from tasks.context import Context
from tasks.outcomes import Outcome, Snooze, Succeeded

if TYPE_CHECKING:
    from runtime.settings import Settings


async def look_at_queues(settings: Settings, *, options: str = "") -> Outcome:
    url = settings.require_database_url() + options
    engine = ledger_database.engine(
        settings.model_copy(update={"database_url": type(settings.database_url)(url)})
    )
    try:
        context = Context(
            job_id=uuid4(),
            attempt=1,
            kind="relais.queue_health",
            queue="bulk",
            tenant="system",
            tries_left=0,
            settings=settings,
            database=engine,
        )
        return await housekeeping.look_at_queues(housekeeping.Nothing(), context)
    finally:
        await engine.dispose()


async def test_a_round_comes_again_after_a_server_that_takes_no_writes(settings: Settings) -> None:
    read_only = "?options=-c%20default_transaction_read_only%3Don"
    outcome = await look_at_queues(settings, options=read_only)
    assert isinstance(outcome, Snooze)
    assert "the ledger was away" in outcome.reason
    assert isinstance(await look_at_queues(settings), Succeeded)
