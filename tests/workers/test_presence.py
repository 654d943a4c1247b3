"""Workers whose proof of life is missing, lost or unheard: none of them claims, none is robbed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from sqlalchemy.engine import make_url

from lab.chaos.proxy import Link, Trap
from runtime.settings import Settings
from tests.proxied import PRESENCE, half_open, proxied
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.process import WorkerProcess

ADVISORY = "FUNCTION pg_advisory_lock(bigint), pg_try_advisory_lock(bigint)"


async def test_worker_whose_presence_never_gets_through_claims_nothing(
    settings: Settings, ledger: Ledger
) -> None:
    (job_id,) = await ledger.accept()
    async with proxied(settings) as (proxy, through):
        blocked = Trap("up", PRESENCE, "cut", times=sys.maxsize)
        proxy.traps.append(blocked)
        with WorkerProcess(through) as worker:
            await wait_for(lambda: "ready." in worker.output, what="it serves its queue")
            tries = blocked.count
            await wait_for(lambda: blocked.count > tries + 8, what="seconds of trying go by")
            row = await ledger.row(job_id)
            assert (row.state, row.attempt) == ("ready", 0)
            proxy.heal()
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1


@asynccontextmanager
async def role(ledger: Ledger) -> AsyncIterator[str]:
    """A user of this database who may do everything but take an advisory lock of a session."""
    name = f"role_{uuid4().hex}"
    async with ledger.database.begin() as connection:
        for statement in (
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}'",
            f"GRANT ALL ON SCHEMA relais TO {name}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA relais TO {name}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA relais TO {name}",
            f"REVOKE EXECUTE ON {ADVISORY} FROM PUBLIC",
        ):
            await connection.exec_driver_sql(statement)
    try:
        yield name
    finally:
        async with ledger.database.begin() as connection:
            await connection.exec_driver_sql(f"DROP OWNED BY {name}")
            await connection.exec_driver_sql(f"DROP ROLE {name}")


async def test_worker_that_may_not_take_its_lock_claims_nothing(
    settings: Settings, ledger: Ledger
) -> None:
    (job_id,) = await ledger.accept()
    async with role(ledger) as name:
        url = make_url(settings.require_database_url()).set(username=name, password=name)
        as_role = url.render_as_string(hide_password=False)
        with WorkerProcess(settings, database_url=as_role) as worker:
            refused = '"failures": 10'
            await wait_for(lambda: refused in worker.output, what="it was refused ten times")
            assert "InsufficientPrivilege" in worker.output
            row = await ledger.row(job_id)
            assert (row.state, row.attempt) == ("ready", 0)
            async with ledger.database.begin() as connection:
                await connection.exec_driver_sql(f"GRANT EXECUTE ON {ADVISORY} TO {name}")
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1


async def test_half_open_presence_costs_no_job_and_claims_go_on(
    settings: Settings, ledger: Ledger
) -> None:
    links: list[Link] = []

    async def note(link: Link) -> None:
        links.append(link)

    async with proxied(settings) as (proxy, through):
        proxy.traps.append(Trap("up", PRESENCE, times=sys.maxsize, callback=note))
        (job_id,) = await ledger.accept(seconds=9.0)
        with WorkerProcess(through) as worker:
            await ledger.reaches(job_id, "running")
            with WorkerProcess(settings, queue="bulk") as other:  # looks for the dead too
                await wait_for(lambda: "ready." in other.output)
                half_open(proxy, links[0])
                await wait_for(lambda: len(links) > 1, within_s=8, what="it connects anew")
                assert (await ledger.reaches(job_id, "succeeded")).attempt == 1
                (later,) = await ledger.accept()
                await ledger.reaches(later, "succeeded", within_s=5)
            assert worker.process.poll() is None
    assert ledger.runs(job_id) == 1


async def test_worker_that_lost_its_presence_claims_nothing_until_it_has_it_again(
    settings: Settings, ledger: Ledger
) -> None:
    """Its lock is free by then: what it claimed would be taken from it at the next two looks."""
    async with proxied(settings) as (proxy, through):
        with WorkerProcess(through) as worker:
            await wait_for(lambda: "ready." in worker.output)
            blocked = Trap("up", PRESENCE, "cut", times=sys.maxsize)
            proxy.traps.append(blocked)
            async with ledger.database.begin() as connection:
                await connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'relais presence%%'"
                    " AND datname = current_database()"
                )
            await asyncio.wait_for(blocked.sprung.wait(), 10)
            (job_id,) = await ledger.accept()
            tries = blocked.count
            await wait_for(lambda: blocked.count > tries + 8, what="seconds of trying go by")
            row = await ledger.row(job_id)
            assert (row.state, row.attempt) == ("ready", 0)
            proxy.heal()
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1
