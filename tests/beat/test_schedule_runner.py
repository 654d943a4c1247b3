"""What fires, under attack: bad neighbours, other beats, frozen ones, a clock that jumps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from ledger import database as ledger_database
from ledger import transitions
from tests.beat.processes import beat
from tests.waiting import wait_for
from workers import schedule_runner as workers_firing
from workers.schedule_runner import ScheduleRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from runtime.settings import Settings

pytestmark = pytest.mark.timeout(120)

JOB: dict[str, Any] = {
    "kind": "template.render",
    "payload": {"a": 1},
    "queue": "template",
    "max_attempts": 3,
    "timeout_s": 30,
}
MAKE = text("""
INSERT INTO relais.schedules (id, name, cron, timezone, job, fired_until)
SELECT gen_random_uuid(), :name || n, :cron, 'UTC', CAST(:job AS jsonb),
       statement_timestamp() - :ago_s * interval '1 second'
FROM generate_series(1, :count) AS n
""")


class Bells:
    """Counts what was rung."""

    def __init__(self) -> None:
        self.rung: list[UUID] = []

    def ring(self, *, job_id: UUID, **_: Any) -> None:
        self.rung.append(job_id)


async def make(
    database: AsyncEngine,
    count: int,
    *,
    name: str = "good",
    cron: str = "0 0 1 1 *",
    ago_s: float = 367 * 86_400.0,
    **job: Any,
) -> None:
    """`count` schedules that have one tick due, and the next one in a year."""
    values = {"name": name, "cron": cron, "ago_s": ago_s, "count": count}
    async with database.begin() as connection:
        await connection.execute(MAKE, {**values, "job": json.dumps(JOB | job)})


async def scalar(database: AsyncEngine, sql: str) -> Any:
    async with database.connect() as connection:
        return (await connection.execute(text(sql))).scalar_one()


async def run(database: AsyncEngine, *statements: str) -> None:
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def fired(database: AsyncEngine, name: str = "good") -> int:
    """Jobs of schedules called `name`; each has its own tick, or the ledger is wrong."""
    async with database.connect() as connection:  # one look at both: a beat may be at work
        jobs, ticks = (
            await connection.execute(
                text(
                    "SELECT count(*), count(t.job_id) FROM relais.jobs AS j"
                    " LEFT JOIN relais.schedule_ticks AS t ON t.job_id = j.id"
                    " WHERE j.accepted_by LIKE :accepted_by"
                ),
                {"accepted_by": f"schedule:{name}%"},
            )
        ).one()
    assert jobs == ticks
    return int(jobs)


def due_now(firing: ScheduleRunner) -> bool:
    """Whether another look would be worth it at once, by the clock of the last one."""
    looked = firing._fingerprint
    assert looked is not None
    at = firing._timetable.next_at
    return at is not None and at <= looked.now


@pytest.fixture
def firing(database: AsyncEngine, settings: Settings) -> ScheduleRunner:
    return ScheduleRunner(settings, database=database, ringer=Bells())


async def test_one_that_the_ledger_refuses_is_not_its_neighbours_trouble(
    database: AsyncEngine, firing: ScheduleRunner
) -> None:
    await make(database, 300)
    await make(database, 2, name="bad", timeout_s=-1)
    await make(database, 1, name="worse", payload=None)
    await firing.look()
    assert (await fired(database), await fired(database, "bad")) == (300, 0)
    assert not due_now(firing)  # the next tick of each is in a year


async def test_one_that_fails_for_now_is_not_its_neighbours_trouble(
    database: AsyncEngine, firing: ScheduleRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its data nor the server is at fault; it is tried again by itself."""
    await run(
        database,
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.tags = '{poison}' THEN RAISE EXCEPTION 'not now'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON relais.jobs FOR EACH ROW"
        " EXECUTE FUNCTION public.refuse()",
    )
    monkeypatch.setattr(workers_firing, "AGAIN_S", 0.5)
    await make(database, 1, name="poison", ago_s=368 * 86_400.0, tags=["poison"])
    await make(database, 300)
    await firing.look()
    assert (await fired(database), await fired(database, "poison")) == (300, 0)
    await run(database, "DROP TRIGGER refuse ON relais.jobs")

    async def is_made_up_for() -> bool:
        await firing.look()
        return await fired(database, "poison") == 1

    await wait_for(is_made_up_for, within_s=5)
    assert await fired(database) == 300


