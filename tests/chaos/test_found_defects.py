"""Defects that chaos runs found, each reproduced as small as it can be."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from doorbell.broker import celery_app
from doorbell.ringer import Ringer
from lab.bench.cluster import cluster
from ledger import database as ledger_database
from ledger import ids, transitions
from ledger.models.jobs import State
from ops.stack import Valkey, processes
from runtime.settings import Settings
from tests.ledger.jobs import accept, claim, new_job
from tests.waiting import wait_for
from tests.workers.conftest import Ledger, ledger
from tests.workers.process import WorkerProcess

__all__ = ["ledger"]


async def test_prolonging_leases_never_waits_for_a_finish(database: AsyncEngine) -> None:
    """Two statements over the same rows in different orders: the presence thread was the victim."""
    owner = ids.new()
    await accept(database, new_job(), new_job())
    first, second = await claim(database, owner=owner)
    await _age(database)
    async with database.connect() as finishing, database.connect() as prolonging:
        finish = transitions.Finish(first.id, first.attempt, State.SUCCEEDED)
        assert (await transitions.finish(finishing, [finish])).written == [True]
        await prolonging.execute(text("SET LOCAL statement_timeout = '1s'"))
        await transitions.extend_leases(prolonging, held=[first.fence, second.fence], lease_s=600)
        await prolonging.commit()
        await finishing.commit()
    async with database.connect() as connection:
        left = await connection.execute(
            text("SELECT id FROM relais.jobs WHERE lease_until > clock_timestamp() + interval '5m'")
        )
        assert list(left.scalars()) == [second.id]


async def _age(database: AsyncEngine) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.jobs SET lease_until = clock_timestamp() + interval '1 s'")
        )


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="relais-chaos-test-") as name:
        Path(name).chmod(0o711)
        valkey = Valkey(Path(name) / "valkey", config={"enable-debug-command": "local"}).start()
        try:
            yield valkey
        finally:
            valkey.stop("immediate")


async def test_a_redis_without_room_ends_no_worker(
    settings: Settings, ledger: Ledger, own_valkey: Valkey
) -> None:
    """Kombu writes down what it pops; where Redis refuses that, the worker used to end."""
    own = settings.model_copy(update={"redis_url": type(settings.redis_url)(own_valkey.url)})
    ringer = Ringer(own)
    async with Redis.from_url(own_valkey.url) as redis:
        await _starve(own, ledger, redis, ringer)
    ringer.close()


async def _starve(own: Settings, ledger: Ledger, redis: Redis, ringer: Ringer) -> None:
    with WorkerProcess(own) as worker:
        (job_id,) = await ledger.accept(mode="ok")
        await ledger.reaches(job_id, "succeeded")
        await wait_for(lambda: "ready." in worker.output, what="it listens")
        worker.signal(signal.SIGSTOP)
        for _ in range(3):
            ringer.ring(queue="template", kind="test.scripted_async", job_id=ids.new())
            await asyncio.sleep(0.05)
        await redis.config_set("maxmemory", "1mb")
        worker.signal(signal.SIGCONT)
        (job_id,) = await ledger.accept(mode="ok", seconds=3.0)
        await ledger.reaches(job_id, "succeeded")
        assert worker.process.poll() is None, worker.output[-2000:]
        # And one that starts while there is no room works too.
        with WorkerProcess(own) as second:
            worker.kill()
            (job_id,) = await ledger.accept(mode="ok", seconds=3.0)
            await ledger.reaches(job_id, "succeeded", within_s=30)
            assert second.process.poll() is None, second.output[-2000:]


def test_a_redis_that_dies_while_a_doorbell_is_unacknowledged_ends_no_worker(
    settings: Settings, own_valkey: Valkey
) -> None:
    """Kombu wanted to put the bell back over a connection that was given up: AttributeError."""
    url = type(settings.redis_url)(own_valkey.url)
    app = celery_app(settings.model_copy(update={"redis_url": url}))
    with app.connection_for_write() as caller:
        app.amqp.Producer(caller.default_channel).publish({}, routing_key="template", retry=False)
    # A worker's connection: doorbells on one channel, remote control on another, as Celery does.
    connection = app.connection_for_read()
    heard: list[object] = []
    bells = app.amqp.queues["template"].bind(connection.default_channel)
    connection.Consumer([bells], on_message=heard.append).consume()
    app.control.mailbox.Node("worker@test", channel=connection.channel()).listen()
    with suppress(TimeoutError):  # all is heard; a BRPOP is left waiting
        while True:
            connection.drain_events(timeout=0.4)  # shorter than a BRPOP
    assert len(heard) == 1
    own_valkey.stop("immediate")
    # What Celery's consumer does about a connection that is lost.
    connection.collect()
    connection.close()


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_parents_that_are_just_being_finished_are_known(
    database: AsyncEngine, count: int
) -> None:
    """Where several were waited for, all but the first had vanished: 422, there is no such job."""
    for _ in range(5):
        await accept(database, *(new_job(queue="template") for _ in range(1000)))
    async with database.connect() as connection:  # so that the plan is that of a busy table
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE relais.jobs"))
    parents = [new_job() for _ in range(count)]
    await accept(database, *parents)
    ends = [
        transitions.Finish(job.id, job.attempt, State.SUCCEEDED) for job in await claim(database)
    ]
    children = [new_job(depends_on=(parent.id,)) for parent in parents]
    async with database.connect() as finishing:
        assert all((await transitions.finish(finishing, ends)).written)
        accepting = asyncio.create_task(accept(database, *children))
        await wait_for(lambda: _came_in_vain(database), what="they wait for their parents")
        await finishing.commit()
    accepted = await accepting
    assert [child.missing_parents for child in accepted] == [()] * count
    assert {child.state for child in accepted} == {State.READY}


async def _came_in_vain(database: AsyncEngine) -> bool:
    """Whether somebody found a row locked, and will try again."""
    async with database.connect() as connection:
        found = await connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'idle in transaction' AND query ILIKE 'ROLLBACK TO SAVEPOINT%'"
            )
        )
        return bool(found.scalar_one())


async def test_a_database_that_stood_still_costs_no_living_worker_its_jobs() -> None:
    """All leases had run out while nobody could prolong them; whoever looked first took all."""
    with cluster() as here:
        async with engine_of(here.settings) as database:
            here_ledger = Ledger(database, here.folder)
            options = {
                "kinds": "tests.scripted_kind", "lease_s": 3, "smtp_url": "smtp://127.0.0.1:9"
            }  # fmt: skip
            with ExitStack() as stack:
                for queue in ("template", "bulk", "critical"):
                    stack.enter_context(here.process("workers", queue, **options))
                mine = await here_ledger.accept(mode="hang", count=8, timeout_s=120)
                for job_id in mine:
                    await here_ledger.reaches(job_id, "running", within_s=60)
                for _ in range(2):
                    _freeze(here.postgres.pid or 0, seconds=4.5)
                    await asyncio.sleep(3.0)
                rows = [await here_ledger.row(job_id) for job_id in mine]
            assert {(row.state, row.attempt, row.alone) for row in rows} == {("running", 1, False)}


def _freeze(pid: int, *, seconds: float) -> None:
    pids = processes.family(pid)
    for each in pids:
        os.kill(each, signal.SIGSTOP)
    time.sleep(seconds)
    for each in pids:
        os.kill(each, signal.SIGCONT)


@asynccontextmanager
async def engine_of(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = ledger_database.engine(settings)
    try:
        yield engine
    finally:
        await engine.dispose()
