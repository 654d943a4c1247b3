"""A cancel that was accepted is kept, however the attempt ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from ledger import transitions
from ledger.models.jobs import State
from ledger.shapes import Finish
from tests.ledger.jobs import accept, claim, finish, new_job, path, row
from tests.waiting import wait_for

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


async def running_and_asked_to_stop(engine: AsyncEngine) -> transitions.ClaimedJob:
    job = new_job(callback_url="https://n8n.example/x")
    await accept(engine, job)
    (claimed,) = await claim(engine)
    async with engine.begin() as connection:
        state = await transitions.cancel(connection, tenant="default", job_id=job.id, by="ops")
    assert state is State.RUNNING
    return claimed


@pytest.mark.parametrize("is_counted", [True, False], ids=["retry", "snooze"])
async def test_an_attempt_that_would_run_again_is_cancelled(
    database: AsyncEngine, is_counted: bool
) -> None:
    claimed = await running_and_asked_to_stop(database)
    assert await finish(
        database, claimed, State.SCHEDULED, reason="later", delay_s=1, is_counted=is_counted
    )
    await is_cancelled(database, claimed)


async def test_a_job_that_stops_running_in_that_very_moment_is_cancelled(
    database: AsyncEngine,
) -> None:
    """It is open all the while: whoever asks is not told that it cannot be cancelled."""
    job = new_job()
    await accept(database, job)
    (claimed,) = await claim(database)

    async def cancel() -> State:
        async with database.begin() as connection:
            return await transitions.cancel(connection, tenant="default", job_id=job.id, by="ops")

    async with database.begin() as connection:
        later = Finish(job.id, claimed.attempt, State.SCHEDULED, reason="later", delay_s=60)
        assert (await transitions.finish(connection, [later])).written == [True]
        cancelling = asyncio.create_task(cancel())
        await wait_for(lambda: waits_for_a_lock(database), what="the cancel at the job's row")
    assert await cancelling is State.CANCELLED


async def waits_for_a_lock(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool((await connection.execute(waiting)).scalar_one())


async def test_a_released_attempt_is_cancelled(database: AsyncEngine) -> None:
    claimed = await running_and_asked_to_stop(database)
    assert await finish(database, claimed, State.READY, reason="shutting down")
    await is_cancelled(database, claimed)


async def test_a_stray_is_cancelled(database: AsyncEngine) -> None:
    claimed = await running_and_asked_to_stop(database)
    owner = (await row(database, claimed.id)).owner
    async with database.begin() as connection:
        assert await transitions.release_strays(connection, owner=owner, held=[]) == [claimed.id]
    await is_cancelled(database, claimed)


@pytest.mark.parametrize("dies", ["worker", "process"])
async def test_a_job_whose_worker_died_is_cancelled(database: AsyncEngine, dies: str) -> None:
    claimed = await running_and_asked_to_stop(database)
    owner = (await row(database, claimed.id)).owner
    async with database.begin() as connection:
        taken = await transitions.reclaim(
            connection,
            dead=[owner] if dies == "worker" else [],
            died=[claimed.fence] if dies == "process" else [],
        )
    assert (taken.ready, taken.cancelled) == ((), (claimed.id,))
    await is_cancelled(database, claimed)


async def test_an_effect_that_had_happened_is_told_as_it_is(database: AsyncEngine) -> None:
    claimed = await running_and_asked_to_stop(database)
    assert await finish(database, claimed, State.SUCCEEDED)
    assert (await row(database, claimed.id)).state == "succeeded"


async def is_cancelled(database: AsyncEngine, job: transitions.ClaimedJob) -> None:
    stands = await row(database, job.id)
    assert (stands.state, stands.reason) == ("cancelled", "cancelled by ops")
    assert await path(database, job.id) == ["ready", "running", "cancelled"]
    assert await claim(database) == []
    (callback,) = await claim(database, queue="callback")
    assert callback.payload["body"]["type"] == "job.cancelled"
