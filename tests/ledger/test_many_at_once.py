"""Rows that somebody else has locked and changed are found again, all of them and not the first.

Postgres checks a row that it has waited for against the join that found it. Where a batch meets
several of those, none may be left out: it would count as lost, and run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger import transitions
from ledger.models.jobs import State
from ledger.shapes import ClaimedJob
from tests.ledger.jobs import accept, claim, new_job
from tests.waiting import wait_for

MANY = 5
CHANGE = text("UPDATE relais.jobs SET run_at = run_at + interval '1 s' WHERE id = ANY(:ids)")
WAITS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database()"
)
ENDS: dict[str, dict[str, Any]] = {
    "succeed": {"state": State.SUCCEEDED, "result": {"n": 1}},
    "finish": {"state": State.FAILED, "reason": "r"},
    "defer": {"state": State.SCHEDULED, "delay_s": 5.0, "reason": "r"},
    "release": {"state": State.READY, "reason": "r"},
}


Work = Callable[[AsyncConnection, list[ClaimedJob]], Awaitable[int]]


async def _retry(connection: AsyncConnection, jobs: list[ClaimedJob]) -> int:
    ids = [job.id for job in jobs]
    return len(await transitions.retry(connection, tenant="default", job_ids=ids, by="ops"))


async def _end(connection: AsyncConnection, jobs: list[ClaimedJob], *, name: str) -> int:
    ends = [transitions.Finish(job.id, job.attempt, **ENDS[name]) for job in jobs]
    return sum((await transitions.finish(connection, ends)).written)


WORK: dict[str, Work] = {name: partial(_end, name=name) for name in ENDS} | {"retry": _retry}


@pytest.mark.parametrize("name", WORK)
async def test_every_row_that_was_changed_meanwhile_is_found(
    name: str, database: AsyncEngine
) -> None:
    await accept(database, *(new_job() for _ in range(MANY)))
    claimed = await claim(database, limit=MANY)
    assert len(claimed) == MANY
    if name == "retry":
        async with database.begin() as connection:
            assert await _end(connection, claimed, name="finish") == MANY

    async def work() -> int:
        async with database.begin() as connection:
            return await WORK[name](connection, claimed)

    async with database.connect() as looking, database.connect() as other:
        await other.execute(CHANGE, {"ids": [job.id for job in claimed]})
        working = asyncio.create_task(work())
        await wait_for(lambda: _waits(looking), what="the batch waits")
        await other.commit()
        assert await working == MANY


async def _waits(connection: AsyncConnection) -> bool:
    waits = (await connection.execute(WAITS)).scalar_one()
    await connection.rollback()
    return bool(waits)
