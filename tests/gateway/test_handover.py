"""What Postgres may refuse of a group, and what becomes of those who were in it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import event, text

from gateway.connections import Connections
from gateway.errors import Problem
from gateway.handover import GROUP_WAITS_MS, LOCKED, hand_over
from gateway.lane_registry import LaneRegistry
from ledger import consequences, ids, transitions
from ledger import database as ledger_database
from ledger.models.jobs import State
from ledger.shapes import Accepted
from tests.ledger.jobs import accept, new_job
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.shapes import NewJob
    from runtime.settings import Settings

LOCK = text("SELECT FROM relais.jobs WHERE id = :id FOR UPDATE")
WAITS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database() AND application_name = :name"
)
JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}


async def waits(engine: AsyncEngine, name: str) -> bool:
    async with engine.connect() as connection:
        return bool((await connection.execute(WAITS, {"name": name})).scalar_one())


@asynccontextmanager
async def gateway_connections(
    settings: Settings, told: Callable[[str], None] | None = None
) -> AsyncIterator[Connections]:
    engine = ledger_database.engine(settings, name="relais gateway", lock_timeout_ms=GROUP_WAITS_MS)
    if told is not None:
        hear = told

        def tell(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            hear(statement)

        event.listen(engine.sync_engine, "before_cursor_execute", tell)
    connections = Connections(engine, at_once=1, answer_within_s=20)
    yield connections
    await connections.close()


async def cross(
    connection: AsyncConnection, database: AsyncEngine, *keys: str
) -> asyncio.Task[None]:
    """Write the second key and, once the gateway waits for it, the first: a deadlock.

    Whoever waits first looks for deadlocks first: that is the gateway.
    """
    first, second = keys
    await connection.execute(text("SET LOCAL deadlock_timeout = '10s'"))
    await transitions.accept(connection, [keyed(second)])

    async def close() -> None:
        await wait_for(lambda: waits(database, "relais gateway"))
        await transitions.accept(connection, [keyed(first)])
        await connection.rollback()

    return asyncio.create_task(close())


def keyed(key: str) -> NewJob:
    return new_job(idempotency_key=key, request_hash=b"a body")


async def test_first_job_of_a_lane_holds_up_nobody_while_its_gateway_is_frozen(
    settings: Settings, database: AsyncEngine
) -> None:
    registered, unregistered = (new_job(lane=f"default/relay:{name}") for name in ("one", "two"))
    async with gateway_connections(settings) as connections, database.connect() as frozen:
        registry = LaneRegistry(connections.share(1, is_single=True))
        await registry.register([registered])
        await transitions.accept(frozen, [registered])
        (found,) = await hand_over(connections, [replace(registered, id=ids.new())])
        assert isinstance(found, Accepted)
        await transitions.accept(frozen, [unregistered])
        assert await hand_over(connections, [replace(unregistered, id=ids.new())]) == [LOCKED]


async def test_a_lane_that_cannot_be_registered_is_left_to_its_job(settings: Settings) -> None:
    async with gateway_connections(settings) as connections:
        registry = LaneRegistry(connections.share(1, is_single=True))
        bad = new_job(lane="default/a\x00b")
        await registry.register([bad])
        (found,) = await hand_over(connections, [bad])
    assert isinstance(found, Problem)


async def test_one_statement_commits_itself_and_leaves_the_connection_to_transactions(
    settings: Settings, database: AsyncEngine
) -> None:
    """Single jobs without a key cost one round trip; what begins later begins a transaction."""
    begun = text("SELECT now() < statement_timestamp()")

    async def is_begun(connection: AsyncConnection) -> bool:
        return bool((await connection.execute(begun)).scalar_one())

    async with gateway_connections(settings) as connections:
        single = connections.share(1, is_single=True)
        for _ in range(3):
            assert not await single.call(is_begun)
            assert await connections.call(is_begun)
        job = new_job()
        (found,) = await hand_over(single, [job])
    assert isinstance(found, Accepted)
    async with database.connect() as connection:
        state = await consequences.state_of(connection, tenant=job.tenant, job_id=job.id)
    assert state is State.READY


async def test_a_deadlock_whose_victim_is_intake_refuses_nobody(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    """Over HTTP, with neighbours in the same group."""
    async with ledger.connect() as connection:
        crossing = await cross(connection, ledger, "first", "second")
        neighbours = [JOB | {"idempotency_key": uuid4().hex} for _ in range(40)]
        crossed = [JOB | {"idempotency_key": key} for key in ("first", "second")]
        jobs = neighbours[:20] + crossed + neighbours[20:]
        answers = await asyncio.gather(*(api.post("/api/v1/jobs", json=job) for job in jobs))
        await crossing
    assert {answer.status_code for answer in answers} == {202}


async def test_the_victim_of_a_deadlock_tries_again(
    settings: Settings, database: AsyncEngine
) -> None:
    async with gateway_connections(settings) as connections, database.connect() as connection:
        crossing = await cross(connection, database, "first", "second")
        jobs = [new_job(), keyed("first"), keyed("second")]
        found = await hand_over(connections, jobs, wait_ms=10_000)
        await crossing
    assert all(isinstance(result, Accepted) and result.is_new for result in found)
    assert await deadlocks(database) == 1


async def deadlocks(engine: AsyncEngine) -> int:
    statement = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    async def counted() -> int:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_stat_force_next_flush()"))
            return int((await connection.execute(statement)).scalar_one())

    return await wait_for(counted)


async def test_a_database_that_serialises_is_tried_again(
    settings: Settings, database: AsyncEngine
) -> None:
    """A key that somebody else commits meanwhile is an error there, not a row that is known."""
    async with database.connect() as connection:
        level = "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'"
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(level.format(name)))
        await connection.commit()
    async with gateway_connections(settings) as connections, database.connect() as connection:
        theirs, ours = keyed("same"), keyed("same")
        await transitions.accept(connection, [theirs])
        writing = asyncio.create_task(hand_over(connections, [ours, new_job()], wait_ms=10_000))
        await wait_for(lambda: waits(database, "relais gateway"))
        await connection.commit()
        found = await writing
    first, second = found
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert (first.id, first.is_new) == (theirs.id, False)


async def test_a_group_that_meets_a_lock_is_not_written(
    settings: Settings, database: AsyncEngine
) -> None:
    parent = new_job()
    await accept(database, parent)
    jobs = [new_job(), new_job(depends_on=(parent.id,))]
    async with gateway_connections(settings) as connections, database.connect() as connection:
        await connection.execute(LOCK, {"id": parent.id})
        assert await hand_over(connections, jobs, wait_ms=10) == [LOCKED, LOCKED]
    assert await count(database) == 1


async def test_a_group_is_one_statement_and_still_waits_briefly(
    settings: Settings, database: AsyncEngine
) -> None:
    """Every further one costs each group a round trip."""
    told: list[str] = []
    async with gateway_connections(settings, told.append) as connections:
        await hand_over(connections, [new_job()])  # the first one checks the database too
        told.clear()
        jobs = [new_job(payload={"number": number}) for number in range(3)]
        assert all(await hand_over(connections, jobs))
        assert len(told) == 1
        async with database.connect() as connection:
            await transitions.accept(connection, [keyed("held")])
            started = time.monotonic()
            assert await hand_over(connections, [keyed("held")]) == [LOCKED]
            assert GROUP_WAITS_MS / 1000 <= time.monotonic() - started < 5
            told.clear()
            assert await hand_over(connections, [keyed("held")], wait_ms=10) == [LOCKED]
            assert "lock_timeout" in told[0]


async def test_what_postgres_cannot_hold_spoils_no_neighbour(
    settings: Settings, database: AsyncEngine
) -> None:
    jobs = [new_job() for _ in range(9)]
    jobs[2] = new_job(payload={"text": "a\0b"})
    jobs[7] = new_job(priority=11)
    async with gateway_connections(settings) as connections:
        found = await hand_over(connections, jobs)
    refused = [index for index, result in enumerate(found) if isinstance(result, Problem)]
    assert refused == [2, 7]
    assert {found[index].status for index in refused} == {422}  # type: ignore[union-attr]
    assert await count(database) == 7


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(
            (await connection.execute(text("SELECT count(*) FROM relais.jobs"))).scalar_one()
        )
