"""Lanes through the API: list, pause, resume, bound and weigh them."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from ledger import lanes
from tests.ledger.jobs import accept, claim, new_job, path, row
from tests.waiting import slowdown, wait_for
from tests.workers.process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.gateway.process import Gateway

WHY = {"reason": "a test"}


@pytest.fixture
async def operator(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.async_client("operator", timeout=30) as client:
        yield client


@pytest.fixture
def lane() -> str:
    """A lane that no other test uses."""
    return f"default/relay:{uuid4().hex}"


async def shown(client: httpx.AsyncClient, lane: str, **asked: Any) -> dict[str, dict[str, Any]]:
    """What the list says about one lane, by queue."""
    answer = await client.get("/api/v1/lanes", params={"prefix": lane} | asked)
    assert answer.status_code == 200, answer.text
    return {found["queue"]: found for found in answer.json()["lanes"]}


async def post(client: httpx.AsyncClient, verb: str, lane: str, **asked: Any) -> dict[str, Any]:
    answer = await client.post(f"/api/v1/lanes/{verb}", json={"lane": lane} | asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def scripted(
    ledger: AsyncEngine, *, count: int = 1, seconds: float = 0.0, **fields: Any
) -> list[UUID]:
    """Jobs that a worker on the queue `template` runs."""
    values = {"kind": "test.scripted_async", "queue": "template"} | fields
    new = [new_job(payload={"seconds": seconds}, **values) for _ in range(count)]
    await accept(ledger, *new)
    return [job.id for job in new]


async def reaches(ledger: AsyncEngine, jobs: list[UUID], *, within_s: float = 20.0) -> None:
    async def done() -> bool:
        return all([(await row(ledger, job)).state == "succeeded" for job in jobs])

    await wait_for(done, within_s=within_s, what=f"{len(jobs)} jobs succeed")


async def test_a_paused_lane_rests_its_neighbour_runs_and_resume_wakes_it_at_once(
    gateway: Gateway, operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    paused = await post(operator, "pause", lane, **WHY)
    assert (paused["paused"], paused["reason"], paused["paused_until"]) == (True, "a test", None)
    assert paused["paused_by"].startswith("rls_")
    parked = await scripted(ledger, count=5, lane=lane)
    neighbours = await scripted(ledger, count=5, lane="default/relay:good")
    # A worker that would look by itself only after half a minute: what wakes it is the doorbell.
    with WorkerProcess(gateway.settings, poll_s=30):
        await reaches(ledger, neighbours)
        assert [await path(ledger, job) for job in parked] == [["ready"]] * 5
        found = (await shown(operator, lane))["template"]
        assert (found["ready"], found["ready_is_more"], found["running"]) == (5, False, 0)
        assert found["reason"] == "a test"
        assert (await post(operator, "resume", lane))["paused"] is False
        await reaches(ledger, parked, within_s=5)


async def test_a_bound_that_is_set_holds_and_one_that_is_lifted_is_gone(
    gateway: Gateway, operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    body = {"lane": lane, "queue": "template", "running_max": 2, "weight": 0.5}
    for _ in range(2):
        answer = await operator.put("/api/v1/lanes/settings", json=body)
        assert (answer.status_code, answer.json()) == (200, body)
    bounded = await scripted(ledger, count=8, seconds=0.4, lane=lane)
    most = 0
    with WorkerProcess(gateway.settings):
        while (await row(ledger, bounded[-1])).state != "succeeded":
            found = (await shown(operator, lane))["template"]
            assert (found["running_max"], found["weight"]) == (2, 0.5)
            most = max(most, found["running"])
        assert 1 <= most <= 2
        assert (await operator.put("/api/v1/lanes/settings", json={"lane": lane, "queue": "template"})).json()["running_max"] is None  # fmt: skip
        free = await scripted(ledger, count=8, seconds=1, lane=lane)

        async def runs_wide() -> bool:
            return bool((await shown(operator, lane))["template"]["running"] > 2)

        await wait_for(runs_wide)
        await reaches(ledger, free)


async def test_a_weight_shows_where_it_was_set_and_in_every_queue(
    operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    await accept(ledger, new_job(lane=lane), new_job(lane=lane, queue="critical"))
    await operator.put("/api/v1/lanes/settings", json={"lane": lane, "weight": 4})
    own = {"lane": lane, "queue": "bulk", "weight": 2.5}
    await operator.put("/api/v1/lanes/settings", json=own)
    weights = {queue: found["weight"] for queue, found in (await shown(operator, lane)).items()}
    assert weights == {"*": 4, "bulk": 10, "critical": 4}
    async with ledger.connect() as connection:
        heads = await lanes.look(connection, queue="bulk", kinds=None)
    assert [head.weight for head in heads if head.lane == lane] == [10]


async def test_a_lane_without_jobs_can_be_paused_and_holds_its_first(
    operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    await post(operator, "pause", lane, queue="vector", **WHY)
    assert list(await shown(operator, lane)) == ["vector"]
    await accept(ledger, new_job(lane=lane, queue="vector"))
    assert await claim(ledger, queue="vector") == []
    await post(operator, "resume", lane, queue="vector")
    assert len(await claim(ledger, queue="vector")) == 1


async def test_the_same_pause_twice_is_one_and_a_shorter_one_changes_nothing(
    operator: httpx.AsyncClient, lane: str
) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    sooner = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    first = await post(operator, "pause", lane, until=until, **WHY)
    assert await post(operator, "pause", lane, until=until, **WHY) == first
    assert await post(operator, "pause", lane, until=sooner, reason="shorter") == first
    assert (await post(operator, "pause", lane, reason="for good"))["paused_until"] is None
    for _ in range(2):
        assert (await post(operator, "resume", lane))["paused"] is False
    assert await shown(operator, lane) == {}


async def test_a_pause_of_an_operators_outlives_the_relays_and_one_resume_lifts_both(
    operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    async def relay(until_s: float | None) -> None:
        async with ledger.begin() as connection:
            await lanes.pause(connection, lane=lane, by=lanes.RELAY, reason="421", until_s=until_s)

    await relay(60)
    first = await post(operator, "pause", lane, **WHY)
    assert (first["reason"], first["paused_until"]) == ("a test", None)
    await relay(60)
    await relay(None)
    assert (await shown(operator, lane))["*"]["reason"] == "a test"
    await accept(ledger, new_job(lane=lane, queue="vector"))
    assert await claim(ledger, queue="vector") == []
    assert (await post(operator, "resume", lane))["paused"] is False
    assert len(await claim(ledger, queue="vector")) == 1


async def test_a_resume_of_one_queue_says_that_every_queue_is_still_paused(
    operator: httpx.AsyncClient, lane: str
) -> None:
    await post(operator, "pause", lane, queue="bulk", reason="bulk alone")
    await post(operator, "pause", lane, reason="everywhere")
    left = await post(operator, "resume", lane, queue="bulk")
    assert (left["paused"], left["reason"]) == (True, "everywhere")
    await post(operator, "pause", lane, queue="bulk", reason="bulk alone")
    assert (await post(operator, "resume", lane))["paused"] is False
    assert (await post(operator, "resume", lane, queue="bulk"))["paused"] is False


async def test_operators_who_pause_and_resume_at_once_leave_one_state(
    operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    await asyncio.gather(*(post(operator, "pause", lane, reason=f"r{n}") for n in range(20)))
    (found,) = (await shown(operator, lane)).values()
    assert found["reason"].startswith("r")
    both = [post(operator, "pause", lane, **WHY) for _ in range(10)]
    both += [post(operator, "resume", lane) for _ in range(10)]
    await asyncio.gather(*both)
    assert (await post(operator, "resume", lane))["paused"] is False
    async with ledger.connect() as connection:
        counted = text("SELECT count(*) FROM relais.lane_settings WHERE lane = :lane")
        assert (await connection.execute(counted, {"lane": lane})).scalar_one() == 1


async def test_pages_filters_and_the_next_page(
    operator: httpx.AsyncClient, ledger: AsyncEngine, lane: str
) -> None:
    names = [f"{lane}-{number:02}" for number in range(7)]
    await accept(ledger, *(new_job(lane=name, queue=q) for name in names for q in ("bulk", "critical")))  # fmt: skip
    await post(operator, "pause", names[3], **WHY)
    seen: list[tuple[str, str]] = []
    after: dict[str, str] = {}
    while True:
        asked = {"prefix": lane, "limit": "4"} | after
        page = (await operator.get("/api/v1/lanes", params=asked)).json()
        seen += [(found["lane"], found["queue"]) for found in page["lanes"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == sorted(
        [(name, q) for name in names for q in ("bulk", "critical")] + [(names[3], "*")]
    )
    params = {"prefix": lane, "queue": "critical"}
    listed = (await operator.get("/api/v1/lanes", params=params)).json()["lanes"]
    assert [found["queue"] for found in listed].count("critical") == 7
    assert {found["queue"] for found in listed} == {"*", "critical"}


MANY = """
INSERT INTO relais.jobs (id, tenant, lane, kind, queue, state, max_attempts, timeout_s, ready_at)
SELECT gen_random_uuid(), 'many', 'many/host:h' || lpad(g.lane::text, 5, '0'), 'test.nothing',
       'callback', 'ready', 1, 10, now()
