"""The proof of life: who holds which lock, what is prolonged, and when the row goes."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger import liveness
from ledger.models.jobs import State
from ledger.presence import Presence
from runtime.settings import Settings
from tests.ledger import jobs
from tests.proxied import half_open, proxied
from tests.waiting import wait_for

QUICK: dict[str, Any] = {"heartbeat_s": 0.1}


@contextmanager
def present(settings: Settings, **given: Any) -> Iterator[Presence]:
    presence = Presence(settings, queue="bulk", **given)
    assert presence.start()
    try:
        yield presence
    finally:
        presence.stop()


async def row_of(database: AsyncEngine, presence: Presence) -> Any:
    async with database.connect() as connection:
        found = await connection.execute(
            text("SELECT * FROM relais.workers WHERE id = :id"), {"id": presence.owner}
        )
        return found.first()


async def holders(database: AsyncEngine, key: int) -> list[int]:
    """Server processes that hold this advisory lock."""
    async with database.connect() as connection:
        found = await connection.execute(
            text(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
                " AND (classid::bigint << 32) | objid::bigint = :key"
            ),
            {"key": key},
        )
        return list(found.scalars())


async def test_half_open_connection_is_replaced_though_its_zombie_keeps_the_lock(
    settings: Settings, database: AsyncEngine
) -> None:
    async with proxied(settings) as (proxy, through):
        presence = Presence(through.model_copy(update=QUICK), queue="bulk")
        assert await asyncio.to_thread(presence.start)
        first = await row_of(database, presence)
        (link,) = proxy.links
        half_open(proxy, link)
        zombies = await holders(database, first.lock_key)
        assert zombies, "the session that nobody hears of any more still has its lock"

        async def registered_anew() -> bool:
            return bool((await row_of(database, presence)).lock_key != first.lock_key)

        await wait_for(registered_anew, within_s=10, what="a session of its own, and a new lock")
        second = await row_of(database, presence)
        assert await holders(database, second.lock_key)
        assert await holders(database, first.lock_key) == zombies
        assert presence.may_claim()
        await asyncio.to_thread(presence.stop)


async def test_every_connection_has_a_lock_of_its_own(
    settings: Settings, database: AsyncEngine
) -> None:
    with present(settings.model_copy(update=QUICK)) as presence:
        first = await row_of(database, presence)
        async with database.begin() as connection:
            for pid in await holders(database, first.lock_key):
                await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

        async def again() -> Any:
            row = await row_of(database, presence)
            return row if row.lock_key != first.lock_key else None

        second = await wait_for(again)
        assert await holders(database, second.lock_key)
        assert second.seen_at > first.seen_at
        assert (second.host, second.started_at) == (socket.gethostname(), first.started_at)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the kernel's table")
async def test_server_asks_within_seconds_whether_the_worker_is_still_there(
    settings: Settings, database: AsyncEngine
) -> None:
    """It keeps the lock of whoever vanished without a word until it finds out; two hours, untold."""
    with present(settings.model_copy(update={"heartbeat_s": 60.0})) as presence:
        (pid,) = await holders(database, presence.lock_key)
        async with database.connect() as connection:
            found = await connection.execute(
                text("SELECT client_port FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}
            )
            port = found.scalar_one()
        sockets = f":{database_port(settings):04X} 0100007F:{port:04X}"
        await wait_for(lambda: timer_of(sockets)[0] == KEEPALIVE_TIMER, what="all is acknowledged")
        assert timer_of(sockets)[1] <= 3 * CLOCK_TICKS_PER_S


KEEPALIVE_TIMER = 2
CLOCK_TICKS_PER_S = 100


def timer_of(sockets: str) -> tuple[int, int]:
    """Which timer of the kernel runs for this connection, and in how many clock ticks it ends."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    (line,) = (one for one in lines if sockets in one)
    timer, ticks = line.split()[5].split(":")
    return int(timer, 16), int(ticks, 16)


def database_port(settings: Settings) -> int:
    return make_url(settings.require_database_url()).port or 5432


def test_nothing_is_owned_before_presence_was_gained(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that has just been started: its monotonic clock is younger than any lease.
    monkeypatch.setattr("ledger.presence.time.monotonic", lambda: 1.0)
    presence = Presence(settings, queue="bulk")
    assert not presence.still_owned()
    assert not presence.may_claim()


async def test_claims_end_with_the_connection_and_ownership_after_a_while(
    settings: Settings, database: AsyncEngine
) -> None:
    async with proxied(settings) as (proxy, through):
        quick = through.model_copy(update={**QUICK, "lease_s": 2.0})
        presence = Presence(quick, queue="bulk")
        assert await asyncio.to_thread(presence.start)
        assert presence.may_claim()
        proxy.refuse()
        await wait_for(lambda: not presence.may_claim(), within_s=5)
        assert presence.still_owned(), "others must look twice before they take anything"
        await wait_for(lambda: not presence.still_owned(), within_s=5)
        proxy.heal()
        await wait_for(presence.may_claim, within_s=5)
        await asyncio.to_thread(presence.stop)
        assert await row_of(database, presence) is None


async def running(database: AsyncEngine, presence: Presence, count: int) -> list[tuple[UUID, int]]:
    """Jobs that the ledger says `presence` runs, with leases that are about to end."""
    await jobs.accept(database, *(jobs.new_job() for _ in range(count)))
    claimed = await jobs.claim(database, owner=presence.owner, limit=count)
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.jobs SET lease_until = now() + interval '1 second'")
        )
    return [job.fence for job in claimed]


