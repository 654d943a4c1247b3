"""`bench claim`: whether a large past slows the claim down.

Claims of one job and of 256, with 100,000 ready jobs in one lane; first alone, then beside
1,000,000 finished ones. The peer is the empty past. A claim is what a worker does for one: look
round the lanes, plan, take, commit.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from lab.bench.cluster import cluster
from lab.bench.figures import percentile
from ledger import database, ids, lanes, transitions
from ledger.models.jobs import State
from workers.claims import Claims

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from lab.bench import Options
    from lab.bench.progress import Say
    from ledger.shapes import ClaimedJob

READY = 100_000
FINISHED = 1_000_000
SLICE = 50_000
CLAIMS = 300

FILL = text("""
WITH made AS (
    INSERT INTO relais.jobs (id, tenant, lane, kind, queue, state, max_attempts, timeout_s,
                             ready_at, finished_at)
    SELECT gen_random_uuid(), 'default', 'default', 'bench.nothing', 'bulk',
           CAST(:state AS relais.job_state), 3, 30,
           CASE WHEN :state = 'ready' THEN clock_timestamp() END,
           CASE WHEN :state <> 'ready' THEN now() - random() * interval '7 days' END
    FROM generate_series(1, :count)
    RETURNING id
)
INSERT INTO relais.job_bodies (job_id, payload)
SELECT id, '{"to": "anna@example.org"}' FROM made
""")
SIGN_ON = text("""
INSERT INTO relais.workers
    (id, name, queue, colour, version, host, pid, lock_key, lease_until)
VALUES (:id, 'bench', 'bulk', 'blue', '0', 'bench', 1, 1, clock_timestamp() + interval '1 day')
""")


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Claim times in ms, p50 and p99, without and with a past."""
    del options
    with cluster() as here:
        return asyncio.run(_measure(database.engine(here.settings), say))


async def _measure(engine: AsyncEngine, say: Say) -> dict[str, Any]:
    owner = ids.new()
    async with engine.begin() as connection:
        await connection.execute(SIGN_ON, {"id": owner})
    await _fill(engine, State.READY, READY, say)
    empty = await _measure_claims(engine, owner, say)
    await _fill(engine, State.SUCCEEDED, FINISHED, say)
    full = await _measure_claims(engine, owner, say)
    await engine.dispose()
    return {
        "name": "claim",
        "ready": READY,
        "finished": FINISHED,
        "empty_past": empty,
        "full_past": full,
        "ratio_p99": round(full["one_p99_ms"] / empty["one_p99_ms"], 2),
    }


async def _fill(engine: AsyncEngine, state: State, count: int, say: Say) -> None:
    for done in range(0, count, SLICE):
        say(f"writing {state.value} jobs: {done:,} of {count:,}")
        async with engine.begin() as connection:
            values = {"state": state.value, "count": min(SLICE, count - done)}
            await connection.execute(FILL, values)
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE relais.jobs"))


async def _measure_claims(engine: AsyncEngine, owner: UUID, say: Say) -> dict[str, float]:
    """Claim and give back, so that the number of ready jobs stays."""
    times: dict[int, list[float]] = {1: [], 256: []}
    claims = Claims()
    for limit, taken in times.items():
        for number in range(CLAIMS):
            say(f"claims of {limit}: {number + 1} of {CLAIMS}")
            started = time.perf_counter()
            jobs = await _claim(engine, claims, owner=owner, limit=limit)
            taken.append(1000 * (time.perf_counter() - started))
            assert len(jobs) == limit  # noqa: S101 - else no figure
            async with engine.begin() as connection:
                back = [transitions.Finish(job.id, job.attempt, State.READY) for job in jobs]
                await transitions.finish(connection, back)
    return {
        "one_p50_ms": round(percentile(times[1], 0.50), 2),
        "one_p99_ms": round(percentile(times[1], 0.99), 2),
        "batch_p50_ms": round(percentile(times[256], 0.50), 2),
        "batch_p99_ms": round(percentile(times[256], 0.99), 2),
    }


async def _claim(
    engine: AsyncEngine, claims: Claims, *, owner: UUID, limit: int
) -> list[ClaimedJob]:
    async with engine.begin() as connection:
        heads = await lanes.look(
            connection, queue="bulk", kinds=["bench.nothing"], floors=claims.floors
        )
        claims.looked(heads)
        wishes = claims.plan(room=limit, held={}, allowed=lambda _: None)
        jobs = await transitions.claim(
            connection,
            queue="bulk",
            wishes=wishes,
            owner=owner,
            worker="bench",
            colour="blue",
            version="0",
            lease_s=60,
            limit=limit,
        )
        claims.claimed(wishes, jobs)
        return jobs
