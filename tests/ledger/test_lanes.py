"""Lanes in the ledger: who may be claimed, from where, and how much."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from ledger import ids, lanes, transitions
from ledger.models.jobs import State
from ledger.shapes import Wish
from tests.ledger.jobs import accept, claim, finish, new_job, path, row, sign_on

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


async def heads(engine: AsyncEngine, **asked: Any) -> list[lanes.Head]:
    async with engine.connect() as connection:
        return await lanes.look(connection, **({"queue": "bulk", "kinds": None} | asked))


async def take(engine: AsyncEngine, *wishes: Wish, **asked: Any) -> list[transitions.ClaimedJob]:
    values: dict[str, Any] = {
        "queue": "bulk", "wishes": wishes, "owner": ids.new(), "worker": "w", "colour": "blue",
        "version": "0", "lease_s": 60, "limit": 100,
    }  # fmt: skip
    values |= asked
    async with engine.begin() as connection:
        return await transitions.claim(connection, **values)


async def test_a_lane_is_the_tenant_or_what_its_job_depends_on(database: AsyncEngine) -> None:
    await accept(database, new_job(), new_job(tenant="acme", lane="acme/relay:main", priority=7))
    found = {(head.lane, head.kind, head.priority) for head in await heads(database)}
    assert found == {("default", "test.nothing", 5), ("acme/relay:main", "test.nothing", 7)}


def test_names_of_lanes_are_bounded_and_printable() -> None:
    assert lanes.name("acme") == "acme"
    assert lanes.name("acme", "relay:main") == "acme/relay:main"
    long = lanes.name("acme", "host:" + "x" * 5_000)
    assert len(long) == lanes.NAME_MAX_BYTES
    assert long != lanes.name("acme", "host:" + "x" * 5_001)
    assert lanes.name("acme", "a\x1b[31m\ud800\x00b").isprintable()
    assert lanes.tenant_of(long) == "acme"


@pytest.mark.parametrize("character", ["é", "語", "🐎"])
def test_names_of_lanes_are_bounded_in_bytes(character: str) -> None:
    """They are keys of indexes, which count bytes."""
    long = lanes.name("acme", "host:" + character * 100)
    assert len(long.encode()) <= lanes.NAME_MAX_BYTES
    assert long.startswith(f"acme/host:{character}")
    assert long != lanes.name("acme", "host:" + character * 101)
    kept = "host:" + character * 40
    assert lanes.name("acme", kept) == f"acme/{kept}"


@pytest.mark.parametrize("queue", ["bulk", lanes.ALL_QUEUES])
async def test_a_paused_lane_waits_until_it_is_resumed(database: AsyncEngine, queue: str) -> None:
    await accept(database, new_job(), new_job(tenant="acme"))
    async with database.begin() as connection:
        await lanes.pause(connection, queue=queue, lane="acme", by="ops", reason="a test")
    assert [head.lane for head in await heads(database)] == ["default"]
    async with database.begin() as connection:
        listed = await lanes.list_all(connection, queue="bulk", tenant="acme", limit=10)
        record = next(record for record in listed if record.queue == "bulk")
        assert (record.paused_by, record.reason, record.paused_until) == ("ops", "a test", None)
        assert await lanes.resume(connection, queue=queue, lane="acme")
        assert not await lanes.resume(connection, queue=queue, lane="acme")
    assert len(await heads(database)) == 2


async def test_a_group_is_looked_at_from_its_floor_on(database: AsyncEngine) -> None:
    """To the microsecond: what became ready at the floor is seen, what did before is not."""
    await accept(database, new_job(tenant="acme", priority=3), new_job(tenant="other"))
    found = {head.lane: head for head in await heads(database)}
    at = found["acme"].ready_at
    group = found["acme"].group
    assert {h.lane for h in await heads(database, floors={group: at})} == {"acme", "other"}
    later = {group: at + timedelta(microseconds=1)}
    assert {h.lane for h in await heads(database, floors=later)} == {"other"}
    elsewhere = {("acme", group[1], 4): at + timedelta(days=1)}
    assert {h.lane for h in await heads(database, floors=elsewhere)} == {"acme", "other"}


async def test_a_lane_that_is_paused_for_a_while_wakes_by_itself(database: AsyncEngine) -> None:
    await accept(database, new_job())
    async with database.begin() as connection:
        await lanes.pause(connection, lane="default", by="relay", reason="421", until_s=0.3)
    assert await heads(database) == []
    await asyncio.sleep(0.35)
    assert len(await heads(database)) == 1


async def held(engine: AsyncEngine, **asked: Any) -> lanes.Pause:
    """The pause that holds the lane after one more is asked for."""
    values = {"lane": "acme", "by": "ada", "reason": "a test"} | asked
    async with engine.begin() as connection:
        pause = await lanes.pause(connection, **values)
    assert pause is not None
    return pause


async def test_an_automatic_pause_leaves_an_operators_as_it_is(database: AsyncEngine) -> None:
    await accept(database, new_job(tenant="acme"))
    operators = await held(database, reason="a campaign went wrong")
    assert await held(database, by=lanes.RELAY, reason="421", until_s=0.1) == operators
    await asyncio.sleep(0.15)
    assert await heads(database) == []
    async with database.begin() as connection:
        assert await lanes.resume(connection, lane="acme")
    assert len(await heads(database)) == 1, "one resume lifts both"
    timed = await held(database, until_s=60)
    assert await held(database, by=lanes.RELAY, reason="421", until_s=5) == timed
    assert await held(database, by=lanes.RELAY, reason="535") == timed


@pytest.mark.parametrize("by", ["ada", lanes.RELAY])
async def test_a_pause_lengthens_and_never_shortens_one_of_its_side(
    database: AsyncEngine, by: str
) -> None:
    first = await held(database, by=by, until_s=60)
    assert await held(database, by=by, until_s=5) == first
    longer = await held(database, by=by, until_s=600, reason="longer")
    assert (longer.reason, longer.paused_at) == ("longer", first.paused_at)
    assert longer.paused_until
    assert first.paused_until
    assert longer.paused_until > first.paused_until
    for_good = await held(database, by=by, reason="for good")
    assert (for_good.reason, for_good.paused_until) == ("for good", None)
    assert await held(database, by=by, until_s=600) == for_good
    assert await held(database, by=by, reason="a second one") == for_good


async def test_an_operators_pause_takes_the_place_of_a_relays(database: AsyncEngine) -> None:
    """Else the operator's would end when the relay recovers."""
    await held(database, by=lanes.RELAY, reason="535")
    taken = await held(database, until_s=60)
    assert (taken.paused_by, taken.paused_until is None) == ("ada", False)


