"""Kind `relais.canary`: proves that jobs of its queue are claimed, run and finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from ledger import canary, outage
from tasks.kinds import kind
from tasks.outcomes import Outcome, Snooze, Succeeded

if TYPE_CHECKING:
    from tasks.context import Context


class Canary(BaseModel, extra="forbid"):
    """Which queue this canary goes through."""

    queue: str


NAME = "relais.canary"
AGAIN_S = 1.0


@kind(
    NAME,
    payload=Canary,
    queue="critical",
    max_attempts=1,
    timeout_s=30.0,
    internal=True,
)
async def come_through(_: Canary, context: Context) -> Outcome:
    """Record in the ledger that the queue is alive."""
    # The queue that it actually ran in counts, not the one in the payload.
    try:
        async with context.database.begin() as connection:
            await canary.mark(connection, queue=context.queue)
    except (SQLAlchemyError, OSError) as error:
        if not outage.is_passing(error):
            raise
        # Not the queue's fault: it is recorded as alive once the ledger is back.
        return Snooze(AGAIN_S, "the ledger could not record it")
    return Succeeded()
