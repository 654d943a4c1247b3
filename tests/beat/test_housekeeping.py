"""What Relais does for its own ledger goes on, whatever is paused, stuck, locked, killed or broken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from ledger import ids, lanes, queues
from ledger.models.jobs import State
from runtime import exposition
from tasks import housekeeping
from tasks.context import Context
from tasks.kinds import QUEUES
from tasks.outcomes import Failed, Outcome, Succeeded
from tasks.periodic import Every, Periodic
from tests.beat.sql import run, scalar
from tests.ledger import jobs
from tests.waiting import wait_for
from tests.workers.process import WorkerProcess
from workers import schedule_runner as workers_firing
from workers.schedule_runner import ScheduleRunner

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

pytestmark = pytest.mark.timeout(120)

# Succeeded eight days ago: a day past their time.
OLD_JOBS = """
INSERT INTO relais.jobs (id, kind, queue, state, max_attempts, timeout_s, attempt, finished_at)
SELECT gen_random_uuid(), 'test.nothing', 'bulk', 'succeeded', 1, 1, 1,
       clock_timestamp() - interval '8 days'
FROM generate_series(1, {count})
"""
# What a transaction removed, by its number.
REMOVALS = (
    "CREATE TABLE public.removals (transaction bigint, rows bigint)",
    """
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.removals SELECT txid_current(), count(*) FROM gone;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER note AFTER DELETE ON relais.jobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION public.note()
    """,
)
LEFT = "SELECT count(*) FROM relais.jobs WHERE tenant = 'default'"


class Bells:
    """Nobody has to be woken: workers look for themselves."""

    def ring(self, **_: Any) -> None:
        pass


async def succeeded(database: AsyncEngine, kind: str) -> int:
    """How many of Relais' own jobs of `kind` have succeeded."""
    count: int = await scalar(
        database,
        "SELECT count(*) FROM relais.jobs WHERE kind = :kind AND state = 'succeeded'",
        kind=kind,
    )
    return count


def context(database: AsyncEngine, settings: Settings) -> Context:
    return Context(
        job_id=ids.new(),
        attempt=1,
        kind="relais.x",
        queue="bulk",
        tenant="system",
        tries_left=0,
        settings=settings,
        database=database,
    )


def told(caplog: pytest.LogCaptureFixture, action: str) -> list[dict[str, Any]]:
    """The fields of every line with `action`."""
    records: list[Any] = [record for record in caplog.records if record.message == action]
    return [record.fields for record in records]


async def prune(database: AsyncEngine, settings: Settings) -> Outcome:
    return await housekeeping.prune(housekeeping.Nothing(), context(database, settings))


async def keep_books(database: AsyncEngine, settings: Settings) -> Outcome:
    return await housekeeping.look_at_queues(housekeeping.Nothing(), context(database, settings))


