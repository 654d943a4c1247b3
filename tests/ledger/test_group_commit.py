"""A batch that Postgres refuses is taken apart: nobody pays for a neighbour, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger import outage, patience
from ledger.errors import LedgerUnavailable
from ledger.group_commit import MENDERS, TRIES, GroupCommit
from ledger.patience import Announcements
from tests.waiting import wait_for

TABLE = """
CREATE TABLE items (id int PRIMARY KEY, written int NOT NULL DEFAULT 0 CHECK (id <> 13));
INSERT INTO items SELECT n FROM generate_series(1000, 1999) AS n
"""
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$
"""
SLOWED = "CREATE TRIGGER slow BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION slow()"
UPDATE = text("UPDATE items SET written = written + 1 WHERE id = ANY(:ids) RETURNING id")
INSERT = text("INSERT INTO items SELECT unnest(CAST(:ids AS int[])) RETURNING id")


class Writer:
    """Commits batches of ids, and remembers how they went."""

    def __init__(self, database: AsyncEngine, statement: Any = UPDATE, *, first: str = "") -> None:
        self.database = database
        self.statement = statement
        self.first = first
        self.batches: list[list[int]] = []
        self.errors: list[str] = []

    async def __call__(self, ids: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(ids))
        try:
            async with self.database.begin() as connection:
                if self.first:
                    await connection.execute(text(self.first))
                found = await connection.execute(self.statement, {"ids": list(ids)})
                written = set(found.scalars())
        except DBAPIError as error:
            self.errors.append(outage.sqlstate(error))
            raise
        return [each if each in written else -1 for each in ids]


@pytest.fixture
async def items(database: AsyncEngine) -> AsyncEngine:
    async with database.begin() as connection:
        for statement in TABLE.split(";"):
            await connection.execute(text(statement))
    return database


@asynccontextmanager
async def locked(database: AsyncEngine, item: int) -> AsyncIterator[AsyncConnection]:
    """A transaction that holds the row of `item`."""
    async with database.connect() as connection:
        await connection.execute(
            text("SELECT * FROM items WHERE id = :id FOR UPDATE"), {"id": item}
        )
        yield connection


async def written(database: AsyncEngine) -> dict[int, int]:
    async with database.connect() as connection:
        return dict((await connection.execute(text("SELECT id, written FROM items"))).all())


@pytest.mark.parametrize("is_patient", [True, False])
async def test_an_items_own_fault_is_told_to_its_caller_alone(
    items: AsyncEngine, is_patient: bool
) -> None:
    write = Writer(items, INSERT)
    group = GroupCommit(write, is_patient=is_patient)
    futures = {n: group.enqueue(n) for n in range(500)}
    await group.flush()
    for n, future in futures.items():
        if n == 13:
            assert outage.is_own_fault(future.exception() or RuntimeError())
        else:
            assert future.result() == n
    assert len(write.batches) <= 40  # in parts, not one by one


async def test_several_at_fault_at_once(items: AsyncEngine) -> None:
    group = GroupCommit(Writer(items, INSERT), is_patient=True)
    at_fault = {13, 1000, 1400, 1999}  # these are there already
    futures = {n: group.enqueue(n) for n in (*range(200), *at_fault)}
    await group.flush()
    assert {n for n, future in futures.items() if future.exception()} == at_fault


async def test_an_item_that_waits_for_a_lock_does_not_hold_its_neighbours(
    items: AsyncEngine,
) -> None:
    write = Writer(items, first="SET LOCAL lock_timeout = '200ms'")
    group = GroupCommit(write, is_patient=True)
    async with locked(items, 1250) as holder:
        futures = {n: group.enqueue(n) for n in range(1000, 1500)}
        neighbours = [future for n, future in futures.items() if n != 1250]
        await asyncio.wait_for(asyncio.gather(*neighbours), 5)
        fresh = [group.enqueue(n) for n in range(1500, 1600)]
        await asyncio.wait_for(asyncio.gather(*fresh), 1)
        assert not futures[1250].done()
        await holder.rollback()
    assert await asyncio.wait_for(futures[1250], 10) == 1250
    counts = await written(items)
    assert all(counts[n] == 1 for n in range(1000, 1600))
    assert set(write.errors) == {"55P03"}


