"""The registry of lanes: complete, and small enough that every look can afford it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import lanes, transitions
from ledger.shapes import Slice
from tests.ledger.jobs import accept, new_job

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

REGISTERED = text("SELECT lane, priority FROM relais.lanes ORDER BY queue, lane, priority")


async def registered(database: AsyncEngine) -> list[tuple[str, int]]:
    async with database.connect() as connection:
        return [(row.lane, row.priority) for row in await connection.execute(REGISTERED)]


async def cancel_all(database: AsyncEngine, tenant: str) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE relais.jobs SET state = 'cancelled', ready_at = NULL,"
                " finished_at = clock_timestamp() WHERE tenant LIKE :tenant"
            ),
            {"tenant": tenant},
        )


async def test_lanes_that_the_registry_lost_are_found_again(database: AsyncEngine) -> None:
    await accept(database, new_job(), new_job(tenant="later", delay_s=60), new_job(priority=9))
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM relais.lanes"))
        assert await lanes.register_missing(connection) == 3
        assert await lanes.register_missing(connection) == 0
    assert await registered(database) == [("default", 5), ("default", 9), ("later", 5)]


async def test_idle_lanes_are_forgotten_where_there_are_many(database: AsyncEngine) -> None:
    await accept(database, new_job(), new_job(tenant="later", delay_s=60), new_job(tenant="idle"))
    await cancel_all(database, "idle")
    async with database.begin() as connection:
        assert await lanes.IdleLanes().forget(connection, limit=100) == Slice(0, 0)
        assert await lanes.IdleLanes(kept=2).forget(connection, limit=100) == Slice(3, 1)
    assert await registered(database) == [("default", 5), ("later", 5)]


async def test_the_walk_looks_at_each_lane_once_a_few_at_a_time(database: AsyncEngine) -> None:
    names = [f"t{number:02}" for number in range(10)]
    await accept(
        database,
        *(new_job(tenant=name, queue=queue) for name in names for queue in ("bulk", "critical")),
    )
    await cancel_all(database, "%5")
    walk = lanes.IdleLanes(kept=0)
    steps: list[Slice] = []
    async with database.begin() as connection:
        while not steps or steps[-1].looked_at == 4:
            steps.append(await walk.forget(connection, limit=4))
    assert [step.looked_at for step in steps] == [4, 4, 4, 4, 4, 0]
    assert sum(step.removed for step in steps) == 2
    assert {lane for lane, _ in await registered(database)} == set(names) - {"t05"}


async def test_a_job_that_comes_in_while_its_lane_is_forgotten_is_found(
    database: AsyncEngine,
) -> None:
    """It finds its lane registered and writes nothing: nobody can see that it counts on it."""
    await accept(database, new_job(tenant="idle"))
    await cancel_all(database, "idle")
    async with database.begin() as late:
        await transitions.accept(late, [new_job(tenant="idle")])
        async with database.begin() as connection:
            assert await lanes.IdleLanes(kept=0).forget(connection, limit=9) == Slice(1, 1)
    assert await registered(database) == []
    async with database.begin() as connection:
        assert await lanes.register_missing(connection) == 1
        assert [head.lane for head in await lanes.look(connection, queue="bulk", kinds=None)] == [
            "idle"
        ]
