"""Parents and children in the shapes and numbers that callers choose."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import text

from ledger import parents, transitions
from ledger.models.jobs import State
from tests.ledger.jobs import accept, claim, finish, new_job, row
from tests.waiting import slowdown, within

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

STATES = text("SELECT state::text, count(*) FROM relais.jobs GROUP BY state")


async def states(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        return {row[0]: row[1] for row in await connection.execute(STATES)}


async def chain(engine: AsyncEngine, *, depth: int, **fields: object) -> list[UUID]:
    """A job, its child, its child's child ... written as if by many callers."""
    made = [new_job(**fields)]
    await accept(engine, made[0])
    for _ in range(depth):
        child = new_job(depends_on=(made[-1].id,), **fields)
        await accept(engine, child)
        made.append(child)
    return [job.id for job in made]


async def test_cancelling_the_head_of_a_chain_of_a_thousand_ends_it_in_one_go(
    database: AsyncEngine,
) -> None:
    head, *_ = await chain(database, depth=1_000)
    with within(4.0):  # in which the gateway answers
        async with database.begin() as connection:
            state = await transitions.cancel(connection, tenant="default", job_id=head, by="ops")
    assert state is State.CANCELLED
    assert await states(database) == {"cancelled": 1_001}


async def test_seven_hundred_behind_a_failing_head_fail_with_it_and_no_neighbour_does(
    database: AsyncEngine,
) -> None:
    await chain(database, depth=700)
    neighbours = [new_job() for _ in range(22)]
    await accept(database, *neighbours)
    head, *others = await claim(database, limit=23)
    items = [
        transitions.Finish(head.id, head.attempt, State.FAILED, reason="no"),
        *(transitions.Finish(job.id, job.attempt, State.SUCCEEDED) for job in others),
    ]
    async with database.begin() as connection:
        assert all((await transitions.finish(connection, items)).written)
    assert await states(database) == {"failed": 701, "succeeded": 22}


async def test_a_chain_ends_where_a_child_runs_without_its_parent(database: AsyncEngine) -> None:
    head, *_, last = await chain(database, depth=5)
    release = new_job(depends_on=(last,), on_parent_failure="release")
    after = new_job(depends_on=(release.id,))
    await accept(database, release)
    await accept(database, after)
    async with database.begin() as connection:
        await transitions.cancel(connection, tenant="default", job_id=head, by="ops")
    assert (await row(database, release.id)).state == "ready"
    assert (await row(database, after.id)).state == "blocked"
    reason = (await row(database, last)).reason
    assert reason.startswith("parent job ")
    assert reason.endswith(" cancelled")


async def test_a_child_of_a_failed_parent_is_born_failed_and_calls_back(
    database: AsyncEngine,
) -> None:
    parent = new_job()
    await accept(database, parent)
    (claimed,) = await claim(database)
    await finish(database, claimed, State.FAILED, reason="no")
    child = new_job(depends_on=(parent.id,), callback_url="https://n8n.example/x")
    (accepted,) = await accept(database, child)
    assert accepted.state is State.FAILED
    assert (await row(database, child.id)).reason == f"parent job {parent.id} failed"
    (callback,) = await claim(database, queue="callback")
    assert callback.payload["body"]["type"] == "job.failed"


async def test_siblings_are_accepted_side_by_side(database: AsyncEngine) -> None:
    """A child's POST shares the parent's lock with other children, and locks no sibling."""
    parent = new_job()
    await accept(database, parent)
    await accept(database, new_job(depends_on=(parent.id,)))
    async with database.begin() as first, database.begin() as second:
        one, two = new_job(depends_on=(parent.id,)), new_job(depends_on=(parent.id,))
        for connection, job in ((first, one), (second, two)):
            await connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
            (accepted,) = await transitions.accept(connection, [job])
            assert accepted.state is State.BLOCKED