async def test_more_locked_items_than_menders_hold_nobody_up(items: AsyncEngine) -> None:
    group = GroupCommit(Writer(items, first="SET LOCAL lock_timeout = '100ms'"), is_patient=True)
    stuck = range(1000, 1000 + 3 * MENDERS)
    async with items.connect() as holder:
        await holder.execute(
            text("SELECT * FROM items WHERE id = ANY(:ids) FOR UPDATE"), {"ids": list(stuck)}
        )
        waiting = [group.enqueue(n) for n in stuck]
        others = [group.enqueue(n) for n in range(1500, 1700)]
        await asyncio.wait_for(asyncio.gather(*others), 10)
        assert not any(future.done() for future in waiting)
        await holder.rollback()
    await asyncio.wait_for(asyncio.gather(*waiting), 20)


async def test_without_patience_the_caller_of_a_locked_item_is_told_and_nobody_else(
    items: AsyncEngine,
) -> None:
    group = GroupCommit(Writer(items, first="SET LOCAL lock_timeout = '100ms'"))
    async with locked(items, 1100):
        futures = {n: group.enqueue(n) for n in range(1000, 1200)}
        await asyncio.wait(futures.values(), timeout=10)
    for n, future in futures.items():
        assert (_sqlstate(future) if n == 1100 else future.result()) == (
            "55P03" if n == 1100 else n
        )


async def test_a_batch_beyond_statement_timeout_is_made_smaller(items: AsyncEngine) -> None:
    """200 rows take 2 s where 0.5 s are allowed: as one batch they never end."""
    async with items.begin() as connection:
        await connection.execute(text(SLOW))
        await connection.execute(text(SLOWED))
    write = Writer(items, first="SET LOCAL statement_timeout = '500ms'")
    group = GroupCommit(write, is_patient=True)
    futures = [group.enqueue(n) for n in range(1000, 1200)]
    await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert set(write.errors) == {"57014"}
    assert all(count == 1 for n, count in (await written(items)).items() if n < 1200)


async def test_the_victim_of_a_deadlock_is_written_the_next_time(items: AsyncEngine) -> None:
    write = Writer(items, first="SET LOCAL deadlock_timeout = '50ms'")
    group = GroupCommit(write)  # even without patience
    async with items.connect() as other:
        await other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
        await other.execute(text("SELECT * FROM items WHERE id = 1001 FOR UPDATE"))
        first, second = group.enqueue(1000), group.enqueue(1001)  # locks 1000, waits for 1001
        await wait_for(lambda: _waits(items), what="ours waits for theirs")
        await other.execute(text("UPDATE items SET written = 5 WHERE id = 1000"))
        await other.commit()
    assert [*await asyncio.wait_for(asyncio.gather(first, second), 10)] == [1000, 1001]
    assert write.errors == ["40P01"]
    assert {n: (await written(items))[n] for n in (1000, 1001)} == {1000: 6, 1001: 1}


def _sqlstate(future: asyncio.Future[int]) -> str | None:
    error = future.exception()
    return None if error is None else outage.sqlstate(error)


async def _waits(database: AsyncEngine) -> bool:
    async with database.connect() as connection:
        found = await connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
        return bool(found.scalar_one())


def raising(state: str, *, times: int, then: Writer) -> Callable[[Sequence[int]], Any]:
    """A commit that Postgres refuses with `state` so many times."""
    left = [times]

    async def commit(ids: Sequence[int]) -> Sequence[int]:
        if left[0] > 0:
            left[0] -= 1
            async with then.database.begin() as connection:
                await connection.execute(
                    text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")
                )
        return await then(ids)

    return commit


async def test_a_lost_race_is_run_again(items: AsyncEngine) -> None:
    write = Writer(items)
    group = GroupCommit(raising("40001", times=TRIES - 1, then=write))
    assert await asyncio.wait_for(group.submit(1000), 10) == 1000


