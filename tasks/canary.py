"""Kind `relais.canary`: proves that its queue is claimed from, run and finished."""

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
    """Note in the ledger that the queue is alive."""
    # The queue it really ran in counts, not the one that the payload hoped for.
    try:
        async with context.database.begin() as connection:
            await canary.mark(connection, queue=context.queue)
    except (SQLAlchemyError, OSError) as error:
        if not outage.is_passing(error):
            raise
        # Not the queue's fault: it is noted as alive once there is a ledger to note it in.
        return Snooze(AGAIN_S, "the ledger could not record it")
    return Succeeded()