async def leases_s(database: AsyncEngine) -> dict[UUID, float]:
    """Seconds that are left of each lease."""
    async with database.connect() as connection:
        found = await connection.execute(
            text("SELECT id, extract(epoch FROM lease_until - now()) AS left_s FROM relais.jobs")
        )
        return {row.id: float(row.left_s) for row in found}


async def test_only_what_is_held_is_prolonged(settings: Settings, database: AsyncEngine) -> None:
    held: list[tuple[UUID, int]] = []
    quick = settings.model_copy(update=QUICK)
    with present(quick, held=lambda: list(held)) as presence:
        (mine, _), (stray, _), (other, _) = await running(database, presence, 3)
        held[:] = [(mine, 1), (other, 2)]  # `other` is held under an attempt that is over

        async def prolonged() -> bool:
            return (await leases_s(database))[mine] > 30

        await wait_for(prolonged, what="what is held is prolonged")
        left_s = await leases_s(database)
    assert left_s[stray] < 1
    assert left_s[other] < 1


async def test_a_job_that_is_being_finished_is_not_waited_for(
    settings: Settings, database: AsyncEngine
) -> None:
    held: list[tuple[UUID, int]] = []
    quick = settings.model_copy(update=QUICK)
    with present(quick, held=lambda: list(held)) as presence:
        held[:] = await running(database, presence, 2)
        async with database.begin() as connection:
            await connection.execute(
                text("SELECT FROM relais.jobs WHERE id = :id FOR UPDATE"), {"id": held[0][0]}
            )

            async def other_prolonged() -> bool:
                return (await leases_s(database))[held[1][0]] > 30

            await wait_for(other_prolonged)
            assert (await leases_s(database))[held[0][0]] < 1


async def test_cancels_of_what_is_held_are_told(settings: Settings, database: AsyncEngine) -> None:
    held: list[tuple[UUID, int]] = []
    told: list[list[tuple[UUID, int]]] = []
    quick = settings.model_copy(update=QUICK)
    with present(quick, held=lambda: list(held), on_cancel=told.append) as presence:
        mine, stray, other = await running(database, presence, 3)
        held[:] = [mine, other]
        async with database.begin() as connection:
            await connection.execute(
                text("UPDATE relais.jobs SET cancel_requested_at = now() WHERE id = ANY(:ids)"),
                {"ids": [mine[0], stray[0]]},
            )
        await wait_for(lambda: told)
    assert told[0] == [mine]


async def test_beat_reads_what_is_held_by_its_key_however_many_rows_are_dead(
    settings: Settings, database: AsyncEngine
) -> None:
    from ledger import presence as module

    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE relais.jobs SET (autovacuum_enabled = false)"))
    everything = [jobs.new_job() for _ in range(2_000)]
    await jobs.accept(database, *everything)
    fences = {"ids": [job.id for job in everything[:50]], "attempts": [1] * 50, "lease_s": 60.0}
    for statement in (module.SQL["asked_to_stop"], module.SQL["extend_leases"]):
        async with database.connect() as connection:
            await connection.exec_driver_sql("SET LOCAL jit = off")
            plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", fences)
            shown = "\n".join(plan.scalars())
        assert re.search(r"Index Scan using (pk_jobs|jobs_pkey) on jobs j", shown), shown
        assert "Seq Scan on jobs" not in shown


async def test_row_stays_while_something_is_owned(
    settings: Settings, database: AsyncEngine
) -> None:
    with present(settings) as presence:
        await running(database, presence, 1)
    row = await row_of(database, presence)
    assert row is not None, "whoever looks for the dead finds whose the job is"

    async def is_free() -> bool:
        return await holders(database, row.lock_key) == []

    await wait_for(is_free, what="Postgres has ended the session, and freed its lock")
    async with database.connect() as connection:
        assert (await liveness.quiet_workers(connection)).silent == {presence.owner}


async def test_row_goes_with_a_worker_that_owns_nothing(
    settings: Settings, database: AsyncEngine
) -> None:
    with present(settings) as presence:
        await jobs.accept(database, jobs.new_job())
        (job,) = await jobs.claim(database, owner=presence.owner)
        assert await jobs.finish(database, job, State.SUCCEEDED)
    assert await row_of(database, presence) is None


async def test_kinds_are_written(settings: Settings, database: AsyncEngine) -> None:
    with present(settings, kinds=("email.send", "callback")) as presence:
        assert (await row_of(database, presence)).kinds == ["email.send", "callback"]


async def test_a_stranger_who_has_the_lock_of_a_dead_worker_does_not_keep_it_alive_past_its_lease(
    settings: Settings, database: AsyncEngine
) -> None:
    with present(settings) as presence:
        worker = await row_of(database, presence)
    gone = {"id": worker.id, "key": worker.lock_key}
    async with database.connect() as stranger:
        await stranger.execute(text("SELECT pg_advisory_lock(:key)"), gone)
        await stranger.commit()
        async with database.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO relais.workers"
                    " (id, name, queue, colour, version, host, pid, lock_key, lease_until)"
                    " VALUES (:id, 'dead', 'bulk', 'blue', '0', 'test', 1, :key,"
                    " statement_timestamp() - interval '1 s')"
                ),
                gone,
            )
        quiet = await liveness.quiet_workers(stranger)
    assert (worker.id in quiet.silent, worker.id in quiet.overdue) == (False, True)