@pytest.mark.parametrize("state", ["25006", "57P03", "53300", "53100", "55P03", "42P01", "XX001"])
async def test_whatever_passes_is_waited_for_and_nothing_is_written_twice(
    items: AsyncEngine, state: str
) -> None:
    write = Writer(items)
    group = GroupCommit(raising(state, times=3, then=write), is_patient=True)
    futures = [group.enqueue(n) for n in range(1000, 1050)]
    await asyncio.wait_for(asyncio.gather(*futures), 20)
    assert all(count == (n < 1050) for n, count in (await written(items)).items())


@pytest.mark.parametrize("state", ["25006", "57P03", "53300", "42P01"])
async def test_without_patience_all_are_told_at_once(items: AsyncEngine, state: str) -> None:
    write = Writer(items)
    group = GroupCommit(raising(state, times=1_000, then=write))
    futures = [group.enqueue(n) for n in range(1000, 1010)]
    await asyncio.wait_for(group.flush(), 5)
    assert {_sqlstate(future) for future in futures} == {state}
    assert write.batches == []


async def test_a_commit_with_a_patience_of_its_own_is_believed() -> None:
    calls = []

    async def commit(ids: Sequence[int]) -> Sequence[int]:
        calls.append(ids)
        message = "Postgres does not respond."
        raise LedgerUnavailable(message)

    group = GroupCommit(commit, is_patient=True)
    futures = [group.enqueue(n) for n in range(50)]
    await group.flush()
    assert all(isinstance(future.exception(), LedgerUnavailable) for future in futures)
    assert len(calls) == 1


async def test_what_is_no_error_of_postgres_is_told_to_whoever_causes_it(
    items: AsyncEngine,
) -> None:
    write = Writer(items)

    async def commit(ids: Sequence[int]) -> Sequence[int]:
        if 1007 in ids:
            raise KeyError(1007)
        return await write(ids)

    group = GroupCommit(commit, is_patient=True)
    futures = {n: group.enqueue(n) for n in range(1000, 1100)}
    await asyncio.wait(futures.values(), timeout=10)
    assert [n for n, future in futures.items() if future.exception()] == [1007]


async def test_whoever_gave_up_while_it_waited_is_never_written(items: AsyncEngine) -> None:
    write = Writer(items)
    tried = asyncio.Event()
    open_again = asyncio.Event()

    async def commit(ids: Sequence[int]) -> Sequence[int]:
        if not open_again.is_set():
            tried.set()
            raise ConnectionRefusedError
        return await write(ids)

    group = GroupCommit(commit, is_patient=True)
    gone, stays = group.enqueue(1000), group.enqueue(1001)
    await tried.wait()
    gone.cancel()
    open_again.set()
    assert await stays == 1001
    counts = await written(items)
    assert (counts[1000], counts[1001]) == (0, 1)


async def test_a_batch_is_no_larger_than_a_message_may_be(items: AsyncEngine) -> None:
    write = Writer(items)
    group = GroupCommit(write, batch_max_bytes=100, weigh=lambda n: 500 if n == 1010 else 30)
    await asyncio.gather(*(group.enqueue(n) for n in range(1000, 1020)))
    assert [len(batch) for batch in write.batches] == [3, 3, 3, 1, 1, 3, 3, 3]


def test_every_class_of_error_is_said_at_once_and_then_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now[0]))
    said: list[tuple[float, str, int]] = []
    announcements = Announcements(
        lambda error, failures: said.append((now[0] - 1_000, type(error).__name__, failures))
    )
    for _ in range(2_000):  # 400 s
        announcements.failed(ConnectionRefusedError())
        if now[0] >= 1_010:
            announcements.failed(TimeoutError())
        now[0] += 0.2
    refused = [at for at, name, _ in said if name == "ConnectionRefusedError"]
    assert refused[:4] == pytest.approx([0, 1, 3, 7], abs=0.5)
    gaps = [later - at for at, later in pairwise(refused)]
    assert max(gaps) <= 60.5
    assert refused[-1] > 330
    assert next(at for at, name, _ in said if name == "TimeoutError") == pytest.approx(10, abs=0.3)
    now[0] += 3_600  # it was over for an hour: the next time it is news
    announcements.failed(ConnectionRefusedError())
    assert said[-1] == (now[0] - 1_000, "ConnectionRefusedError", 1)
