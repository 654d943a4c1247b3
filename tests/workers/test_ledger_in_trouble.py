"""A ledger that is read-only, slow, locked or refuses: outcomes wait, and none is lost or repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.models.jobs import State
from ledger.shapes import ClaimedJob, Finish
from runtime.settings import Settings
from tests.ledger import jobs
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine, Silence
from tests.workers.process import WorkerProcess
from workers import completer
from workers.completer import Completer

SLOW = """
CREATE FUNCTION relais.slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.state = 'succeeded' THEN PERFORM pg_sleep(0.01); END IF; RETURN NEW; END $$
"""
SLOWED = (
    "CREATE TRIGGER slow BEFORE UPDATE ON relais.jobs FOR EACH ROW EXECUTE FUNCTION relais.slow()"
)
GATED = """
CREATE FUNCTION relais.gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.state = 'succeeded' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
    RETURN NEW;
END $$
"""
GATE = (
    "CREATE TRIGGER gate BEFORE UPDATE ON relais.jobs FOR EACH ROW EXECUTE FUNCTION relais.gate()"
)
STUBBORN = """
CREATE FUNCTION relais.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NEW.tags = '{refused}' AND NEW.state IN ('succeeded', 'failed') THEN
        RAISE EXCEPTION 'no' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$
"""
REFUSED = "CREATE TRIGGER refuse BEFORE UPDATE ON relais.jobs FOR EACH ROW EXECUTE FUNCTION relais.refuse()"


@asynccontextmanager
async def read_only(settings: Settings, ledger: Ledger) -> AsyncIterator[None]:
    """The database takes no writes, as a server that has lost its lead."""
    name = ledger.database.url.database
    server = settings.require_database_url().rsplit("/", 1)[0] + "/postgres"
    await ledger.database.dispose()
    with psycopg.connect(server, autocommit=True) as connection:

        def turn(word: str) -> None:
            connection.execute(f"ALTER DATABASE {name} {word}")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )

        turn("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            turn("RESET default_transaction_read_only")
    await ledger.database.dispose()


@pytest.mark.parametrize("kind", ["test.scripted", "test.scripted_async"])
async def test_outcomes_wait_for_a_server_that_turned_read_only(
    settings: Settings, ledger: Ledger, kind: str
) -> None:
    """B13: 8 outcomes were dropped, and their jobs ran again."""
    ids = await ledger.accept(kind=kind, seconds=1.5, count=8)
    with WorkerProcess(settings) as worker:
        for job_id in ids:
            await ledger.reaches(job_id, "running")
        async with read_only(settings, ledger):
            await wait_for(lambda: '"sqlstate": "25006"' in worker.output, what="it was told")
            await asyncio.sleep(1)  # long enough for others to think that it died
        for job_id in ids:
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1
    assert [ledger.runs(job_id) for job_id in ids] == [1] * 8


@pytest.fixture
async def limited(database: AsyncEngine) -> AsyncEngine:
    """A pool whose statements may take half a second."""

    def limit(connection: Any) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '500ms'")

    event.listen(database.sync_engine, "begin", limit)
    return database


def finish_of(job: ClaimedJob) -> Finish:
    return Finish(job.id, job.attempt, State.SUCCEEDED)


async def claimed(database: AsyncEngine, count: int) -> list[ClaimedJob]:
    await jobs.accept(database, *(jobs.new_job() for _ in range(count)))
    return await jobs.claim(database, limit=count)


async def test_finishes_beyond_statement_timeout_do_not_retry_for_ever(
    limited: AsyncEngine,
) -> None:
    """Suspected, and so it was: 200 finishes of 2 s, where 0.5 s are allowed, never ended."""
    held = await claimed(limited, 200)
    async with limited.begin() as connection:
        await connection.execute(text(SLOW))
        await connection.execute(text(SLOWED))
    out = Completer(limited, ringer=cast("Any", Silence()))
    writes = [out.put(finish_of(job)) for job in held]
    assert all(await asyncio.wait_for(asyncio.gather(*writes), 30))


async def test_a_row_that_somebody_has_locked_holds_up_its_own_finish_only(
    database: AsyncEngine,
) -> None:
    held = await claimed(database, 50)
    out = Completer(database, ringer=cast("Any", Silence()))
    async with database.connect() as holder:
        await holder.execute(
            text("SELECT * FROM relais.jobs WHERE id = :id FOR UPDATE"), {"id": held[7].id}
        )
        started = time.monotonic()
        writes = {job.id: out.put(finish_of(job)) for job in held}
        others = [write for job_id, write in writes.items() if job_id != held[7].id]
        assert all(await asyncio.wait_for(asyncio.gather(*others), 10))
        assert time.monotonic() - started < 8
        assert not writes[held[7].id].done()
        await holder.rollback()
    assert await asyncio.wait_for(writes[held[7].id], 10)


async def test_an_outcome_that_the_ledger_refuses_stays_held_and_is_tried_again(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its failure can be written: it must neither be lost, nor run again, nor take a slot."""
    monkeypatch.setattr("workers.completer.UNWRITABLE_AGAIN_S", 0.3)
    async with ledger.database.begin() as connection:
        await connection.execute(text(STUBBORN))
        await connection.execute(text(REFUSED))
    with RunningEngine(settings, concurrency_template=2):
        refused = await ledger.accept(count=3, tags=("refused",))
        await wait_for(lambda: all(ledger.runs(job_id) == 1 for job_id in refused), what="they ran")
        others = await ledger.accept(count=20)
        for job_id in others:
            await ledger.reaches(job_id, "succeeded")
        for job_id in refused:
            assert (await ledger.row(job_id)).state == "running"
        async with ledger.database.begin() as connection:
            await connection.execute(text("DROP TRIGGER refuse ON relais.jobs"))
        for job_id in refused:
            row = await ledger.reaches(job_id, "failed")
            assert row.reason == "its outcome could not be written: IntegrityError"
            assert (row.attempt, ledger.runs(job_id)) == (1, 1)


async def test_no_more_jobs_are_started_than_there_is_room_for_their_results(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the ledger takes none, results pile up in memory: up to a bound."""
    monkeypatch.setattr(completer, "FULL_BYTES", 3_000_000)
    async with ledger.database.begin() as connection:
        await connection.execute(text(GATED))
        await connection.execute(text(GATE))
    async with ledger.database.connect() as gate:
        await gate.execution_options(isolation_level="AUTOCOMMIT")
        with RunningEngine(settings, outcome_max_bytes=2_000_000, concurrency_template=2):
            for job_id in await ledger.accept(count=200):  # it learns that jobs are quick
                await ledger.reaches(job_id, "succeeded")
            await gate.execute(text("SELECT pg_advisory_lock(42)"))
            large = await ledger.accept(mode="big", size=1_000_000, count=30)
            begun = await wait_for(settled(lambda: sum(ledger.runs(job_id) for job_id in large)))
            assert 3 <= begun <= 5  # what fills it, and what was running beside
            await gate.execute(text("SELECT pg_advisory_unlock(42)"))
            for job_id in large:
                await ledger.reaches(job_id, "succeeded")
    assert [ledger.runs(job_id) for job_id in large] == [1] * 30


def settled(count: Callable[[], int], *, for_s: float = 2.0) -> Callable[[], int]:
    """The value of `count` once it has not changed for a while; 0 until then."""
    last = [0, time.monotonic()]

    def look() -> int:
        now, value = time.monotonic(), count()
        if value != last[0]:
            last[:] = [value, now]
        return value if now - last[1] >= for_s else 0

    return look
