"""Somebody holds a lock: who has to wait for it, and who must not."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
from sqlalchemy import text

from ledger import transitions
from tests.ledger.jobs import accept, new_job
from tests.waiting import wait_for, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.shapes import NewJob
    from tests.gateway.process import Gateway

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
AT_ONCE_S = 1.5  # a request that waits for nobody; generous, for a machine that is shared
# Postgres would end it after ten seconds, in the middle of a test on a machine that is shared.
FROZEN = text("SET LOCAL idle_in_transaction_session_timeout = 0")


@asynccontextmanager
async def locked(ledger: AsyncEngine, job: NewJob) -> AsyncIterator[None]:
    """Somebody holds the row of `job`."""
    async with ledger.begin() as connection:
        await connection.execute(FROZEN)
        lock = text("SELECT FROM relais.jobs WHERE id = :id FOR UPDATE")
        await connection.execute(lock, {"id": job.id})
        yield


@asynccontextmanager
async def held_keys(ledger: AsyncEngine, *keys: str) -> AsyncIterator[None]:
    """A gateway that is frozen between its INSERT and its COMMIT; then it is gone."""
    async with ledger.connect() as connection:
        await connection.execute(FROZEN)
        jobs = [new_job(idempotency_key=key, request_hash=b"another body") for key in keys]
        await transitions.accept(connection, jobs)
        yield
        await connection.rollback()


async def post(api: httpx.AsyncClient, **more: Any) -> tuple[int, float]:
    """The status of one hand-over and the seconds that it took."""
    started = time.monotonic()
    answer = await api.post("/api/v1/jobs", json=JOB | more)
    return answer.status_code, time.monotonic() - started


async def are_taken_at_once(api: httpx.AsyncClient, *, count: int = 10, **more: Any) -> None:
    """Hand jobs over one after the other and all at once: nobody waits."""
    for _ in range(count):
        with within(AT_ONCE_S):
            assert (await post(api, **more))[0] == 202
    with within(AT_ONCE_S):
        answers = await asyncio.gather(*(post(api, **more) for _ in range(count)))
    assert {status for status, _ in answers} == {202}


async def is_held_up(api: httpx.AsyncClient, ledger: AsyncEngine) -> bool:
    """Whether the gateway waits for somebody's lock just now, in Postgres or by itself."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database() AND application_name = 'relais gateway'"
    )
    async with ledger.connect() as connection:
        if (await connection.execute(statement)).scalar_one():
            return True
    parts = (await api.get("/health/ready")).json()["parts"]
    return bool(parts.get("intake", {}).get("blocked"))