async def test_a_pause_after_one_that_is_over_begins_anew(database: AsyncEngine) -> None:
    over = await held(database, until_s=0.05)
    await asyncio.sleep(0.1)
    new = await held(database, by=lanes.RELAY, until_s=60)
    assert new.paused_by == lanes.RELAY
    assert over.paused_until
    assert new.paused_at > over.paused_until


async def test_a_resume_of_every_queue_lifts_what_was_paused_one_by_one(
    database: AsyncEngine,
) -> None:
    await accept(database, new_job(tenant="acme"))
    await held(database, queue="bulk", until_s=60)
    everywhere = await held(database)
    async with database.begin() as connection:
        assert await lanes.resume(connection, queue="bulk", lane="acme")
        assert await lanes.in_force(connection, queue="bulk", lane="acme") == everywhere
    assert await heads(database) == []
    await held(database, queue="bulk", until_s=60)
    async with database.begin() as connection:
        assert await lanes.resume(connection, lane="acme")
        assert await lanes.in_force(connection, queue="bulk", lane="acme") is None
    assert len(await heads(database)) == 1


async def test_a_pause_that_is_over_does_not_hide_one_that_holds(database: AsyncEngine) -> None:
    await accept(database, new_job(tenant="acme"))
    await held(database, queue="bulk", until_s=0.05)
    await held(database, until_s=60)
    await asyncio.sleep(0.1)
    assert await heads(database) == []


