"""Job factory and shorthands for ledger tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text

from ledger import ids, transitions
from ledger.models.jobs import State
from ledger.shapes import ClaimedJob, Finish, NewJob

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

OWNER = ids.new()


def new_job(**fields: Any) -> NewJob:
    """A job that does nothing, with `fields` of your own."""
    values: dict[str, Any] = {
        "id": ids.new(),
        "tenant": "default",
        "kind": "test.nothing",
        "queue": "bulk",
        "payload": {},
        "max_attempts": 3,
        "timeout_s": 10.0,
    }
    return NewJob(**(values | fields))


async def accept(engine: AsyncEngine, *jobs: NewJob) -> list[transitions.Accepted]:
    """Accept and commit."""
    async with engine.begin() as connection:
        return await transitions.accept(connection, jobs)


async def claim(
    engine: AsyncEngine, *, queue: str = "bulk", owner: UUID = OWNER, limit: int = 10
) -> list[ClaimedJob]:
    """Claim and commit."""
    async with engine.begin() as connection:
        return await transitions.claim(
            connection,
            queue=queue,
            owner=owner,
            worker="w@test",
            colour="blue",
            version="0",
            lease_s=60,
            limit=limit,
        )


async def finish(engine: AsyncEngine, job: ClaimedJob, state: State, **fields: Any) -> bool:
    """Finish and commit; whether it was written."""
    async with engine.begin() as connection:
        item = Finish(job.id, job.attempt, state, **fields)
        return (await transitions.finish(connection, [item])).written[0]


async def row(engine: AsyncEngine, job_id: UUID) -> Any:
    """The job as it stands."""
    async with engine.connect() as connection:
        result = await connection.execute(
            text("SELECT * FROM relais.jobs WHERE id = :id"), {"id": job_id}
        )
        return result.one()


async def path(engine: AsyncEngine, job_id: UUID) -> list[str]:
    """The states that the job went through, from its events."""
    async with engine.connect() as connection:
        result = await connection.execute(
            text("SELECT to_state FROM relais.job_events WHERE job_id = :id ORDER BY seq"),
            {"id": job_id},
        )
        return list(result.scalars())
