"""What is thrown away and what is kept, on real rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from ledger import canary, ids, queue_health, retention
from ledger.models.jobs import State
from ledger.shapes import Slice
from tasks import housekeeping
from tasks.canary import Canary, come_through
from tasks.context import Context
from tasks.outcomes import Succeeded
from tests.ledger import jobs

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

DAY_S = 86_400.0


async def finished(
    database: AsyncEngine, *, days_ago: float, state: State = State.SUCCEEDED, **fields: Any
) -> UUID:
    """A job that ended `days_ago`; its history is as old."""
    new = jobs.new_job(**fields)
    await jobs.accept(database, new)
    (claimed,) = [
        job for job in await jobs.claim(database, queue=new.queue, limit=100) if job.id == new.id
    ]
    await jobs.finish(database, claimed, state)
    async with database.begin() as connection:
        values = {"id": new.id, "days": days_ago}
        await connection.execute(
            text(
                "UPDATE relais.jobs SET finished_at = clock_timestamp() - :days * interval '1 day' WHERE id = :id"
            ),
            values,
        )
        await connection.execute(
            text(
                "UPDATE relais.job_events SET at = clock_timestamp() - :days * interval '1 day' WHERE job_id = :id"
            ),
            values,
        )
    return new.id


async def everything(database: AsyncEngine, sql: str) -> list[Any]:
    async with database.connect() as connection:
        return list((await connection.execute(text(sql))).scalars())


def context(database: AsyncEngine, settings: Settings, **fields: Any) -> Context:
    values: dict[str, Any] = {
        "job_id": ids.new(),
        "attempt": 1,
        "kind": "relais.x",
        "queue": "bulk",
        "tenant": "system",
        "tries_left": 0,
        "settings": settings,
        "database": database,
    }
    return Context(**(values | fields))


async def run(handler: Any, payload: Any, given: Context) -> dict[str, Any]:
    """The result of a handler that succeeds."""
    outcome = await handler(payload, given)
    assert isinstance(outcome, Succeeded)
    return outcome.result or {}


async def prune(database: AsyncEngine, settings: Settings) -> dict[str, int]:
    removed: dict[str, int] = (
        await run(housekeeping.prune, housekeeping.Nothing(), context(database, settings))
    )["removed"]
    return removed


async def test_succeeded_go_after_a_week_failed_stay_with_their_history(
    database: AsyncEngine, settings: Settings
) -> None:
    gone = await finished(database, days_ago=8)
    fresh = await finished(database, days_ago=6)
    shelf = await finished(database, days_ago=8, state=State.FAILED)
    undecided = await finished(database, days_ago=89, state=State.UNKNOWN)
    forgotten = await finished(database, days_ago=91, state=State.FAILED)
    open_job = jobs.new_job()
    await jobs.accept(database, open_job)
    await prune(database, settings)
    left = set(await everything(database, "SELECT id FROM relais.jobs"))
    assert left == {fresh, shelf, undecided, open_job.id}
    history = set(await everything(database, "SELECT job_id FROM relais.job_events"))
    assert gone in history
    assert forgotten not in history


async def test_a_parent_stays_while_a_child_is_open(
    database: AsyncEngine, settings: Settings
) -> None:
    parent = jobs.new_job()
    await jobs.accept(database, parent)
    child = jobs.new_job(depends_on=(parent.id,))
    await jobs.accept(database, child)
    (claimed,) = await jobs.claim(database, limit=1)
    await jobs.finish(database, claimed, State.SUCCEEDED)
    async with database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE relais.jobs SET finished_at = clock_timestamp() - interval '30 days' WHERE id = :id"
            ),
            {"id": parent.id},
        )
    await prune(database, settings)
    assert set(await everything(database, "SELECT id FROM relais.jobs")) == {parent.id, child.id}
    (claimed,) = await jobs.claim(database, limit=1)
    await jobs.finish(database, claimed, State.SUCCEEDED)
    await prune(database, settings)
    assert await everything(database, "SELECT id FROM relais.jobs") == [child.id]


async def test_it_goes_on_while_slices_come_back_full(
    database: AsyncEngine, settings: Settings
) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO relais.jobs (id, kind, queue, state, max_attempts, timeout_s, attempt, finished_at) "
                "SELECT gen_random_uuid(), 'test.nothing', 'bulk', 'succeeded', 1, 1, 1, clock_timestamp() - interval '8 days' FROM generate_series(1, 2500)"
            )
        )
        walk = retention.FinishedJobs(finished_s=DAY_S, shelf_s=DAY_S)
        assert await walk.prune(connection, limit=1000) == Slice(1000, 1000)
    removed = await prune(database, settings)
    assert removed["jobs"] == 1500
    assert await everything(database, "SELECT id FROM relais.jobs") == []


async def test_relais_own_jobs_go_soon_with_their_history(
    database: AsyncEngine, settings: Settings
) -> None:
    old = ids.new().int - (2 * 3600 * 1000 << 80)  # an id made two hours ago
    canary_job = await finished(
        database, days_ago=0.1, tenant="system", id=type(ids.new())(int=old)
    )
    young = await finished(database, days_ago=0, tenant="system")
    await prune(database, settings)
    assert await everything(database, "SELECT id FROM relais.jobs") == [young]
    assert canary_job not in await everything(database, "SELECT job_id FROM relais.job_events")


async def test_messages_go_with_the_history_never_before_their_job(
    database: AsyncEngine, settings: Settings
) -> None:
    kept = await finished(database, days_ago=1)
    hundred_days_ms = 100 * 86_400_000
    async with database.begin() as connection:
        for position, job_id in enumerate((kept, ids.new())):
            for days, new_id in (
                (100, type(kept)(int=ids.new().int - (hundred_days_ms << 80))),
                (1, ids.new()),
            ):
                await connection.execute(
                    text(
                        "INSERT INTO relais.messages (id, job_id, position, recipient, role, message_id, relay, state, attempt, changed_at) "
                        "VALUES (:id, :job, :position, 'a@example.org', 'to', '<x@example.org>', 'default', 'failed', 1, clock_timestamp() - :days * interval '1 day')"
                    ),
                    {"id": new_id, "job": job_id, "position": position * 1000 + days, "days": days},
                )
    await prune(database, settings)
    assert sorted(await everything(database, "SELECT position FROM relais.messages")) == [
        1,
        100,
        1001,
    ]


async def test_the_newest_tick_of_a_schedule_stays(
    database: AsyncEngine, settings: Settings
) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text("INSERT INTO relais.tenants (name) VALUES ('system') ON CONFLICT DO NOTHING")
        )
        await connection.execute(
            text(
                "INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id, fired_at) "
                "SELECT s, now() - n * interval '1 day', t, gen_random_uuid(), now() - n * interval '1 day' "
                "FROM (VALUES ('system:x', 'system'), ('user', 'default')) AS v (s, t), unnest(ARRAY[400, 100, 95]) AS n"
            )
        )
        await connection.execute(
            text(
                "INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id) VALUES ('user', now(), 'default', gen_random_uuid())"
            )
        )
    await prune(database, settings)
    assert sorted(await everything(database, "SELECT schedule FROM relais.schedule_ticks")) == [
        "system:x",
        "user",
    ]


async def test_a_canary_leaves_its_mark_on_the_queue_it_ran_in(
    database: AsyncEngine, settings: Settings
) -> None:
    ran_in = context(database, settings, queue="vector")
    await run(come_through, Canary(queue="critical"), ran_in)
    async with database.begin() as connection:
        ages = await canary.ages_s(connection)
        await connection.execute(
            text("UPDATE relais.queues SET canary_at = clock_timestamp() + interval '1 hour'")
        )
        await canary.mark(connection, queue="vector")  # one that was held up for long
        later = await canary.ages_s(connection)
    assert list(ages) == ["vector"]
    assert 0 <= ages["vector"] < 5
    assert later["vector"] < -3000


async def test_health_of_queues(database: AsyncEngine, settings: Settings) -> None:
    await jobs.accept(
        database,
        *(jobs.new_job(priority=priority) for priority in (0, 5, 9)),
        jobs.new_job(delay_s=60),
    )
    async with database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE relais.jobs SET ready_at = clock_timestamp() - interval '300 s' WHERE priority = 0"
            )
        )
    await jobs.claim(database, limit=1)
    async with database.begin() as connection:
        bulk, empty = await queue_health.look(connection, queues=("bulk", "vector"))
    assert (bulk.ready, bulk.scheduled, bulk.running, bulk.is_paused) == (2, 1, 1, False)
    assert 300 <= (bulk.oldest_ready_s or 0) < 310
    assert (empty.ready, empty.oldest_ready_s, empty.canary_age_s) == (0, None, None)
    given = context(database, settings)
    told = await run(housekeeping.look_at_queues, housekeeping.Nothing(), given)
    assert {queue["name"]: queue["ready"] for queue in told["queues"]}["bulk"] == 2
