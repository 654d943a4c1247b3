"""Messages of jobs that ended without their handler, in a ledger of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text

from ledger import ids, messages
from ledger.messages import Abandoned, Settled
from tasks.housekeeping import Nothing, look_at_queues
from tasks.outcomes import Succeeded, Unknown
from tests.email.scripted_relay import DROP

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay

# Finished an hour ago, every 100th badly, each with a message that is settled but for the last.
FILL = """
WITH ended AS (
    INSERT INTO relais.jobs (id, kind, queue, state, max_attempts, timeout_s, attempt, finished_at)
    SELECT gen_random_uuid(), 'email.send', 'template',
           (CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'succeeded' END)::relais.job_state, 8, 900, 1,
           now() - interval '1 hour' + n * interval '1 microsecond'
    FROM generate_series(1, :jobs) AS n
    RETURNING id, state, finished_at
)
INSERT INTO relais.messages (id, job_id, position, recipient, role, message_id, relay, state,
                             attempt, sent_at, changed_at)
SELECT gen_random_uuid(), id, 0, 'ada@example.net', 'to', '<' || id || '>', 'default',
       (CASE WHEN state = 'succeeded' THEN 'sent' ELSE :open END)::relais.message_state, 1,
       CASE WHEN state = 'succeeded' THEN finished_at END, finished_at
FROM ended
"""
# As the migration makes it; here for a schema that does not have it yet.
INDEX = (
    "CREATE INDEX IF NOT EXISTS ix_jobs_ended_badly ON relais.jobs (finished_at, id)"
    " WHERE state IN ('failed', 'cancelled', 'unknown')"
)


async def _fill(database: AsyncEngine, *, jobs: int, open_state: str) -> None:
    async with database.begin() as connection:
        await connection.execute(text(INDEX))
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text(FILL), {"jobs": jobs, "open": open_state})
    async with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE relais.jobs, relais.messages"))


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]


async def test_a_step_reads_no_more_than_it_looks_at(database: AsyncEngine) -> None:
    """It read every job that had ended badly in a day, and before that every finished one."""
    await _fill(database, jobs=30_000, open_state="failed")
    values = {"after": None, "after_id": UUID(int=0), "since_s": 120.0, "limit": 50}
    async with database.connect() as connection:
        values["after"] = (await connection.execute(messages.AGO, {"ago_s": 86_400})).scalar_one()
        statement = f"EXPLAIN (ANALYZE, FORMAT JSON) {messages.SQL['settle_abandoned'].text}"
        [explained] = (await connection.execute(text(statement), values)).scalar_one()
        await connection.rollback()
    for node in _nodes(explained["Plan"]):
        assert node["Node Type"] != "Seq Scan", node
        assert node["Actual Rows"] <= 50, node
        removed = node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
        assert removed <= 50, node


async def test_the_walk_looks_at_each_job_once_and_settles_all(database: AsyncEngine) -> None:
    await _fill(database, jobs=3_000, open_state="sending")
    walk = Abandoned()
    steps = [await walk.settle(database, limit=12) for _ in range(3)]
    assert steps == [Settled(12, 0, 12), Settled(12, 0, 12), Settled(6, 0, 6)]
    assert await walk.settle(database, limit=12) == Settled(0, 0, 0)


async def test_jobs_that_ended_in_one_moment_are_all_looked_at(database: AsyncEngine) -> None:
    await _fill(database, jobs=1_000, open_state="dot_sent")
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.jobs SET finished_at = now() - interval '1 hour'")
        )
    walk = Abandoned()
    steps = [await walk.settle(database, limit=4) for _ in range(3)]
    assert steps == [Settled(4, 4, 0), Settled(4, 4, 0), Settled(2, 2, 0)]


async def test_the_look_at_the_queues_settles_them(
    jobs: Jobs, relay: ScriptedRelay, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = ids.new()
    relay.next("DOT", DROP)
    await jobs.run(job_id)
    await jobs.end(job_id, "failed")
    async with jobs.database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.jobs SET finished_at = finished_at - interval '10 minutes'")
        )
    context = await jobs.context(ids.new(), attempt=1)
    assert isinstance(await look_at_queues(Nothing(), context), Succeeded)
    assert await jobs.states(job_id) == ["unknown"]
    [row] = await jobs.rows(job_id)
    assert row.reason == "the job ended before a reply to the dot was recorded"


async def test_a_person_who_reopens_a_job_while_it_is_settled_is_heard(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    """The statement saw the job as failed; its end comes later than the reopening."""
    job_id = ids.new()
    relay.next("DOT", DROP)
    await jobs.run(job_id)
    await jobs.end(job_id, "failed")
    assert await Abandoned(since_s=0).settle(jobs.database, limit=10) == Settled(1, 1, 0)
    [row] = await jobs.rows(job_id)
    async with jobs.database.connect() as connection:
        ended = text("SELECT finished_at FROM relais.jobs WHERE id = :id")
        assert row.changed_at == (await connection.execute(ended, {"id": job_id})).scalar_one()
    outcome = await jobs.run(job_id, attempt=2)  # reopened from `failed`: a doubt stays a doubt
    assert isinstance(outcome, Unknown)
    assert len(relay.mails) == 0


async def test_a_message_that_a_later_attempt_holds_is_not_settled(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    relay.next("DOT", DROP)
    await jobs.run(job_id)
    await jobs.end(job_id, "failed")
    async with jobs.database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.messages SET attempt = 2 WHERE job_id = :id"), {"id": job_id}
        )
    assert await Abandoned(since_s=0).settle(jobs.database, limit=10) == Settled(1, 0, 0)
    assert await jobs.states(job_id) == ["dot_sent"]
