"""Kind `relais.canary`: proves that its queue is claimed from, run and finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from ledger import canary
from tasks.kinds import kind
from tasks.outcomes import Outcome, Succeeded

if TYPE_CHECKING:
    from tasks.context import Context


class Canary(BaseModel, extra="forbid"):
    """Which queue this canary goes through."""

    queue: str


NAME = "relais.canary"


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
    async with context.database.begin() as connection:
        await canary.mark(connection, queue=context.queue)
    return Succeeded()