async def test_a_locked_parent_holds_up_its_children_alone(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    parent = new_job()
    await accept(ledger, parent)
    async with locked(ledger, parent):
        child = asyncio.create_task(post(api, depends_on=[str(parent.id)]))
        await wait_for(lambda: is_held_up(api, ledger))
        await are_taken_at_once(api)
        other = new_job()
        await accept(ledger, other)
        await are_taken_at_once(api, count=3, depends_on=[str(other.id)])
        status, took_s = await child
        assert status == 503
        assert took_s < 6
    assert (await post(api, depends_on=[str(parent.id)]))[0] == 202


async def test_a_child_is_accepted_as_soon_as_its_parent_is_free(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    parent = new_job()
    await accept(ledger, parent)
    async with locked(ledger, parent):
        children = [asyncio.create_task(post(api, depends_on=[str(parent.id)])) for _ in range(20)]
        await wait_for(lambda: is_held_up(api, ledger))
        await are_taken_at_once(api, count=3)
        assert not any(child.done() for child in children)
    with within(AT_ONCE_S):
        assert {status for status, _ in await asyncio.gather(*children)} == {202}


async def test_a_key_held_by_a_frozen_gateway_holds_up_that_key_alone(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    keys = [uuid4().hex for _ in range(20)]
    async with held_keys(ledger, *keys):
        held = [asyncio.create_task(post(api, idempotency_key=key)) for key in keys]
        await wait_for(lambda: is_held_up(api, ledger))
        await are_taken_at_once(api)
        for _ in range(5):
            with within(AT_ONCE_S):
                assert (await post(api, idempotency_key=uuid4().hex))[0] == 202
        answers = await asyncio.gather(*held)
        assert {status for status, _ in answers} == {503}
        assert max(took_s for _, took_s in answers) < 6
        again = asyncio.create_task(post(api, idempotency_key=keys[0]))
        await wait_for(lambda: is_held_up(api, ledger))
    assert (await again)[0] == 202


async def test_a_lock_costs_a_batch_only_the_jobs_that_meet_it(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    parent, key = new_job(), uuid4().hex
    await accept(ledger, parent)
    batch = [dict(JOB) for _ in range(60)]
    batch[7] |= {"depends_on": [str(parent.id)]}
    batch[9] |= {"idempotency_key": key}
    batch[11] |= {"idempotency_key": uuid4().hex}
    batch[50] |= {"idempotency_key": key}
    async with locked(ledger, parent), held_keys(ledger, key):
        sending = asyncio.create_task(api.post("/api/v1/jobs/batch", json=batch))
        await wait_for(lambda: is_held_up(api, ledger))
        await are_taken_at_once(api, count=3)
        answer = await sending
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["refused"]) == (57, 3)
    assert [(e["index"], e["code"]) for e in told["errors"]] == [
        (7, "ledger_unavailable"),
        (9, "ledger_unavailable"),
        (50, "ledger_unavailable"),
    ]
    assert [j["index"] for j in told["jobs"]] == [i for i in range(60) if i not in {7, 9, 50}]


async def test_a_batch_that_meets_nothing_but_locks_is_asked_to_come_again(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    key = uuid4().hex
    async with held_keys(ledger, key):
        started = time.monotonic()
        answer = await api.post("/api/v1/jobs/batch", json=[JOB | {"idempotency_key": key}] * 1_200)
        assert time.monotonic() - started < 8  # three slices, one patience
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert (answer.json()["accepted"], answer.json()["refused"]) == (0, 1_200)


async def test_however_many_wait_for_locks_others_have_a_connection(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    parents = [new_job() for _ in range(3)]
    await accept(ledger, *parents)
    async with locked(ledger, parents[0]), locked(ledger, parents[1]), locked(ledger, parents[2]):
        since = time.monotonic()
        batch = [JOB | {"depends_on": [str(parent.id)]} for parent in parents]
        waiting = [
            *(asyncio.create_task(api.post("/api/v1/jobs/batch", json=batch)) for _ in range(12)),
            *(
                asyncio.create_task(api.post(f"/api/v1/jobs/{parent.id}/{verb}"))
                for verb in ("cancel", "cancel", "cancel", "cancel", "cancel")
                for parent in parents
            ),
            *(
                asyncio.create_task(
                    api.post("/api/v1/jobs", json=JOB | {"depends_on": [str(p.id)]})
                )
                for _ in range(10)
                for p in parents
            ),
        ]
        await wait_for(lambda: is_held_up(api, ledger))
        await are_taken_at_once(api)
        with within(3 * AT_ONCE_S):
            assert (await api.post("/api/v1/jobs/batch", json=[JOB] * 50)).status_code == 202
            assert (await api.get("/api/v1/jobs?limit=1")).status_code == 200
            assert (await api.get("/health/ready")).status_code == 200
        answers = await asyncio.gather(*waiting)
        assert time.monotonic() - since < 10
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"ledger_unavailable"}


async def test_ready_says_when_intake_stands_still(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    async def intake() -> tuple[int, str]:
        answer = await api.get("/health/ready")
        return answer.status_code, answer.json()["parts"]["intake"]["status"]

    assert await intake() == (200, "ok")
    async with ledger.begin() as connection:
        await connection.execute(FROZEN)
        await connection.execute(text("LOCK TABLE relais.jobs IN EXCLUSIVE MODE"))
        refused = asyncio.create_task(post(api))

        async def stands_still() -> bool:
            return await intake() == (503, "stands still")

        await wait_for(stands_still, within_s=6)
        assert (await refused)[0] == 503
        # Nobody waits any more, and nothing says that the next one would be taken.
        assert await intake() == (503, "stands still")
    assert (await post(api))[0] == 202
    await wait_for(lambda: is_ok(intake))


async def is_ok(intake: Any) -> bool:
    return bool(await intake() == (200, "ok"))


async def test_ready_counts_those_who_wait_for_a_lock(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    parent = new_job()
    await accept(ledger, parent)
    async with locked(ledger, parent):
        child = asyncio.create_task(post(api, depends_on=[str(parent.id)]))

        async def is_told() -> bool:
            answer = await api.get("/health/ready")
            intake = answer.json()["parts"]["intake"]
            return (answer.status_code, intake["status"], intake["blocked"]) == (200, "ok", 1)

        await wait_for(is_told, within_s=4)
    assert (await child)[0] == 202


async def test_a_lane_that_somebody_is_opening_holds_up_its_own_jobs_alone(
    gateway: Gateway, api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    """The registry of lanes has one row for each: whoever writes it first keeps it until COMMIT."""
    key = await asyncio.to_thread(gateway.make_key, "producer", tenant="newcomer")
    async with (
        httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}, timeout=30) as theirs,
        ledger.connect() as connection,
    ):
        await connection.execute(FROZEN)
        first = new_job(tenant="newcomer", queue="template", kind=JOB["kind"])
        await transitions.accept(connection, [first])
        jobs = [asyncio.create_task(post(theirs)) for _ in range(20)]
        await wait_for(lambda: is_held_up(api, ledger))
        await are_taken_at_once(api)
        await connection.rollback()
        assert {status for status, _ in await asyncio.gather(*jobs)} == {202}