async def test_the_ten_thousandth_sibling_costs_what_the_first_did(database: AsyncEngine) -> None:
    parent = new_job()
    await accept(database, parent)

    async def median_s(count: int) -> float:
        took = []
        for _ in range(count):
            started = time.monotonic()
            await accept(database, new_job(depends_on=(parent.id,)))
            took.append(time.monotonic() - started)
        return sorted(took)[count // 2]

    await median_s(10)
    first = await median_s(30)
    for _ in range(10):
        await accept(database, *(new_job(depends_on=(parent.id,)) for _ in range(1_000)))
    assert await median_s(30) < 3 * first + 0.005 * slowdown()


async def test_a_fan_in_of_many_by_many_is_taken_down_link_by_link(database: AsyncEngine) -> None:
    fathers = [new_job() for _ in range(176)]
    await accept(database, *fathers)
    started = time.monotonic()
    for _ in range(10):
        children = [
            new_job(queue="critical", depends_on=tuple(f.id for f in fathers)) for _ in range(100)
        ]
        await accept(database, *children)
    claimed = await claim(database, limit=176)
    for each in (claimed[:-1], claimed[-1:]):
        items = [transitions.Finish(job.id, job.attempt, State.SUCCEEDED) for job in each]
        async with database.begin() as connection:
            await transitions.finish(connection, items)
        left = await states(database)
        assert left.get("blocked", 0) == (
            1_000 if each is not claimed[-1:] and len(each) > 1 else 0
        )
    assert left == {"succeeded": 176, "ready": 1_000}
    assert time.monotonic() - started < 30


@pytest.mark.timeout(120)
async def test_finishing_parents_and_adopting_them_never_deadlocks(database: AsyncEngine) -> None:
    for _ in range(60):
        family = [new_job() for _ in range(12)]
        await accept(database, *family)
        claimed = await claim(database, limit=12)

        async def end(jobs: list[transitions.ClaimedJob]) -> None:
            items = [transitions.Finish(job.id, job.attempt, State.SUCCEEDED) for job in jobs]
            async with database.begin() as connection:
                await transitions.finish(connection, items)

        async def adopt(of: list[UUID]) -> None:
            await accept(database, *(new_job(queue="critical", depends_on=tuple(of)) for _ in of))

        everybody = [job.id for job in family]
        await asyncio.gather(
            end(claimed[::2]), end(claimed[1::2]), adopt(everybody), adopt(everybody[::-1])
        )
    assert await states(database) == {"succeeded": 60 * 12, "ready": 60 * 24}


async def test_a_locked_parent_is_given_up_after_a_while(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents, "PATIENCE_S", 0.3)
    parent = new_job()
    await accept(database, parent)
    async with database.begin() as holding:
        await holding.execute(
            text("SELECT FROM relais.jobs WHERE id = :id FOR UPDATE"), {"id": parent.id}
        )
        with pytest.raises(parents.ParentBusy):
            await accept(database, new_job(depends_on=(parent.id,)))
    (accepted,) = await accept(database, new_job(depends_on=(parent.id,)))
    assert accepted.state is State.BLOCKED


async def test_bulk_retry_runs_no_child_before_its_parent(database: AsyncEngine) -> None:
    parent = new_job()
    child = new_job(depends_on=(parent.id,))
    grandchild = new_job(depends_on=(child.id, parent.id))
    for job in (parent, child, grandchild):
        await accept(database, job)
    (claimed,) = await claim(database)
    await finish(database, claimed, State.FAILED, reason="no")
    everybody = [grandchild.id, child.id, parent.id]
    assert await states(database) == {"failed": 3}
    async with database.begin() as connection:
        retried = await transitions.retry(connection, tenant="default", job_ids=everybody, by="ops")
    assert {job_id for job_id, _, _ in retried} == set(everybody)
    for expected in (parent, child, grandchild):
        (claimed,) = await claim(database)
        assert claimed.id == expected.id
        await finish(database, claimed, State.SUCCEEDED)
    assert await states(database) == {"succeeded": 3}


async def test_a_parent_that_ends_twice_counts_once(database: AsyncEngine) -> None:
    """Failed, retried, succeeded: a child that also waits for another is not freed by it."""
    mother, father = new_job(), new_job()
    await accept(database, mother, father)
    child = new_job(depends_on=(mother.id, father.id), on_parent_failure="release")
    await accept(database, child)
    first, second = await claim(database)
    await finish(database, first, State.FAILED, reason="no")
    async with database.begin() as connection:
        await transitions.retry(connection, tenant="default", job_ids=[first.id], by="ops")
    (again,) = await claim(database)
    await finish(database, again, State.SUCCEEDED)
    assert (await row(database, child.id)).state == "blocked"
    await finish(database, second, State.SUCCEEDED)
    assert (await row(database, child.id)).state == "ready"


async def test_an_unknown_parent_holds_its_child_until_it_is_settled(database: AsyncEngine) -> None:
    parent = new_job()
    await accept(database, parent)
    await accept(database, child := new_job(depends_on=(parent.id,)))
    (claimed,) = await claim(database)
    await finish(database, claimed, State.UNKNOWN, reason="after the dot")
    late = new_job(depends_on=(parent.id,))
    (accepted,) = await accept(database, late)
    assert accepted.state is State.BLOCKED
    async with database.begin() as connection:
        await transitions.resolve(
            connection, tenant="default", job_id=parent.id, as_state=State.SUCCEEDED, by="ops"
        )
    assert (await row(database, child.id)).state == "ready"
    assert (await row(database, late.id)).state == "ready"


async def test_children_whose_parents_ended_untold_are_found(database: AsyncEngine) -> None:
    """The release before closes no links; a sweep does it for those that it left behind."""
    parent = new_job()
    await accept(database, parent)
    await accept(database, child := new_job(depends_on=(parent.id,)))
    async with database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE relais.jobs SET state = 'succeeded', ready_at = NULL,"
                " finished_at = clock_timestamp() WHERE id = :id"
            ),
            {"id": parent.id},
        )
        after, woken = await transitions.settle_blocked(connection, after=UUID(int=0), limit=100)
    assert after == child.id
    assert [job.id for job in woken] == [child.id]
    assert (await row(database, child.id)).state == "ready"


async def test_a_chain_longer_than_a_slice_is_swept_slice_by_slice(database: AsyncEngine) -> None:
    parent = new_job()
    await accept(database, parent)
    await accept(database, *(new_job(depends_on=(parent.id,)) for _ in range(25)))
    after: UUID | None = UUID(int=0)
    slices = 0
    while after is not None:
        async with database.begin() as connection:
            after, woken = await transitions.settle_blocked(connection, after=after, limit=10)
        assert woken == []
        slices += after is not None
    assert slices == 3
    assert (await row(database, UUID(int=parent.id.int))).state == "ready"