@pytest.fixture
def firing(
    database: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> ScheduleRunner:
    """Fires housekeeping every second."""

    def table(_: Settings) -> tuple[Periodic, ...]:
        return (
            Periodic("retention", "relais.retention", Every(1), queue="bulk"),
            Periodic("queue-health", "relais.queue_health", Every(1), queue="bulk"),
        )

    monkeypatch.setattr(workers_firing, "beat_schedule", table)
    return ScheduleRunner(settings, database=database, ringer=Bells())


async def test_nothing_that_somebody_pauses_stops_it(
    database: AsyncEngine, settings: Settings, firing: ScheduleRunner
) -> None:
    await run(database, OLD_JOBS.format(count=3))
    async with database.begin() as connection:
        for queue in QUEUES:
            await queues.pause(connection, name=queue, by="test")
        for lane in ("system", "default"):
            await lanes.pause(connection, lane=lane, by="test", reason="a test")
            await lanes.pause(connection, queue="bulk", lane=lane, by="test", reason="a test")
    with WorkerProcess(settings, "bulk"):

        async def is_done() -> bool:
            await firing.look()
            return await scalar(database, LEFT) == 0 and bool(
                await succeeded(database, "relais.queue_health")
            )

        await wait_for(is_done, within_s=30)


async def test_a_run_whose_process_was_killed_stops_no_later_one(
    database: AsyncEngine, settings: Settings, firing: ScheduleRunner
) -> None:
    await run(
        database,
        *REMOVALS,
        OLD_JOBS.format(count=8_000),
        # Slow enough to be met in the middle.
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_sleep(0.5); RETURN NULL; END $$",
        "CREATE TRIGGER slow AFTER DELETE ON relais.jobs"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.slow()",
    )

    async def is_in_the_middle() -> bool:
        await firing.look()
        return bool(await scalar(database, LEFT) < 8_000)

    with WorkerProcess(settings, "bulk") as worker:
        await wait_for(is_in_the_middle, within_s=20)
        worker.kill()
    left = await scalar(database, LEFT)
    assert left > 0
    assert left % 1_000 == 0  # a slice is there, or it is gone

    async def is_done() -> bool:
        await firing.look()
        is_empty = await scalar(database, LEFT) == 0
        return is_empty and bool(await succeeded(database, "relais.retention"))

    with WorkerProcess(settings, "bulk"):
        await wait_for(is_done, within_s=40)


@pytest.mark.parametrize(("age", "fired"), [("5 minutes", 0), ("16 minutes", 1)])
async def test_a_run_that_never_ends_stops_no_later_one(
    database: AsyncEngine, firing: ScheduleRunner, age: str, fired: int
) -> None:
    stuck = jobs.new_job(tenant="system", kind="relais.retention", delay_s=1e6)
    await run(database, "INSERT INTO relais.tenants (name) VALUES ('system')")
    await jobs.accept(database, stuck)
    ago = f"statement_timestamp() - interval '{age}'"
    await run(
        database,
        f"UPDATE relais.jobs SET created_at = {ago} WHERE id = '{stuck.id}'",
        "INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id, fired_at)"
        f" VALUES ('system:retention', {ago}, 'system', '{stuck.id}', {ago})",
    )
    await firing.look()
    ready = "SELECT count(*) FROM relais.jobs WHERE kind = 'relais.retention' AND state = 'ready'"
    assert await scalar(database, ready) == fired


async def test_a_table_that_somebody_has_locked_stops_one_task_and_no_later_run(
    database: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await run(database, OLD_JOBS.format(count=3))
    async with database.begin() as other:
        await other.execute(text("LOCK TABLE relais.messages IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(8):
            outcome = await prune(database, settings)
    assert isinstance(outcome, Failed)
    assert "not done: messages (OperationalError)" in outcome.reason
    assert outcome.result is not None
    assert outcome.result["removed"]["jobs"] == 3
    (line,) = told(caplog, "housekeeping.failed")
    assert (line["task"], line["sqlstate"]) == ("messages", "55P03")
    assert isinstance(await prune(database, settings), Succeeded)


async def test_a_row_that_somebody_has_locked_is_left_for_later(
    database: AsyncEngine, settings: Settings
) -> None:
    await run(database, OLD_JOBS.format(count=3))
    async with database.begin() as other:
        await other.execute(text("SELECT id FROM relais.jobs LIMIT 1 FOR UPDATE"))
        outcome = await prune(database, settings)
        assert isinstance(outcome, Succeeded)
        assert await scalar(database, LEFT) == 1
    await prune(database, settings)
    assert await scalar(database, LEFT) == 0


async def test_thousands_of_rows_go_in_bounded_transactions(
    database: AsyncEngine, settings: Settings
) -> None:
    await run(database, *REMOVALS, OLD_JOBS.format(count=4_500))
    outcome = await prune(database, settings)
    assert isinstance(outcome, Succeeded)
    async with database.connect() as connection:
        rows = await connection.execute(
            text("SELECT sum(rows)::int FROM public.removals GROUP BY transaction ORDER BY 1 DESC")
        )
        assert [count for count in rows.scalars() if count] == [1_000] * 4 + [500]


async def test_what_stays_is_looked_at_once_a_run(
    database: AsyncEngine, settings: Settings
) -> None:
    """A shelf of thousands in front of what is to go."""
    await run(
        database,
        "INSERT INTO relais.jobs (id, kind, queue, state, max_attempts, timeout_s, attempt,"
        " finished_at) SELECT gen_random_uuid(), 'test.nothing', 'bulk', 'failed', 1, 1, 1,"
        " clock_timestamp() - interval '9 days' FROM generate_series(1, 2500)",
        OLD_JOBS.format(count=500),
    )
    outcome = await prune(database, settings)
    assert isinstance(outcome, Succeeded)
    assert outcome.result is not None
    assert outcome.result["removed"]["jobs"] == 500
    assert await scalar(database, LEFT) == 2_500


async def test_old_messages_behind_thousands_that_stay_go_too(
    database: AsyncEngine, settings: Settings
) -> None:
    await run(
        database,
        # Of a hundred days ago, by their ids too; the jobs of the first ones are on the shelf.
        "CREATE TABLE public.old AS SELECT n, CAST(lpad(to_hex((extract(epoch FROM now()"
        " - interval '100 days') * 1000)::bigint), 12, '0') || lpad(to_hex(n), 20, '0') AS uuid)"
        " AS id FROM generate_series(1, 3000) AS n",
        "INSERT INTO relais.jobs (id, kind, queue, state, max_attempts, timeout_s, attempt,"
        " finished_at) SELECT id, 'email.send', 'bulk', 'failed', 1, 1, 1,"
        " clock_timestamp() - interval '1 day' FROM public.old WHERE n <= 2500",
        "INSERT INTO relais.messages (id, job_id, position, recipient, role, message_id, relay,"
        " state, attempt, changed_at) SELECT id, id, 0, 'a@example.org', 'to', '<x@example.org>',"
        " 'default', 'failed', 1, now() - interval '100 days' FROM public.old",
    )
    outcome = await prune(database, settings)
    assert isinstance(outcome, Succeeded)
    assert outcome.result is not None
    assert outcome.result["removed"]["messages"] == 500
    assert await scalar(database, "SELECT count(*) FROM relais.messages") == 2_500


async def test_a_task_of_the_books_that_fails_stops_no_other(
    database: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await jobs.accept(database, jobs.new_job())
    await run(
        database,
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'not now'; END $$",
        *(
            f"CREATE TRIGGER refuse BEFORE {what} FOR EACH STATEMENT"
            " EXECUTE FUNCTION public.refuse()"
            for what in ("DELETE ON relais.job_count_deltas", "DELETE ON relais.lanes")
        ),
    )
    outcome = await keep_books(database, settings)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("not done: counts (")
    assert "idle_lanes (" in outcome.reason
    assert outcome.result is not None
    assert set(outcome.result["done"]) == {
        "missing_lanes", "relay_logins", "abandoned_messages", "unknown_kinds", "blocked_jobs",
    }  # fmt: skip
    assert {queue["name"] for queue in outcome.result["queues"]} == set(QUEUES)
    failed = [line["task"] for line in told(caplog, "housekeeping.failed")]
    assert failed == ["counts", "idle_lanes"]
    await run(
        database,
        "DROP TRIGGER refuse ON relais.job_count_deltas",
        "DROP TRIGGER refuse ON relais.lanes",
    )
    assert isinstance(await keep_books(database, settings), Succeeded)
    assert await scalar(database, "SELECT count(*) FROM relais.job_count_deltas") == 0


async def test_a_mistake_of_ours_stops_no_other_task_and_is_told_in_full(
    database: AsyncEngine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def mistaken(*_: Any) -> None:
        raise KeyError

    monkeypatch.setattr(housekeeping, "_roll_up", mistaken)
    outcome = await keep_books(database, settings)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "not done: counts (KeyError); the next run tries again"
    (line,) = [record for record in caplog.records if record.message == "housekeeping.broken"]
    assert line.exc_info is not None


async def test_what_each_task_did_is_told_and_counted(
    database: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await run(database, OLD_JOBS.format(count=3), "DELETE FROM relais.lanes")
    await jobs.accept(database, jobs.new_job())
    await run(database, "DELETE FROM relais.lanes")
    await keep_books(database, settings)
    await prune(database, settings)
    (books,) = told(caplog, "housekeeping.done")
    assert books["missing_lanes"] == 1
    assert books["counts"] > 0
    (removed,) = told(caplog, "retention.done")
    assert (removed["jobs"], removed["is_complete"]) == (3, True)
    shown = exposition.render().decode()
    for task in ("counts", "missing_lanes", "jobs", "messages", "days_dropped"):
        assert f'relais_housekeeping_total{{result="done",task="{task}"}}' in shown


async def test_two_beats_at_once_give_the_work_once(
    database: AsyncEngine, settings: Settings, firing: ScheduleRunner
) -> None:
    other = ScheduleRunner(settings, database=database, ringer=Bells())
    for _ in range(5):
        async with asyncio.timeout(3):
            await asyncio.gather(firing.look(), other.look())
    # The first run is open, so there is no second one, whoever looks.
    for kind in ("relais.retention", "relais.queue_health"):
        given = "SELECT count(*) FROM relais.jobs WHERE kind = :kind"
        assert await scalar(database, given, kind=kind) == 1
    (retention, *_) = [job for job in await jobs.claim(database) if job.kind == "relais.retention"]
    await jobs.finish(database, retention, State.SUCCEEDED)

    async def is_given_again() -> bool:
        await asyncio.gather(firing.look(), other.look())
        given = "SELECT count(*) FROM relais.jobs WHERE kind = 'relais.retention'"
        return bool(await scalar(database, given) == 2)

    await wait_for(is_given_again, within_s=5)
    await asyncio.gather(firing.look(), other.look())
    assert await is_given_again()


async def test_a_beat_that_stands_still_inside_a_tick_holds_up_no_other_tick(
    database: AsyncEngine, settings: Settings, firing: ScheduleRunner
) -> None:
    """It has taken the tick of retention and does not commit."""
    await firing.look()  # the tenant is there
    await run(database, "DELETE FROM relais.schedule_ticks", "DELETE FROM relais.jobs")
    other = ScheduleRunner(settings, database=database, ringer=Bells())
    async with database.begin() as frozen:
        await frozen.execute(
            text(
                "INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id)"
                " SELECT 'system:retention', date_trunc('second', statement_timestamp())"
                " + n * interval '1 second', 'system', gen_random_uuid()"
                " FROM generate_series(-1, 20) AS n"
            )
        )
        async with asyncio.timeout(6):
            await other.look()
        assert await scalar(database, "SELECT count(*) FROM relais.jobs") == 1  # queue-health
        await frozen.rollback()

    async def is_given() -> bool:
        await other.look()
        return bool(
            await scalar(
                database, "SELECT count(*) FROM relais.jobs WHERE kind = 'relais.retention'"
            )
        )

    await wait_for(is_given, within_s=5)