async def test_while_the_server_is_read_only_everything_waits(
    database: AsyncEngine, settings: Settings
) -> None:
    await make(database, 300)
    name = await scalar(database, "SELECT current_database()")
    bells = Bells()
    firing = ScheduleRunner(settings, database=database, ringer=bells)
    await run(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await database.dispose()
    with pytest.raises(DBAPIError):
        await firing.look()
    async with database.connect() as connection:
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"))
        await connection.commit()
        await connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        await connection.commit()
    await database.dispose()
    await firing.look()
    assert await fired(database) == 300
    assert len(set(bells.rung)) == len(bells.rung) >= 300


async def test_two_beats_at_once_share_what_is_due(
    database: AsyncEngine, settings: Settings
) -> None:
    bells = Bells()
    both = [ScheduleRunner(settings, database=database, ringer=bells) for _ in range(2)]
    for one in both:
        await one.look()  # Relais' own
    await make(database, 900)
    bells.rung.clear()

    async def is_done() -> bool:
        await asyncio.gather(*(one.look() for one in both))
        return await fired(database) == 900

    await wait_for(is_done, within_s=10)
    await asyncio.gather(*(one.look() for one in both))
    assert await fired(database) == 900
    assert len(bells.rung) == len(set(bells.rung))


@asynccontextmanager
async def locked(database: AsyncEngine, where: str) -> AsyncIterator[AsyncConnection]:
    async with database.begin() as connection:
        await connection.execute(text(f"SELECT id FROM relais.schedules WHERE {where} FOR UPDATE"))
        yield connection


async def test_what_somebody_else_has_locked_waits_alone(
    database: AsyncEngine, firing: ScheduleRunner
) -> None:
    await make(database, 300)
    await make(database, 1, name="held", ago_s=368 * 86_400.0)
    async with locked(database, "name = 'held1'"):
        async with asyncio.timeout(5):
            await firing.look()
        assert not due_now(firing)  # no busy loop: it is looked at again a little later
        assert (await fired(database), await fired(database, "held")) == (300, 0)

    async def is_made_up_for() -> bool:
        await firing.look()
        return await fired(database, "held") == 1

    await wait_for(is_made_up_for, within_s=3)


async def test_a_beat_frozen_inside_a_transaction_holds_up_nobody_for_long(
    database: AsyncEngine, settings: Settings, tmp_path: Path
) -> None:
    """It stands still for as long as it likes, in the middle of firing what is due."""
    await run(
        database,
        "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_advisory_xact_lock_shared(77); RETURN NULL; END $$",
        "CREATE TRIGGER wait AFTER INSERT ON relais.schedule_ticks FOR EACH ROW"
        " WHEN (NEW.tenant <> 'system') EXECUTE FUNCTION public.wait()",
    )
    with beat(settings, tmp_path / "beat.log") as frozen:
        gate = await database.connect()
        await gate.execute(text("SELECT pg_advisory_lock(77)"))
        await gate.commit()
        await make(database, 200)

        async def is_at_the_gate() -> bool:
            return bool(
                await scalar(
                    database,
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relais beat'"
                    " AND wait_event_type = 'Lock' AND datname = current_database()",
                )
            )

        await wait_for(is_at_the_gate, within_s=20)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            await gate.execute(text("SELECT pg_advisory_unlock(77)"))
            await gate.commit()
            await gate.close()
            other = ScheduleRunner(settings, database=database, ringer=Bells())

            async def is_fired() -> bool:
                async with asyncio.timeout(5):
                    await other.look()
                return await fired(database) == 200

            await wait_for(is_fired, within_s=6)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        # Back among the living, it fires nothing twice, and goes on.
        await make(database, 50, name="later")
        await wait_for(lambda: _has(database, "later", 50), within_s=10)
        assert await fired(database) == 200
        assert frozen.poll() is None


async def _has(database: AsyncEngine, name: str, count: int) -> bool:
    return await fired(database, name) == count


async def set_clock(database: AsyncEngine, ahead: timedelta) -> None:
    """Put the database's clock ahead of this machine's, for new connections."""
    name = await scalar(database, "SELECT current_database()")
    seconds = ahead.total_seconds()
    await run(
        database,
        "CREATE SCHEMA IF NOT EXISTS clock",
        *(
            f"CREATE OR REPLACE FUNCTION clock.{function}() RETURNS timestamptz LANGUAGE sql STABLE"
            f" AS $$ SELECT pg_catalog.{function}() + interval '{seconds} seconds' $$"
            for function in ("statement_timestamp", "clock_timestamp")
        ),
        f"ALTER DATABASE {name} SET search_path = clock, pg_catalog, public",
    )
    await database.dispose()


async def test_the_clock_of_the_database_decides_whatever_this_machine_believes(
    database: AsyncEngine, settings: Settings
) -> None:
    await set_clock(database, timedelta(hours=5))
    await make(database, 3, cron="0 * * * *", ago_s=3_600.0)
    firing = ScheduleRunner(settings, database=database, ringer=Bells())
    await firing.look()
    assert await fired(database) == 3
    now: datetime = await scalar(database, "SELECT statement_timestamp()")
    nominal = await scalar(
        database, "SELECT max(nominal_at) FROM relais.schedule_ticks WHERE tenant = 'default'"
    )
    assert timedelta() <= now - nominal < timedelta(hours=1)
    assert now - datetime.now(UTC) > timedelta(hours=4)
    # Set back, it fires nothing again; set forward, only the newest that was missed.
    await set_clock(database, timedelta(hours=2))
    await firing.look()
    assert await fired(database) == 3
    await set_clock(database, timedelta(hours=48))
    await firing.look()
    assert await fired(database) == 6


async def test_60_000_jobs_that_come_due_do_not_delay_what_fires(
    database: AsyncEngine, settings: Settings
) -> None:
    await run(
        database,
        "INSERT INTO relais.jobs (id, lane, kind, queue, state, max_attempts, timeout_s, run_at)"
        " SELECT gen_random_uuid(), 'default', 'test.nothing', 'bulk', 'scheduled', 1, 1,"
        " statement_timestamp() FROM generate_series(1, 60000)",
        "ANALYZE relais.jobs",
    )
    workers = ledger_database.engine(settings, name="promotes")
    promoted = 0

    async def promote() -> None:
        nonlocal promoted
        while True:
            async with workers.begin() as connection:
                more = (await transitions.promote(connection, queue="bulk", limit=1_000)).jobs
            promoted += more
            if not more:
                return

    await make(database, 300)
    firing = ScheduleRunner(settings, database=database, ringer=Bells())
    promoting = asyncio.create_task(promote())
    try:
        await wait_for(lambda: promoted > 0)
        async with asyncio.timeout(3):
            await firing.look()
        assert await fired(database) == 300
        assert not promoting.done()
        await promoting
    finally:
        promoting.cancel()
        await workers.dispose()


async def test_a_flood_of_ticks_keeps_nobody_from_the_canaries(
    database: AsyncEngine, firing: ScheduleRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_firing, "LOOK_MAX", 100)
    await make(database, 250)
    for so_many in (100, 200, 250):
        await firing.look()
        assert await fired(database) == so_many
        assert due_now(firing) == (so_many < 250)
    canaries = await scalar(
        database, "SELECT count(*) FROM relais.jobs WHERE kind = 'relais.canary'"
    )
    assert canaries >= 5


async def test_large_jobs_are_fired_a_few_at_once(
    database: AsyncEngine, firing: ScheduleRunner
) -> None:
    """250 schedules with a payload of a megabyte each are not in hand together."""
    await make(database, 20, payload={"text": "x" * 1_000_000})
    parts: list[int] = []

    def count(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "INSERT INTO relais.job_bodies" in statement:
            parts.append(len(parameters["jobs"]))

    event.listen(database.sync_engine, "before_cursor_execute", count)
    await firing.look()
    assert await fired(database) == 20
    assert sum(parts) > 20_000_000
    assert max(parts) < 5_000_000


async def test_its_job_is_in_the_lane_of_what_its_kind_depends_on(
    database: AsyncEngine, firing: ScheduleRunner
) -> None:
    """A mail through a relay that is stopped is parked with the others, whoever made it."""
    await make(database, 1, kind="email.send", payload={"relay": "marketing"})
    await make(database, 1, name="other", kind="no.such")
    await firing.look()
    async with database.connect() as connection:
        rows = await connection.execute(
            text("SELECT lane FROM relais.jobs WHERE tenant = 'default' ORDER BY lane")
        )
        assert list(rows.scalars()) == ["default", "default/relay:marketing"]
    assert (
        await scalar(database, "SELECT max(payload_bytes) FROM relais.jobs WHERE lane <> 'system'")
        > 10
    )
