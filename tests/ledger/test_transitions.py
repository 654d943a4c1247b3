"""Each transition on a real Postgres, and the races that fences exist for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger import ids, transitions
from ledger.errors import NotFound, WrongState
from ledger.models.jobs import State
from tests.ledger.jobs import accept, claim, finish, new_job, path, row


async def test_happy_path_is_recorded(database: AsyncEngine) -> None:
    job = new_job()
    (accepted,) = await accept(database, job)
    assert (accepted.state, accepted.is_new) == (State.READY, True)
    (claimed,) = await claim(database)
    assert (claimed.id, claimed.attempt, claimed.tries_left) == (job.id, 1, 2)
    assert await finish(database, claimed, State.SUCCEEDED, result={"ok": "é"})
    assert (await row(database, job.id)).result == {"ok": "é"}
    assert await path(database, job.id) == ["ready", "running", "succeeded"]


async def test_scheduled_by_delay_and_by_time(database: AsyncEngine) -> None:
    late, timed, past = (
        new_job(delay_s=60),
        new_job(run_at=datetime.now(UTC) + timedelta(hours=1)),
        new_job(run_at=datetime.now(UTC) - timedelta(hours=1)),
    )
    states = [accepted.state for accepted in await accept(database, late, timed, past)]
    assert states == [State.SCHEDULED, State.SCHEDULED, State.READY]
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.jobs SET run_at = now() - interval '1 s' WHERE id = :id"),
            {"id": late.id},
        )
        assert (await transitions.promote(connection, queue="bulk", limit=10)).jobs == 1
    assert (await row(database, late.id)).state == "ready"


async def test_claim_takes_urgent_first_then_oldest(database: AsyncEngine) -> None:
    jobs = [new_job(priority=priority) for priority in (5, 9, 5, 0)]
    await accept(database, *jobs)
    claimed = await claim(database)
    assert [job.priority for job in claimed] == [9, 5, 5, 0]


async def test_two_claims_never_share_a_job(database: AsyncEngine) -> None:
    await accept(database, *(new_job() for _ in range(200)))
    batches = await asyncio.gather(*(claim(database, limit=30) for _ in range(8)))
    claimed = [job.id for batch in batches for job in batch]
    assert len(claimed) == len(set(claimed)) == 200


async def test_paused_queue_is_not_claimed(database: AsyncEngine) -> None:
    await accept(database, new_job())
    async with database.begin() as connection:
        await connection.execute(
            text("INSERT INTO relais.queues (name, paused_at) VALUES ('bulk', now())")
        )
    assert await claim(database) == []


async def test_stale_finish_changes_nothing(database: AsyncEngine) -> None:
    job = new_job()
    await accept(database, job)
    (first,) = await claim(database)
    async with database.begin() as connection:
        await transitions.reclaim(connection, dead=[(await row(database, job.id)).owner])
    (second,) = await claim(database)
    assert second.attempt == first.attempt + 1
    assert not await finish(database, first, State.SUCCEEDED)
    assert not await finish(database, first, State.FAILED, reason="late")
    assert not await finish(database, first, State.SCHEDULED, delay_s=1)
    assert not await finish(database, first, State.READY)
    assert (await row(database, job.id)).state == "running"
    assert await finish(database, second, State.SUCCEEDED)


async def test_reclaim_loses_to_a_finish(database: AsyncEngine) -> None:
    job = new_job()
    await accept(database, job)
    (claimed,) = await claim(database)
    owner = (await row(database, job.id)).owner
    async with database.begin() as finishing:
        item = transitions.Finish(claimed.id, claimed.attempt, State.SUCCEEDED)
        assert (await transitions.finish(finishing, [item])).written == [True]
        async with database.begin() as reclaiming:
            assert (await transitions.reclaim(reclaiming, dead=[owner])).ready == ()
    assert (await row(database, job.id)).state == "succeeded"


async def test_four_kills_of_a_worker_condemn_no_job_that_ran_alone(
    database: AsyncEngine,
) -> None:
    job = new_job(max_attempts=1)
    await accept(database, job)
    for death in range(5):
        (claimed,) = await claim(database)
        assert claimed.tries_left == 0
        assert (claimed.alone, claimed.deaths) == (death > 0, 0)
        async with database.begin() as connection:
            back = await transitions.reclaim(connection, dead=[(await row(database, job.id)).owner])
        assert back.quarantined == ()
    (claimed,) = await claim(database)
    assert await finish(database, claimed, State.SUCCEEDED)


async def test_release_costs_no_attempt_and_three_own_deaths_are_poison(
    database: AsyncEngine,
) -> None:
    job = new_job(max_attempts=1)
    await accept(database, job)
    (claimed,) = await claim(database)
    assert await finish(database, claimed, State.READY, reason="shutting down")
    for death, is_own in enumerate([True, False, True, True]):
        (claimed,) = await claim(database)
        assert claimed.tries_left == 0
        assert (claimed.alone, claimed.deaths) == (death > 0, [0, 1, 1, 2][death])
        async with database.begin() as connection:
            back = await transitions.reclaim(
                connection, died=[claimed.fence], counted=is_own, reason="signal 9"
            )
    assert back.quarantined == ((job.id, "bulk", "test.nothing"),)
    poisoned = await row(database, job.id)
    assert poisoned.state == "failed"
    assert poisoned.reason == (
        "poison: it ended the process of its own that ran it, 3 times (attempts 2, 4, 5);"
        " last: signal 9"
    )


async def test_expired_lease_is_reclaimed(database: AsyncEngine) -> None:
    job = new_job()
    await accept(database, job)
    owner = ids.new()
    await claim(database, owner=owner)
    async with database.begin() as connection:
        assert (await transitions.reclaim(connection, overdue=[owner])).ready == ()
        await connection.execute(
            text("UPDATE relais.jobs SET lease_until = now() - interval '1 s'")
        )
        assert (await transitions.reclaim(connection, overdue=[ids.new()])).ready == ()
        back = await transitions.reclaim(connection, overdue=[owner])
    assert back.ready == ((job.id, "bulk", "test.nothing"),)


async def test_strays_are_given_back(database: AsyncEngine) -> None:
    known, stray = new_job(), new_job()
    await accept(database, known, stray)
    owner = ids.new()
    claimed = await claim(database, owner=owner)
    held = next(job.fence for job in claimed if job.id == known.id)
    async with database.begin() as connection:
        assert await transitions.release_strays(connection, owner=owner, held=[held]) == [stray.id]
    assert (await row(database, known.id)).state == "running"


async def test_idempotency_key(database: AsyncEngine) -> None:
    first = new_job(idempotency_key="k", request_hash=b"a")
    again = new_job(idempotency_key="k", request_hash=b"a")
    other = new_job(idempotency_key="k", request_hash=b"b")
    foreign = new_job(idempotency_key="k2", request_hash=b"a")
    answers = await accept(database, first, again, other, foreign)
    assert [a.id for a in answers] == [first.id, first.id, first.id, foreign.id]
    assert [a.is_new for a in answers] == [True, False, False, True]
    assert [a.is_conflict for a in answers] == [False, False, True, False]


async def test_same_key_from_many_writers_is_one_job(database: AsyncEngine) -> None:
    async def write(order: int) -> list[transitions.Accepted]:
        keys = ["a", "b", "c"] if order % 2 else ["c", "b", "a"]
        jobs = [new_job(idempotency_key=key, request_hash=b"h") for key in keys]
        return await accept(database, *jobs)

    answers = await asyncio.gather(*(write(order) for order in range(8)))
    assert len({a.id for batch in answers for a in batch}) == 3


async def test_children_wait_for_all_parents(database: AsyncEngine) -> None:
    mother, father = new_job(), new_job()
    child = new_job(depends_on=(mother.id, father.id))
    *_, accepted = await accept(database, mother, father), (await accept(database, child))[0]
    assert accepted.state is State.BLOCKED
    first, second = await claim(database)
    await finish(database, first, State.SUCCEEDED)
    assert (await row(database, child.id)).state == "blocked"
    await finish(database, second, State.SUCCEEDED)
    assert (await row(database, child.id)).state == "ready"


async def test_parents_that_finish_at_once_unblock_the_child(database: AsyncEngine) -> None:
    for _ in range(10):
        parents = [new_job() for _ in range(4)]
        await accept(database, *parents)
        child = new_job(queue="critical", depends_on=tuple(p.id for p in parents))
        await accept(database, child)
        claimed = await claim(database)
        await asyncio.gather(*(finish(database, job, State.SUCCEEDED) for job in claimed))
        assert (await row(database, child.id)).state == "ready"


@pytest.mark.parametrize(("policy", "end"), [("fail", "failed"), ("release", "ready")])
async def test_failed_parent(database: AsyncEngine, policy: str, end: str) -> None:
    parent = new_job()
    child = new_job(depends_on=(parent.id,), on_parent_failure=policy)
    grandchild = new_job(depends_on=(child.id,), on_parent_failure="fail")
    await accept(database, parent)
    await accept(database, child)
    await accept(database, grandchild)
    (claimed,) = await claim(database)
    await finish(database, claimed, State.FAILED, reason="no")
    assert (await row(database, child.id)).state == end
    expected = "failed" if policy == "fail" else "blocked"
    assert (await row(database, grandchild.id)).state == expected


async def test_child_of_a_finished_parent_starts_at_once(database: AsyncEngine) -> None:
    parent = new_job()
    await accept(database, parent)
    (claimed,) = await claim(database)
    await finish(database, claimed, State.SUCCEEDED)
    (accepted,) = await accept(database, new_job(depends_on=(parent.id,)))
    assert accepted.state is State.READY


async def test_missing_and_foreign_parents_are_refused(database: AsyncEngine) -> None:
    ghost = ids.new()
    (accepted,) = await accept(database, new_job(depends_on=(ghost,)))
    assert accepted.missing_parents == (ghost,)


async def test_callback_is_written_with_the_end(database: AsyncEngine) -> None:
    job = new_job(callback_url="https://n8n.example/webhook", tags=("t",), workflow_id="7")
    await accept(database, job)
    (claimed,) = await claim(database)
    await finish(database, claimed, State.FAILED, reason="no such user")
    (callback,) = await claim(database, queue="callback")
    assert callback.payload["url"] == job.callback_url
    body = callback.payload["body"]
    assert body["type"] == "job.failed"
    assert body["data"] | {"id": str(job.id), "reason": "no such user"} == body["data"]


async def test_cancel_retry_resolve(database: AsyncEngine) -> None:
    waiting, running, doubtful = new_job(), new_job(priority=9), new_job(priority=8)
    await accept(database, waiting, running, doubtful)
    first, second = await claim(database, limit=2)
    async with database.begin() as connection:
        cancel = transitions.cancel
        args = {"tenant": "default", "by": "ops"}
        assert await cancel(connection, job_id=waiting.id, **args) is State.CANCELLED
        assert await cancel(connection, job_id=running.id, **args) is State.RUNNING
        with pytest.raises(WrongState, match="cancelled and cannot be cancelled"):
            await cancel(connection, job_id=waiting.id, **args)
        with pytest.raises(NotFound):
            await cancel(connection, job_id=waiting.id, tenant="other", by="ops")
    assert first.id == running.id
    assert await finish(database, second, State.UNKNOWN, reason="lost after the dot")
    async with database.begin() as connection:
        await transitions.resolve(
            connection,
            tenant="default",
            job_id=doubtful.id,
            as_state=State.SUCCEEDED,
            by="ops",
            note="the customer has it",
        )
        assert await transitions.retry(
            connection, tenant="default", job_ids=[waiting.id, doubtful.id], by="ops"
        ) == [(waiting.id, "bulk", "test.nothing")]
    (again,) = await claim(database)
    assert (again.id, again.tries_left) == (waiting.id, 2)
    assert await path(database, doubtful.id) == ["ready", "running", "unknown", "succeeded"]


async def test_retry_after_all_attempts_has_a_full_set_again(database: AsyncEngine) -> None:
    job = new_job(max_attempts=2)
    await accept(database, job)
    (claimed,) = await claim(database)
    assert claimed.tries_left == 1
    await finish(database, claimed, State.FAILED, reason="no", error={"type": "E"})
    async with database.begin() as connection:
        await transitions.retry(connection, tenant="default", job_ids=[job.id], by="ops")
    (again,) = await claim(database)
    assert (again.attempt, again.tries_left) == (2, 1)


async def test_enum_matches_the_database(database: AsyncEngine) -> None:
    async with database.connect() as connection:
        labels = await connection.execute(text("SELECT unnest(enum_range(NULL::relais.job_state))"))
        assert list(labels.scalars()) == [state.value for state in State]
