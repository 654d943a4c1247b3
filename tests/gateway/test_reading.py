"""Reading jobs: pages, filters, counts, history, long polls."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ledger.models.jobs import State
from tests.ledger.jobs import accept, claim, finish, new_job
from tests.waiting import within

if TYPE_CHECKING:
    import httpx
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.gateway.process import Gateway


async def test_a_job_shows_what_became_of_its_callbacks(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    job = new_job(callback_url="https://n8n.example/webhook", queue="critical")
    await accept(ledger, job)
    assert (await api.get(f"/api/v1/jobs/{job.id}")).json()["callbacks"] == []
    (claimed,) = await claim(ledger, queue="critical")
    await finish(ledger, claimed, State.SUCCEEDED)
    (report,) = await claim(ledger, queue="callback")
    await finish(ledger, report, State.FAILED, reason="the receiver responded with 410")
    (shown,) = (await api.get(f"/api/v1/jobs/{job.id}")).json()["callbacks"]
    assert shown["id"] == str(report.id)
    assert (shown["state"], shown["reason"]) == ("failed", "the receiver responded with 410")
    assert shown["counted"] == 1
    # A caller who tags a job alike has no callback of that other's.
    await accept(ledger, new_job(tags=(f"job:{job.id}",)))
    assert len((await api.get(f"/api/v1/jobs/{job.id}")).json()["callbacks"]) == 1


async def test_pages_hold_every_job_once(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    tag = uuid4().hex
    made = [new_job(tags=(tag,)) for _ in range(25)]
    await accept(ledger, *made)
    seen: list[str] = []
    query: dict[str, Any] = {"tag": tag, "limit": 10}
    while True:
        page = (await api.get("/api/v1/jobs", params=query)).json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert seen == sorted((str(job.id) for job in made), reverse=True)


async def test_filters_join(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    tag = uuid4().hex
    ready, scheduled, other = (
        new_job(tags=(tag, "x"), workflow_id="w"),
        new_job(tags=(tag,), delay_s=60),
        new_job(tags=(tag,), kind="test.other", queue="critical"),
    )
    await accept(ledger, ready, scheduled, other)

    async def found(**query: Any) -> set[str]:
        page = await api.get("/api/v1/jobs", params={"tag": tag} | query)
        assert page.status_code == 200, page.text
        return {job["id"] for job in page.json()["jobs"]}

    ids = {str(job.id) for job in (ready, scheduled, other)}
    assert await found() == ids
    assert await found(state="scheduled") == {str(scheduled.id)}
    assert await found(state=["scheduled", "ready"]) == ids
    assert await found(queue="critical") == {str(other.id)}
    assert await found(kind="test.other", state="ready") == {str(other.id)}
    assert await found(workflow_id="w") == {str(ready.id)}
    assert await found(created_from="2020-01-01T00:00:00Z") == ids
    assert await found(created_until="2020-01-01T00:00:00Z") == set()
    assert await found(created_from="2999-01-01T00:00:00Z") == set()
    stats = (await api.get("/api/v1/jobs/stats", params={"tag": tag})).json()
    assert stats["total"] == 3
    assert stats["states"] == {"ready": 2, "scheduled": 1}
    assert {"queue": "critical", "state": "ready", "jobs": 1} in stats["queues"]


async def test_a_wait_ends_with_the_job(gateway: Gateway, ledger: AsyncEngine) -> None:
    job = new_job(queue="vector")
    await accept(ledger, job)
    async with gateway.async_client("producer", timeout=30) as client:
        waiting = [
            asyncio.create_task(client.get(f"/api/v1/jobs/{job.id}?wait=20")) for _ in range(20)
        ]
        claimed = await claim(ledger, queue="vector")
        assert [c.id for c in claimed] == [job.id]
        assert not any(task.done() for task in waiting)
        await finish(ledger, claimed[0], State.SUCCEEDED, result={"n": 1})
        with within(2):
            answers = await asyncio.gather(*waiting)
    assert {answer.json()["state"] for answer in answers} == {"succeeded"}
    assert answers[0].json()["result"] == {"n": 1}


async def test_a_wait_ends_with_its_time(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    job = new_job()
    await accept(ledger, job)
    started = time.monotonic()
    answer = await api.get(f"/api/v1/jobs/{job.id}?wait=0.5")
    assert answer.json()["state"] == "ready"
    assert 0.4 < time.monotonic() - started < 5


async def test_the_history_tells_what_happened(
    gateway: Gateway, api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    job = new_job(queue="callback")
    await accept(ledger, job)
    claimed = (await claim(ledger, queue="callback"))[0]
    await finish(ledger, claimed, State.FAILED, reason="no", error={"type": "E", "message": "no"})
    events = (await api.get(f"/api/v1/jobs/{job.id}/events")).json()["events"]
    assert [e["to_state"] for e in events] == ["ready", "running", "failed"]
    assert events[-1]["error"]["type"] == "E"
    behind = await api.get(f"/api/v1/jobs/{job.id}/events?after={events[0]['seq']}&limit=1")
    assert [e["to_state"] for e in behind.json()["events"]] == ["running"]
    shown = (await api.get(f"/api/v1/jobs/{job.id}")).json()
    assert (shown["state"], shown["attempt"], shown["reason"]) == ("failed", 1, "no")
    assert UUID(shown["id"]) == job.id


async def test_kinds_have_schemas(api: httpx.AsyncClient) -> None:
    names = [kind["name"] for kind in (await api.get("/api/v1/kinds")).json()["kinds"]]
    assert "email.send" in names
    assert "relais.canary" not in names
    schema = (await api.get("/api/v1/kinds/email.send")).json()["payload_schema"]
    assert {"from", "to", "subject"} <= set(schema["properties"])


async def test_queues_are_shown(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    await accept(ledger, new_job(queue="critical"))
    queues = {q["name"]: q for q in (await api.get("/api/v1/queues")).json()["queues"]}
    assert set(queues) == {"critical", "template", "bulk", "vector", "callback"}
    assert queues["critical"]["ready"] >= 1
    assert queues["critical"]["oldest_ready_s"] >= 0
