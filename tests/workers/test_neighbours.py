"""Nobody waits for somebody else's trouble, flood or body: a real worker beside bad neighbours."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from ledger import lanes, transitions
from tests.ledger import jobs
from tests.waiting import wait_for
from tests.workers.process import WorkerProcess

if TYPE_CHECKING:
    from runtime.settings import Settings
    from tests.workers.conftest import Ledger


async def running(ledger: Ledger) -> int:
    async with ledger.database.connect() as connection:
        counted = text("SELECT count(*) FROM relais.jobs WHERE state = 'running'")
        return int((await connection.execute(counted)).scalar_one())


async def test_forty_jobs_of_a_silent_relay_hold_up_no_mail_of_a_good_one(
    settings: Settings, ledger: Ledger
) -> None:
    await ledger.accept(count=40, mode="hang", lane="default/relay:silent")
    with WorkerProcess(settings):
        await wait_for(lambda: running(ledger), what="the silent relay's jobs run")
        for _ in range(5):
            (good,) = await ledger.accept(lane="default/relay:good")
            await ledger.reaches(good, "succeeded", within_s=5)
        (other,) = await ledger.accept(tenant="other", lane="other/relay:good")
        await ledger.reaches(other, "succeeded", within_s=5)
        held = await running(ledger)
    assert 1 <= held <= 12, "a lane that hangs takes three quarters of the slots at most"


@pytest.mark.timeout(180)
async def test_a_tenant_that_floods_costs_its_neighbour_half_of_the_worker(
    settings: Settings, ledger: Ledger
) -> None:
    await ledger.accept(count=6_000, tenant="flood")
    with WorkerProcess(settings):
        await wait_for(ledger.runs_at_all, what="the flood runs")
        started = time.monotonic()
        mine = await ledger.accept(count=100, tenant="quiet")
        await ledger.reaches(mine[-1], "succeeded", within_s=30)
        took_s = time.monotonic() - started
        async with ledger.database.connect() as connection:
            left = text(
                "SELECT count(*) FROM relais.jobs WHERE tenant = 'flood' AND state = 'ready'"
            )
            assert (await connection.execute(left)).scalar_one() > 1_000, f"after {took_s:.1f} s"


async def test_a_paused_lane_rests_and_the_others_run(settings: Settings, ledger: Ledger) -> None:
    async with ledger.database.begin() as connection:
        await lanes.pause(connection, lane="default/relay:stopped", by="ops", reason="a test")
    parked = await ledger.accept(count=20, lane="default/relay:stopped")
    with WorkerProcess(settings):
        (other,) = await ledger.accept()
        await ledger.reaches(other, "succeeded")
        assert await ledger.path(parked[0]) == ["ready"]
        async with ledger.database.begin() as connection:
            await lanes.resume(connection, lane="default/relay:stopped")
        for job_id in parked:
            await ledger.reaches(job_id, "succeeded")
        assert await ledger.path(parked[0]) == ["ready", "running", "succeeded"]


async def test_a_lane_runs_no_more_at_once_than_it_may(settings: Settings, ledger: Ledger) -> None:
    async with ledger.database.begin() as connection:
        await lanes.configure(connection, lane="default/host:n8n", running_max=3)
    bounded = await ledger.accept(count=9, seconds=0.5, lane="default/host:n8n")
    most = 0
    with WorkerProcess(settings):
        while (await ledger.row(bounded[-1])).state != "succeeded":
            most = max(most, await running(ledger))
    assert 1 <= most <= 3


async def test_sixty_thousand_due_at_once_let_an_urgent_one_pass(
    settings: Settings, ledger: Ledger
) -> None:
    async with ledger.database.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO relais.jobs (id, lane, kind, queue, state, max_attempts, timeout_s, run_at)
                SELECT gen_random_uuid(), 'default', 'test.scripted_async', 'template', 'scheduled',
                       1, 10, now() - interval '1 s'
                FROM generate_series(1, 60000)
            """)
        )
        await connection.execute(
            text("INSERT INTO relais.job_bodies SELECT id, '{}' FROM relais.jobs")
        )
    with WorkerProcess(settings):
        await wait_for(ledger.succeeded, what="the flood runs", within_s=30)
        (urgent,) = await ledger.accept(priority=9, delay_s=0.1)
        await ledger.reaches(urgent, "succeeded", within_s=5)


async def test_a_job_whose_deadline_has_passed_does_not_run(
    settings: Settings, ledger: Ledger
) -> None:
    late = jobs.new_job(
        kind="test.scripted_async", queue="template", deadline=datetime.now(UTC) - timedelta(1),
        payload={"effects": str(ledger.effects)},
    )  # fmt: skip
    await ledger.accept_jobs(late)
    with WorkerProcess(settings):
        ended = await ledger.reaches(late.id, "failed")
    assert "deadline" in ended.reason
    assert ledger.runs(late.id) == 0


async def test_a_claim_that_was_committed_late_is_given_back_and_runs(
    settings: Settings, ledger: Ledger
) -> None:
    """Its COMMIT arrives after the strays were looked for: the next look finds it."""
    (first,) = await ledger.accept()
    with WorkerProcess(settings):
        owner = (await ledger.reaches(first, "succeeded")).worker
        (late,) = await ledger.accept(queue="vector")
        async with ledger.database.begin() as connection:
            found = text("SELECT id FROM relais.workers WHERE name = :name")
            owner = (await connection.execute(found, {"name": owner})).scalar_one()
            wish = transitions.Wish("default", "test.scripted_async", 5, quota=1)
            (claimed,) = await transitions.claim(
                connection, queue="vector", wishes=[wish], owner=owner, worker="w", colour="blue",
                version="0", lease_s=60, limit=1,
            )  # fmt: skip
            await connection.execute(text("UPDATE relais.jobs SET queue = 'template' WHERE id = :id"), {"id": late})  # fmt: skip
        assert claimed.id == late
        again = await ledger.reaches(late, "succeeded", within_s=15)
    assert (again.attempt, again.uncounted) == (2, 1)