FROM (SELECT n % 10000 AS lane FROM generate_series(1, 20000) AS n
      UNION ALL SELECT 8 FROM generate_series(1, 500)) AS g
"""


async def test_ten_thousand_lanes_are_listed_once_each_and_every_page_is_quick(
    operator: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    async with ledger.begin() as connection:
        await connection.execute(text(MANY))
    seen: list[dict[str, Any]] = []
    took_s: list[float] = []
    after = {"tenant": "many"}
    while True:
        started = time.monotonic()
        answer = await operator.get("/api/v1/lanes", params={"limit": 200, **after})
        took_s.append(time.monotonic() - started)
        assert answer.status_code == 200, (answer.text, len(seen), took_s[-1])
        page = answer.json()
        seen += page["lanes"]
        if page["next"] is None:
            break
        after["after"] = page["next"]
    assert [found["lane"] for found in seen] == [f"many/host:h{n:05}" for n in range(10_000)]
    assert (seen[7]["ready"], seen[7]["ready_is_more"]) == (2, False)
    assert (seen[8]["ready"], seen[8]["ready_is_more"]) == (lanes.READY_SEEN, True)
    assert statistics.median(took_s) < 0.1 * slowdown()


async def test_a_tenant_sees_and_changes_its_own_lanes_alone(
    gateway: Gateway, operator: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    await accept(ledger, *(new_job(tenant=t) for t in ("acme", "acme-2", "default")))
    await accept(ledger, new_job(tenant="acme", lane="acme/relay:main"))
    key = await asyncio.to_thread(gateway.make_key, "operator", tenant="acme")
    async with httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}) as acme:
        for params in ({}, {"tenant": "acme"}, {"prefix": "acme"}):
            listed = (await acme.get("/api/v1/lanes", params=params)).json()["lanes"]
            assert [found["lane"] for found in listed] == ["acme", "acme/relay:main"]
        other = await acme.get("/api/v1/lanes", params={"tenant": "acme-2"})
        assert (other.status_code, other.json()["code"]) == (403, "default_tenant_only")
        assert (await post(acme, "pause", "acme/relay:main", **WHY))["paused"] is True
        assert (await post(acme, "resume", "acme/relay:main"))["paused"] is False
        own = await acme.put("/api/v1/lanes/settings", json={"lane": "acme", "running_max": 3})
        assert own.status_code == 200
        for lane in ("default", "acme-2", "acme-2/relay:main", "ac"):
            for answer in (
                await acme.post("/api/v1/lanes/pause", json={"lane": lane, **WHY}),
                await acme.post("/api/v1/lanes/resume", json={"lane": lane}),
                await acme.put("/api/v1/lanes/settings", json={"lane": lane, "weight": 2}),
            ):
                problem = answer.json()
                assert (answer.status_code, problem["code"]) == (403, "default_tenant_only"), lane
                assert (problem["field"], bool(problem["remedy"])) == ("lane", True)
    assert (await post(operator, "pause", "acme-2", **WHY))["paused"] is True
    await post(operator, "resume", "acme-2")
    listed = (await operator.get("/api/v1/lanes", params={"tenant": "acme"})).json()["lanes"]
    assert {found["lane"] for found in listed} == {"acme", "acme/relay:main"}


async def test_a_viewer_sees_and_does_not_touch(gateway: Gateway, lane: str) -> None:
    async with gateway.async_client("viewer") as viewer:
        assert (await viewer.get("/api/v1/lanes")).status_code == 200
        refused = await viewer.post("/api/v1/lanes/pause", json={"lane": lane, **WHY})
        assert (refused.status_code, refused.json()["code"]) == (403, "role_missing")


LONG = "default/host:" + "x" * 188
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("pause", {}, "reason"),
        ("pause", {**WHY, "reason": ""}, "reason"),
        ("pause", {**WHY, "reason": "x" * 201}, "reason"),
        ("pause", {**WHY, "reason": "a\x00b"}, "reason"),
        ("pause", {**WHY, "until": YESTERDAY}, "until"),
        ("pause", {**WHY, "until": 4_000_000_000}, "until"),
        ("pause", {**WHY, "until": "2030-01-01"}, "until"),
        ("pause", {**WHY, "until": "9999-12-31T23:59:59Z"}, "until"),
        ("pause", {**WHY, "queue": "nope"}, "queue"),
        ("pause", {**WHY, "queue": "*"}, "queue"),
        ("pause", {**WHY, "lane": ""}, "lane"),
        ("pause", {**WHY, "lane": LONG}, "lane"),
        ("pause", {**WHY, "lane": "default/host:" + "\U0001f600" * 188}, "lane"),
        ("pause", {**WHY, "lane": "default/relay:a\x00b"}, "lane"),
        ("pause", {**WHY, "lane": "default/relay:a\nb"}, "lane"),
        ("pause", {**WHY, "lane": "default/"}, "lane"),
        ("pause", {**WHY, "lane": "/relay:main"}, "lane"),
        ("pause", {**WHY, "lane": "Not A Tenant"}, "lane"),
        ("pause", {**WHY, "lane": "system"}, "lane"),
        ("pause", {**WHY, "lane": 7}, "lane"),
        ("pause", {**WHY, "unheard_of": 1}, "unheard_of"),
        ("resume", {"lane": LONG}, "lane"),
        ("resume", {"queue": "nope"}, "queue"),
        ("resume", {"reason": "why not"}, "reason"),
        ("settings", {"running_max": 0}, "running_max"),
        ("settings", {"running_max": -1}, "running_max"),
        ("settings", {"running_max": 2**31}, "running_max"),
        ("settings", {"running_max": 1.5}, "running_max"),
        ("settings", {"running_max": "3"}, "running_max"),
        ("settings", {"weight": 0}, "weight"),
        ("settings", {"weight": -1}, "weight"),
        ("settings", {"weight": 1e-50}, "weight"),
        ("settings", {"weight": 1_001}, "weight"),
        ("settings", {"weight": 1e308}, "weight"),
        ("settings", {"weight": "1"}, "weight"),
        ("settings", {"weight": None}, "weight"),
        ("settings", {"queue": "nope"}, "queue"),
    ],
)
async def test_what_cannot_be_is_refused_by_its_name(
    operator: httpx.AsyncClient, verb: str, body: dict[str, Any], field: str
) -> None:
    method = "PUT" if verb == "settings" else "POST"
    asked = {"lane": "default/relay:main"} | body
    answer = await operator.request(method, f"/api/v1/lanes/{verb}", json=asked)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "value_invalid"), answer.text
    assert (problem["field"], bool(problem["detail"] and problem["remedy"])) == (field, True)


@pytest.mark.parametrize(
    "content",
    [
        '{"lane": "default", "weight": NaN}',
        '{"lane": "default", "weight": Infinity}',
        '{"lane": "default\\ud800", "weight": 1}',
        '{"lane": "default", "weight": 1e400}',
        '["default"]',
        "",
    ],
)
async def test_what_is_no_json_for_it_is_refused(operator: httpx.AsyncClient, content: str) -> None:
    headers = {"content-type": "application/json"}
    answer = await operator.put("/api/v1/lanes/settings", content=content, headers=headers)
    assert answer.status_code in {400, 422}
    assert answer.json()["remedy"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("queue=nope", "queue"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("tenant=A%20B", "tenant"),
        ("prefix=" + "x" * 201, "prefix"),
        ("after=nonsense", "after"),
        ("lane=default", "lane"),
    ],
)
async def test_a_list_refuses_what_it_does_not_know(
    operator: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await operator.get(f"/api/v1/lanes?{query}")
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_who_paused_a_lane_and_why_is_in_the_log(
    gateway: Gateway, operator: httpx.AsyncClient, lane: str
) -> None:
    await post(operator, "pause", lane, reason="the audit asks")
    await post(operator, "resume", lane)
    written = [line for line in gateway.log.read_text().splitlines() if lane in line]
    paused = next(line for line in written if "lane.paused" in line)
    assert "the audit asks" in paused
    assert "rls_" in paused
    assert any("lane.resumed" in line for line in written)
