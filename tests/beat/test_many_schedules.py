"""Many schedules at once: what a look and a firing cost (issue 7, row 12)."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from tests.waiting import slowdown, within
from workers.schedule_runner import ScheduleRunner

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

pytestmark = pytest.mark.timeout(120)

MANY = 10_000
MAKE = text("""
INSERT INTO relais.schedules (id, name, cron, timezone, job, fired_until)
SELECT gen_random_uuid(), 'schedule ' || n, (CAST(:crons AS text[]))[1 + n % CAST(:kinds AS int)], 'Europe/Paris',
       CAST(:job AS jsonb),
       statement_timestamp() - :ago_s * interval '1 second'
FROM generate_series(1, :count) AS n
""")

JOB = {
    "kind": "template.render",
    "payload": {"a": 1},
    "queue": "template",
    "max_attempts": 3,
    "timeout_s": 30,
}


class Bells:
    """Counts what was rung."""

    def __init__(self) -> None:
        self.rung: list[UUID] = []

    def ring(self, *, job_id: UUID, **_: Any) -> None:
        self.rung.append(job_id)


async def make(
    database: AsyncEngine, count: int, *, ago_s: float, crons: tuple[str, ...] = ("* * * * *",)
) -> None:
    async with database.begin() as connection:
        values = {"count": count, "ago_s": ago_s, "crons": list(crons), "kinds": len(crons)}
        values["job"] = json.dumps(JOB)
        await connection.execute(MAKE, values)


async def count(database: AsyncEngine, sql: str) -> int:
    async with database.connect() as connection:
        return int((await connection.execute(text(sql))).scalar_one())


async def look_s(firing: ScheduleRunner) -> float:
    began = time.perf_counter()
    await firing.look()
    return time.perf_counter() - began


USER_JOBS = "SELECT count(*) FROM relais.jobs WHERE tenant = 'default'"
USER_TICKS = "SELECT count(*) FROM relais.schedule_ticks WHERE tenant = 'default'"


async def test_200_minutely_schedules_fire_at_once(
    database: AsyncEngine, settings: Settings
) -> None:
    await make(database, 200, ago_s=120)
    bells = Bells()
    runner = ScheduleRunner(settings, database=database, ringer=bells)
    with within(1.0):
        await runner.look()
    assert await count(database, USER_JOBS) == await count(database, USER_TICKS) == 200
    assert len(set(bells.rung)) >= 200


async def test_1_000_schedules_due_at_once_fire_within_two_seconds(
    database: AsyncEngine, settings: Settings
) -> None:
    firing = ScheduleRunner(settings, database=database, ringer=Bells())
    await firing.look()  # Relais' own are fired, the system tenant is there
    await make(database, 1_000, ago_s=120, crons=("* * * * *", "*/2 * * * *", "0 * * * *"))
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.schedules SET fired_until = fired_until - interval '2 hours'")
        )
    with within(2.0):
        await firing.look()
    assert await count(database, USER_JOBS) == await count(database, USER_TICKS) == 1_000


async def test_10_000_schedules_cost_little_while_nothing_is_due(
    database: AsyncEngine, settings: Settings
) -> None:
    # A year ahead, or never: nothing of it comes due while this test runs.
    rare = tuple(f"{minute} 0 {day} 1 *" for minute in range(60) for day in range(2, 29))
    await make(database, MANY, ago_s=0, crons=(*rare, "0 0 29 2 *", "59 23 31 12 *"))
    # Relais' own canaries are not what is measured here.
    quiet = settings.model_copy(update={"canary_s": 86_400.0})
    firing = ScheduleRunner(quiet, database=database, ringer=Bells())
    await firing.look()
    looks = sorted([await look_s(firing) for _ in range(11)])
    assert await count(database, USER_JOBS) == 0
    assert looks[5] < 0.05 * slowdown(), looks


async def test_one_changed_schedule_among_10_000_is_all_that_is_planned_again(
    database: AsyncEngine, settings: Settings
) -> None:
    rare = tuple(f"{minute} 0 {day} 1 *" for minute in range(60) for day in range(2, 29))
    await make(database, MANY, ago_s=0, crons=rare)
    firing = ScheduleRunner(settings, database=database, ringer=Bells())
    await firing.look()
    async with database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE relais.schedules SET cron = '* * * * *', changed_at = clock_timestamp(),"
                " fired_until = clock_timestamp() - interval '2 minutes' WHERE name = 'schedule 77'"
            )
        )
    with within(1.0):
        await firing.look()
    assert await count(database, USER_JOBS) == 1
