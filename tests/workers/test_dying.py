"""Workers that are killed, stopped, frozen or cut off: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from lab.chaos.proxy import Link, Proxy, Trap
from runtime.settings import Settings
from tests.waiting import wait_for, within
from tests.workers.conftest import Ledger
from tests.workers.process import WorkerProcess


async def test_killed_workers_jobs_run_elsewhere_within_5_s(
    settings: Settings, ledger: Ledger
) -> None:
    with WorkerProcess(settings) as doomed:
        mine = await ledger.accept(mode="hang", count=12)
        await wait_for(lambda: all(ledger.runs(job_id) == 1 for job_id in mine), what="they run")
        with WorkerProcess(settings) as other:
            await wait_for(lambda: "ready." in other.output, what="the other worker is up")
            doomed.kill()
            await wait_for(
                lambda: all(ledger.runs(job_id) == 2 for job_id in mine),
                within_s=5.0,
                what="all run elsewhere",
            )


async def test_sigterm_finishes_what_runs_and_gives_back_the_rest(
    settings: Settings, ledger: Ledger
) -> None:
    running = await ledger.accept(seconds=2.0, count=2)
    with WorkerProcess(settings, concurrency_template=2) as worker:
        for job_id in running:
            await ledger.reaches(job_id, "running")
        waiting = await ledger.accept(seconds=2.0, count=3)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    for job_id in running:
        assert (await ledger.row(job_id)).state == "succeeded"
    for job_id in waiting:
        row = await ledger.row(job_id)
        assert (row.state, row.attempt - row.uncounted) == ("ready", 0)


@pytest.mark.parametrize(
    ("number", "grace_s"), [(signal.SIGTERM, 0.5), (signal.SIGQUIT, 25.0)], ids=["TERM", "QUIT"]
)
@pytest.mark.parametrize("kind", ["test.scripted", "test.scripted_async"])
async def test_what_does_not_finish_in_time_costs_no_attempt(
    settings: Settings, ledger: Ledger, number: signal.Signals, grace_s: float, kind: str
) -> None:
    (job_id,) = await ledger.accept(kind=kind, mode="hang")
    with WorkerProcess(settings, grace_s=grace_s) as worker:
        await ledger.reaches(job_id, "running")
        with within(6):
            worker.signal(number)
            worker.wait()
    row = await ledger.row(job_id)
    assert (row.state, row.attempt, row.uncounted) == ("ready", 1, 1)
    assert row.reason == "its worker was shutting down"


async def test_lost_connection_is_not_a_death(settings: Settings, ledger: Ledger) -> None:
    (job_id,) = await ledger.accept(seconds=5.0)
    with WorkerProcess(settings) as worker, WorkerProcess(settings):
        await ledger.reaches(job_id, "running")
        async with ledger.database.begin() as connection:
            await connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'relais %%' AND datname = current_database()"
            )
        row = await ledger.reaches(job_id, "succeeded")
        assert worker.process.poll() is None
    assert (row.attempt, ledger.runs(job_id)) == (1, 1)


async def test_frozen_worker_is_taken_over_and_its_late_finish_is_refused(
    settings: Settings, ledger: Ledger
) -> None:
    quick: dict[str, Any] = {"lease_s": 3, "heartbeat_s": 0.5}
    (job_id,) = await ledger.accept(seconds=2.0)
    with WorkerProcess(settings, **quick) as frozen:
        await ledger.reaches(job_id, "running")
        frozen.signal(signal.SIGSTOP)
        with WorkerProcess(settings, **quick):
            row = await ledger.reaches(job_id, "succeeded", within_s=30)
            assert row.attempt == 2
            frozen.signal(signal.SIGCONT)
            await wait_for(lambda: "finish.fenced" in frozen.output)
    assert await ledger.path(job_id) == ["ready", "running", "ready", "running", "succeeded"]


@asynccontextmanager
async def frozen_when_it_says(
    pattern: bytes, settings: Settings, **overrides: Any
) -> AsyncIterator[tuple[WorkerProcess, asyncio.Event]]:
    """A worker that stands still from the moment at which it sends `pattern` to Postgres on."""
    url = make_url(settings.require_database_url())
    proxy = Proxy(url.port or 5432)
    await proxy.start()
    through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    overrides["database_url"] = through
    with WorkerProcess(settings, **overrides) as worker:

        async def freeze(_: Link) -> None:
            worker.signal(signal.SIGSTOP)

        trap = Trap("up", re.compile(pattern), callback=freeze)
        proxy.traps.append(trap)
        try:
            yield worker, trap.sprung
        finally:
            worker.kill()
            await proxy.stop()


async def test_frozen_while_it_looks_keeps_nobody_from_looking(
    settings: Settings, ledger: Ledger
) -> None:
    with WorkerProcess(settings) as doomed:
        mine = await ledger.accept(mode="hang", count=12)
        await wait_for(lambda: all(ledger.runs(job_id) == 1 for job_id in mine), what="they run")
        with WorkerProcess(settings) as heir:
            await wait_for(lambda: "ready." in heir.output, what="the heir is up")
            async with frozen_when_it_says(b"pg_locks", settings) as (_, sprung):
                await asyncio.wait_for(sprung.wait(), 30)
                doomed.kill()
                await wait_for(
                    lambda: all(ledger.runs(job_id) == 2 for job_id in mine),
                    what="all run elsewhere",
                    within_s=5,
                )


async def test_frozen_while_it_finishes_keeps_its_job_for_seconds_only(
    settings: Settings, ledger: Ledger
) -> None:
    """Its open transaction holds the row, and reclaiming goes around rows that are held."""
    quick: dict[str, Any] = {"lease_s": 3, "heartbeat_s": 0.5}
    (job_id,) = await ledger.accept(seconds=0.5)
    async with frozen_when_it_says(b"running -> succeeded", settings, **quick) as (frozen, sprung):
        await asyncio.wait_for(sprung.wait(), 30)
        with WorkerProcess(settings, **quick):
            row = await ledger.reaches(job_id, "succeeded", within_s=25)
            assert row.attempt == 2
            frozen.signal(signal.SIGCONT)
            await wait_for(lambda: "finish.fenced" in frozen.output)


async def test_claim_whose_commit_was_never_answered_is_given_back(
    settings: Settings, ledger: Ledger
) -> None:
    """A worker that is cut off right after its claim committed finds its stray jobs again."""
    with WorkerProcess(settings) as worker:
        await wait_for(lambda: "ready." in worker.output)
        async with ledger.database.connect() as connection:
            owner = (await connection.exec_driver_sql("SELECT id FROM relais.workers")).scalar_one()
        (job_id,) = await ledger.accept(queue="bulk")
        async with ledger.database.begin() as connection:
            # While the worker is claiming: so it is a claim that loses its connection.
            await connection.exec_driver_sql("LOCK TABLE relais.jobs IN ACCESS EXCLUSIVE MODE")
            await wait_for(lambda: _terminate_claims(ledger), what="it was claiming")
            await connection.exec_driver_sql(
                "UPDATE relais.jobs SET queue = 'template', state = 'running', attempt = 1, ready_at = NULL,"
                " owner = %s, lease_until = now() + interval '1 minute', started_at = now()",
                (owner,),
            )
        row = await ledger.reaches(job_id, "succeeded")
    assert row.attempt == 2
    assert row.uncounted == 1


async def _terminate_claims(ledger: Ledger) -> bool:
    async with ledger.database.begin() as connection:
        ended = await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'relais worker%%' AND datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%%SKIP LOCKED%%'"
        )
        return bool(ended.all())


async def test_database_gone_for_a_while(settings: Settings, ledger: Ledger) -> None:
    """Refused connections for some seconds: outcomes wait, nothing runs twice."""
    name = ledger.database.url.database
    server = settings.database_url.get_secret_value().rsplit("/", 1)[0] + "/postgres"
    ids = await ledger.accept(seconds=1.5, count=8)
    with WorkerProcess(settings) as worker:
        await ledger.reaches(ids[0], "running")
        await ledger.database.dispose()
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            await wait_for(lambda: "finish.waiting" in worker.output)
            await asyncio.sleep(1)  # long enough for others to think that it died
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        for job_id in ids:
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1
    assert [ledger.runs(job_id) for job_id in ids] == [1] * 8
