"""Job factory and shorthands for ledger tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text

from ledger import ids, lanes, transitions
from ledger.models.jobs import State
from ledger.shapes import ClaimedJob, Finish, NewJob, Wish

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

OWNER = ids.new()
SIGN_ON = text("""
INSERT INTO relais.workers (id, name, queue, colour, version, host, pid, lock_key, lease_until)
VALUES (:id, 'w@test', :queue, 'blue', '0', 'test', 1, 1, clock_timestamp() + interval '60 s')
ON CONFLICT (id) DO NOTHING
""")


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


async def sign_on(engine: AsyncEngine, owner: UUID, *, queue: str = "bulk") -> None:
    """Let the ledger know of a worker, as its presence would."""
    async with engine.begin() as connection:
        await connection.execute(SIGN_ON, {"id": owner, "queue": queue})


async def wishes(connection: AsyncConnection, *, queue: str, limit: int) -> list[Wish]:
    """A wish for every lane of `queue` in which something is ready, the most urgent first."""
    heads = await lanes.look(connection, queue=queue, kinds=None)
    heads.sort(key=lambda head: (-head.priority, head.ready_at))
    return [Wish(head.lane, head.kind, head.priority, quota=limit) for head in heads]


async def claim(
    engine: AsyncEngine, *, queue: str = "bulk", owner: UUID = OWNER, limit: int = 10
) -> list[ClaimedJob]:
    """Claim and commit, as a worker that has signed on."""
    await sign_on(engine, owner, queue=queue)
    async with engine.begin() as connection:
        return await transitions.claim(
            connection,
            queue=queue,
            wishes=await wishes(connection, queue=queue, limit=limit),
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
            text(
                "SELECT j.*, coalesce(b.payload, '{}') AS payload, b.result FROM relais.jobs AS j"
                " LEFT JOIN relais.job_bodies AS b ON b.job_id = j.id WHERE j.id = :id"
            ),
            {"id": job_id},
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