async def test_a_pause_in_every_queue_leaves_a_queues_weight_and_bound(
    database: AsyncEngine,
) -> None:
    await accept(database, new_job(tenant="acme"))
    async with database.begin() as connection:
        configure = lanes.configure
        await configure(connection, lane="acme", queue="bulk", running_max=7, weight=4)
        await lanes.pause(connection, lane="acme", by=lanes.RELAY, reason="421", until_s=60)
        await lanes.resume(connection, lane="acme")
    (head,) = await heads(database)
    assert (head.running_max, head.weight) == (7, 4.0)
    async with database.begin() as connection:
        await configure(connection, lane="acme", running_max=3, weight=2)
    (head,) = await heads(database)
    assert (head.running_max, head.weight) == (3, 8.0)


async def test_a_paused_queue_leaves_what_relais_gives_itself(database: AsyncEngine) -> None:
    await accept(database, new_job(), new_job(tenant="system"))
    async with database.begin() as connection:
        await connection.execute(
            text("INSERT INTO relais.queues (name, paused_at) VALUES ('bulk', now())")
        )
    assert [head.lane for head in await heads(database)] == ["system"]


async def test_a_kind_that_nobody_knows_is_never_looked_at(database: AsyncEngine) -> None:
    await accept(database, new_job(), new_job(kind="other.colours"))
    assert [h.kind for h in await heads(database, kinds=["test.nothing"])] == ["test.nothing"]
    assert await heads(database, kinds=[]) == []


async def test_nothing_is_claimed_by_a_worker_that_never_signed_on(database: AsyncEngine) -> None:
    job = new_job()
    await accept(database, job)
    owner = ids.new()
    wish = Wish("default", "test.nothing", 5, quota=10)
    assert await take(database, wish, owner=owner) == []
    assert (await row(database, job.id)).state == "ready"
    await sign_on(database, owner)
    assert [claimed.id for claimed in await take(database, wish, owner=owner)] == [job.id]


async def test_quotas_floors_and_limits(database: AsyncEngine) -> None:
    await accept(database, *(new_job() for _ in range(5)), *(new_job(tenant="b") for _ in range(5)))
    owner = ids.new()
    await sign_on(database, owner)
    a, b = (Wish(lane, "test.nothing", 5, quota=3) for lane in ("default", "b"))
    first = await take(database, a, b, owner=owner, limit=4)
    assert Counter(job.lane for job in first) == {"default": 3, "b": 1}
    later = Wish("b", "test.nothing", 5, quota=9, floor=datetime.now(UTC) + timedelta(hours=1))
    assert await take(database, later, owner=owner) == []
    assert len(await take(database, Wish("b", "test.nothing", 5, quota=9), owner=owner)) == 4


async def test_claimed_bytes_are_bounded(database: AsyncEngine) -> None:
    await accept(database, *(new_job(payload_bytes=400) for _ in range(5)))
    owner = ids.new()
    await sign_on(database, owner)
    wish = Wish("default", "test.nothing", 5, quota=5)
    sizes = [len(await take(database, wish, owner=owner, bytes_max=1_000)) for _ in range(3)]
    assert sizes == [3, 2, 0]  # the one that passes the bound comes along, the next does not


async def test_a_job_says_whether_its_deadline_has_passed(database: AsyncEngine) -> None:
    now = datetime.now(UTC)
    await accept(
        database,
        new_job(deadline=now - timedelta(seconds=1)),
        new_job(deadline=now + timedelta(hours=1)),
        new_job(),
    )
    assert [job.is_late for job in await claim(database)] == [True, False, False]


