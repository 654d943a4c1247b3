"""Users' schedules in the ledger: whose they are, what is refused, when they are due."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from ledger import due, ids, schedules, ticks
from ledger.errors import InvalidSchedule, NotFound

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

JOB: dict[str, Any] = {
    "kind": "test.nothing",
    "payload": {"é": 1},
    "queue": "bulk",
    "max_attempts": 3,
    "timeout_s": 10,
}


async def make(database: AsyncEngine, **fields: Any) -> schedules.Schedule:
    values = {
        "tenant": "default",
        "name": "mine",
        "cron": "* * * * *",
        "timezone": "Europe/Paris",
        "job": JOB,
    }
    async with database.begin() as connection:
        return await schedules.create(connection, **(values | fields))


async def look(connection: AsyncConnection) -> list[due.Due]:
    """What a beat would fire now: of each schedule the newest tick only."""
    now = await ticks.now(connection)
    return [
        due.Due(times, nominal_at)
        for times in await due.enabled(connection)
        if (nominal_at := times.latest_due(after=times.fired_until, now=now)) is not None
    ]


async def age(database: AsyncEngine, interval: str) -> None:
    """Pretend that nothing has been dealt with for `interval`."""
    async with database.begin() as connection:
        await connection.execute(
            text(
                f"UPDATE relais.schedules SET fired_until = clock_timestamp() - interval '{interval}'"
            )
        )


async def test_create_list_change_and_remove(database: AsyncEngine) -> None:
    one = await make(database)
    assert one.job == JOB
    assert one.enabled
    async with database.begin() as connection:
        assert [s.id for s in await schedules.list_all(connection, tenant="default")] == [one.id]
        assert await schedules.find(connection, tenant="default", name="mine") == one
        changed = await schedules.update(
            connection,
            tenant="default",
            schedule_id=one.id,
            cron="@daily",
            job={**JOB, "priority": 9},
        )
        assert (changed.cron, changed.job["priority"], changed.timezone) == (
            "@daily",
            9,
            "Europe/Paris",
        )
        assert changed.fired_until > one.fired_until
        assert not (
            await schedules.enable(connection, tenant="default", schedule_id=one.id, enabled=False)
        ).enabled
        assert await due.enabled(connection) == []
        await schedules.delete(connection, tenant="default", schedule_id=one.id)
        with pytest.raises(NotFound):
            await schedules.get(connection, tenant="default", schedule_id=one.id)


async def test_another_tenant_sees_nothing(database: AsyncEngine) -> None:
    one = await make(database)
    async with database.begin() as connection:
        assert await schedules.list_all(connection, tenant="other") == []
        assert await schedules.find(connection, tenant="other", name="mine") is None
        for call in (
            schedules.get(connection, tenant="other", schedule_id=one.id),
            schedules.update(connection, tenant="other", schedule_id=one.id, cron="@daily"),
            schedules.delete(connection, tenant="other", schedule_id=one.id),
        ):
            with pytest.raises(NotFound):
                await call
        assert (
            await schedules.get(connection, tenant="default", schedule_id=one.id)
        ).cron == "* * * * *"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "bogus"}, "cron"),
        ({"timezone": "Nowhere"}, "timezone"),
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"job": {"kind": "x"}}, "job"),
        ({"job": {**JOB, "owner": "me"}}, "job"),
        ({"job": {**JOB, "payload": []}}, "job"),
    ],
)
async def test_the_wrong_field_is_named(
    database: AsyncEngine, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        await make(database, **fields)
    assert refused.value.field == field


async def test_a_name_is_taken_once(database: AsyncEngine) -> None:
    await make(database)
    other = await make(database, name="other")
    with pytest.raises(InvalidSchedule, match="already"):
        await make(database)
    async with database.begin() as connection:
        with pytest.raises(InvalidSchedule, match="already"):
            await schedules.update(connection, tenant="default", schedule_id=other.id, name="mine")


async def test_due_is_the_newest_missed_time_and_fires_once(database: AsyncEngine) -> None:
    await make(database)
    await age(database, "2 days")
    async with database.begin() as connection:
        now = await ticks.now(connection)
        (tick,) = await look(connection)
    assert timedelta() <= now - tick.nominal_at < timedelta(minutes=1)

    async def fire() -> str:
        async with database.begin() as connection:
            (answer,) = await due.fire(connection, [tick])
            return answer.result

    answers = await asyncio.gather(*(fire() for _ in range(8)))
    assert answers.count("fired") == 1
    assert set(answers) <= {"fired", "busy", "repeated"}
    assert await fire() == "repeated"
    async with database.connect() as connection:
        # A minute may have gone by meanwhile; the fired one is never due again.
        assert all(again.nominal_at > tick.nominal_at for again in await look(connection))
        assert (
            await connection.execute(text("SELECT count(*) FROM relais.jobs"))
        ).scalar_one() == 1


async def test_what_changed_between_look_and_fire_is_not_fired(database: AsyncEngine) -> None:
    one = await make(database)
    await age(database, "1 hour")
    async with database.begin() as connection:
        (tick,) = await look(connection)
        await schedules.update(connection, tenant="default", schedule_id=one.id, cron="@yearly")
        assert await due.fire(connection, [tick]) == [due.Fired("repeated")]
        await schedules.delete(connection, tenant="default", schedule_id=one.id)
        assert await due.fire(connection, [tick]) == [due.Fired("busy")]


async def test_switching_on_again_does_not_catch_up(database: AsyncEngine) -> None:
    one = await make(database, cron="0 * * * *", enabled=False)
    await age(database, "30 days")
    async with database.begin() as connection:
        await schedules.enable(connection, tenant="default", schedule_id=one.id, enabled=True)
        now = await ticks.now(connection)
        assert all(tick.nominal_at > now - timedelta(minutes=1) for tick in await look(connection))


async def test_a_tick_and_its_job_are_one(database: AsyncEngine) -> None:
    """A job that the ledger refuses leaves no tick behind."""
    await make(database, job={**JOB, "timeout_s": -1})
    await age(database, "1 hour")
    async with database.begin() as connection:
        (tick,) = await look(connection)
    with pytest.raises(Exception, match="ck_jobs_limits"):
        async with database.begin() as connection:
            await due.fire(connection, [tick])
    async with database.connect() as connection:
        assert (
            await connection.execute(text("SELECT count(*) FROM relais.schedule_ticks"))
        ).scalar_one() == 0


async def test_the_fingerprint_tells_every_change(database: AsyncEngine) -> None:
    seen: list[due.Fingerprint] = []

    async def is_new() -> bool:
        async with database.connect() as connection:
            seen.append(await due.fingerprint(connection))
        return len(seen) < 2 or not seen[-1].is_like(seen[-2])

    assert await is_new()
    one = await make(database)
    assert await is_new()
    assert not await is_new()
    async with database.begin() as connection:
        await schedules.update(connection, tenant="default", schedule_id=one.id, name="renamed")
    assert await is_new()
    async with database.begin() as connection:
        await schedules.enable(connection, tenant="default", schedule_id=one.id, enabled=False)
    assert await is_new()
    with pytest.raises(NotFound):
        async with database.begin() as connection:
            await schedules.delete(connection, tenant="default", schedule_id=ids.new())
    assert not await is_new()
