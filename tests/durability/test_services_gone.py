"""Redis killed, emptied, gone; Postgres stopped at once; all under load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import redis

from tests.durability.load import Load, load_on
from tests.waiting import wait_for

if TYPE_CHECKING:
    from lab.bench.cluster import Cluster

SLOWER_MAX_S = 2.0
BACK_MAX_S = 5.0


def rows(here: Cluster) -> list[Any]:
    """(id, state, seconds from accepted to finished) of every job."""
    with psycopg.connect(here.postgres.superuser_url) as connection:
        return connection.execute(
            "SELECT id::text, state::text, extract(epoch FROM finished_at - created_at)::float8,"
            " attempt - uncounted FROM relais.jobs WHERE queue = 'bulk'"
        ).fetchall()


def share(values: list[float], part: float) -> float:
    """What `part` of `values` stay below."""
    return sorted(values)[int(part * (len(values) - 1))]


def moment(here: Cluster) -> Any:
    """Now, by the database's clock."""
    with psycopg.connect(here.postgres.superuser_url) as connection:
        return connection.execute("SELECT clock_timestamp()").fetchone()


def first_finish_after(here: Cluster, moment: Any) -> float:
    """Seconds from `moment` until a job finished."""
    with psycopg.connect(here.postgres.superuser_url) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM min(finished_at) - %(at)s)::float8 FROM relais.jobs"
            " WHERE finished_at > %(at)s",
            {"at": moment[0]},
        ).fetchone()
    assert row is not None
    return float(row[0])


async def all_finished(here: Cluster, load: Load) -> list[float]:
    """Wait for every acknowledged job; how long each took from accepted to finished."""

    def finished() -> bool:
        states = {job_id: state for job_id, state, *_ in rows(here)}
        return all(states[job_id] == "succeeded" for job_id in load.acknowledged.values())

    await wait_for(finished, within_s=30, what="every acknowledged job succeeded")
    mine = set(load.acknowledged.values())
    found = rows(here)
    assert all(row[3] == 1 for row in found)
    return sorted(row[2] for row in found if row[0] in mine)


def nobody_was_forgotten(here: Cluster, *loads: Load) -> None:
    """Every job in the ledger is one that a caller was told of, and the other way round."""
    told = {job_id for load in loads for job_id in load.acknowledged.values()}
    assert {row[0] for row in rows(here)} == told


async def test_redis_killed_emptied_and_gone_for_30_s(here: Cluster) -> None:
    with here.gateway() as url, here.process("workers", "bulk"):
        calm = await load_on(here, url)  # what the machine does at the moment
        await calm.run(per_s=30, seconds=5)
        usual = await all_finished(here, calm)
        load = await load_on(here, url)
        running = asyncio.create_task(load.run(per_s=30, seconds=45))
        await asyncio.sleep(3)
        await asyncio.to_thread(here.valkey.stop, "immediate")
        await asyncio.to_thread(here.valkey.start)
        await asyncio.sleep(3)
        redis.Redis.from_url(here.valkey.url).flushall()
        await asyncio.sleep(2)
        await asyncio.to_thread(here.valkey.stop, "immediate")
        await asyncio.sleep(30)
        await asyncio.to_thread(here.valkey.start)
        await running
        took = await all_finished(here, load)
        nobody_was_forgotten(here, calm, load)
    assert load.refusals == 0, "a dead Redis is no reason to refuse"
    slower_s = share(load.waits_s, 0.95) - share(calm.waits_s, 0.95)
    assert slower_s < 1.0, "a dead Redis is no reason to make callers wait"
    assert share(took, 0.99) - share(usual, 0.99) < SLOWER_MAX_S


async def test_postgres_stopped_at_once_under_load(here: Cluster) -> None:
    with here.gateway() as url, here.process("workers", "bulk") as worker:
        load = await load_on(here, url)
        running = asyncio.create_task(load.run(per_s=50, seconds=15))
        back_at = []
        for _ in range(2):
            await asyncio.sleep(4)
            await asyncio.to_thread(here.postgres.stop, "immediate")
            await asyncio.sleep(1)
            await asyncio.to_thread(here.postgres.start)
            back_at.append(moment(here))
        await running
        await all_finished(here, load)
        nobody_was_forgotten(here, load)
        assert worker.poll() is None
    assert load.refusals > 0
    for back in back_at:
        assert first_finish_after(here, back) < BACK_MAX_S
