"""`bench claim`: whether a large past slows the claim down.

Claims of one job and of 256, with 100,000 ready jobs; first alone, then beside 1,000,000 finished
ones. The peer is the empty past.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from ledger import database, ids, transitions
from ledger.models.jobs import State
from ops.bench.stand import stand

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

READY = 100_000
FINISHED = 1_000_000
SLICE = 50_000
CLAIMS = 300

FILL = text("""
INSERT INTO relais.jobs (id, kind, queue, state, payload, max_attempts, timeout_s, finished_at)
SELECT gen_random_uuid(), 'bench.nothing', 'bulk', CAST(:state AS relais.job_state),
       '{"to": "anna@example.org"}', 3, 30,
       CASE WHEN :state = 'ready' THEN NULL ELSE now() - random() * interval '7 days' END
FROM generate_series(1, :count)
""")


def measure() -> dict[str, Any]:
    """Claim times in ms, p50 and p99, without and with a past."""
    with stand() as here:
        return asyncio.run(_measure(database.engine(here.settings)))


async def _measure(engine: AsyncEngine) -> dict[str, Any]:
    await _fill(engine, State.READY, READY)
    empty = await _claims(engine)
    await _fill(engine, State.SUCCEEDED, FINISHED)
    full = await _claims(engine)
    await engine.dispose()
    return {
        "name": "claim",
        "ready": READY,
        "finished": FINISHED,
        "empty_past": empty,
        "full_past": full,
        "ratio_p99": round(full["one_p99_ms"] / empty["one_p99_ms"], 2),
    }


async def _fill(engine: AsyncEngine, state: State, count: int) -> None:
    for done in range(0, count, SLICE):
        async with engine.begin() as connection:
            values = {"state": state.value, "count": min(SLICE, count - done)}
            await connection.execute(FILL, values)
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE relais.jobs"))


async def _claims(engine: AsyncEngine) -> dict[str, float]:
    """Claim and give back, so that the number of ready jobs stays."""
    times: dict[int, list[float]] = {1: [], 256: []}
    for limit, taken in times.items():
        for _ in range(CLAIMS):
            owner = ids.new()
            started = time.perf_counter()
            async with engine.begin() as connection:
                jobs = await transitions.claim(
                    connection,
                    queue="bulk",
                    owner=owner,
                    worker="bench",
                    colour="blue",
                    version="0",
                    lease_s=60,
                    limit=limit,
                )
            taken.append(1000 * (time.perf_counter() - started))
            async with engine.begin() as connection:
                back = [transitions.Finish(job.id, job.attempt, State.READY) for job in jobs]
                await transitions.finish(connection, back)
    one, many = sorted(times[1]), sorted(times[256])
    return {
        "one_p50_ms": round(one[len(one) // 2], 2),
        "one_p99_ms": round(one[int(len(one) * 0.99)], 2),
        "batch_p50_ms": round(many[len(many) // 2], 2),
        "batch_p99_ms": round(many[int(len(many) * 0.99)], 2),
    }