async def test_due_jobs_become_ready_the_urgent_first_and_from_every_lane(
    database: AsyncEngine,
) -> None:
    flood = [new_job(delay_s=60) for _ in range(300)]
    urgent, neighbour = new_job(delay_s=60, priority=9), new_job(delay_s=60, tenant="b")
    await accept(database, *flood, urgent, neighbour)
    async with database.begin() as connection:
        await connection.execute(text("UPDATE relais.jobs SET run_at = now() - interval '1 s'"))
        promote = transitions.promote
        promoted = await promote(connection, queue="bulk", limit=100, per_lane=50)
        assert (promoted.jobs, promoted.most) == (52, 50)
    for job in (urgent, neighbour):
        assert (await row(database, job.id)).state == "ready"


async def test_what_is_due_is_looked_for_from_where_the_last_look_ended(
    database: AsyncEngine,
) -> None:
    await accept(database, new_job(delay_s=0.001))
    late = datetime.now(UTC) + timedelta(seconds=5)
    await asyncio.sleep(0.01)
    async with database.begin() as connection:
        promote = transitions.promote
        assert (await promote(connection, queue="bulk", limit=9, since=late)).jobs == 0
        assert (await promote(connection, queue="bulk", limit=9)).jobs == 1


async def test_snoozes_in_a_row_are_one_event_and_have_an_end(database: AsyncEngine) -> None:
    job = new_job(max_attempts=1)
    await accept(database, job)
    for _ in range(5):
        (claimed,) = await claim(database)
        await finish(
            database, claimed, State.SCHEDULED, reason="relay stopped", delay_s=0, is_counted=False
        )
        async with database.begin() as connection:
            await transitions.promote(connection, queue="bulk", limit=1)
    assert await path(database, job.id) == ["ready", "running", "scheduled", "ready"]
    async with database.begin() as connection:
        events = await connection.execute(
            text("SELECT repeats, attempt FROM relais.job_events WHERE to_state = 'scheduled'")
        )
        assert [tuple(event) for event in events] == [(5, 5)]
        await connection.execute(
            text("UPDATE relais.jobs SET snoozed_since = now() - interval '4 days'")
        )
    (claimed,) = await claim(database)
    await finish(
        database, claimed, State.SCHEDULED, reason="relay stopped", delay_s=0, is_counted=False
    )
    ended = await row(database, job.id)
    assert ended.state == "failed"
    assert ended.reason.startswith("snoozed repeatedly since 20")
    assert ended.reason.endswith("; last: relay stopped")


async def test_a_snooze_after_a_counted_attempt_starts_anew(database: AsyncEngine) -> None:
    job = new_job()
    await accept(database, job)
    for is_counted in (False, True, False):
        (claimed,) = await claim(database)
        await finish(
            database, claimed, State.SCHEDULED, reason="x", delay_s=0, is_counted=is_counted
        )
        async with database.begin() as connection:
            await transitions.promote(connection, queue="bulk", limit=1)
    assert (await row(database, job.id)).snoozes == 1
    assert (await path(database, job.id)).count("scheduled") == 3


async def test_kinds_that_no_worker_knows_have_an_end(database: AsyncEngine) -> None:
    known, unknown, young = (new_job(kind=kind) for kind in ("a.known", "a.lost", "a.lost"))
    await accept(database, known, unknown, young)
    await sign_on(database, ids.new())
    async with database.begin() as connection:
        await connection.execute(text("UPDATE relais.workers SET kinds = '{a.known}'"))
        await connection.execute(
            text("UPDATE relais.jobs SET ready_at = now() - interval '2 days' WHERE id <> :id"),
            {"id": young.id},
        )
        expired = await transitions.expire_unknown_kinds(connection, older_than_s=86_400, limit=10)
    assert expired == [unknown.id]
    assert "no worker has known the kind a.lost" in (await row(database, unknown.id)).reason
