"""One job gets in: committed, routed, traced, and once per key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.gateway.process import Gateway

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def row(ledger: AsyncEngine, job_id: str) -> dict[str, Any]:
    async with ledger.connect() as connection:
        result = await connection.execute(
            text("SELECT * FROM relais.jobs JOIN relais.job_bodies ON job_id = id WHERE id = :id"),
            {"id": job_id},
        )
        return dict(result.mappings().one())


async def test_the_answer_is_the_committed_job(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    answer = await api.post("/api/v1/jobs", json=JOB | {"priority": 9, "tags": ["a", "ü"]})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}" == job["links"]["self"]
    kept = await row(ledger, job["id"])
    assert (kept["state"], kept["queue"], kept["priority"]) == ("ready", "template", 9)
    assert kept["payload"] == {"mode": "ok"}
    assert kept["tags"] == ["a", "ü"]
    assert kept["accepted_by"].startswith("rls_")
    assert kept["created_at"] == datetime.fromisoformat(job["created_at"])
    assert (await api.get(job["links"]["self"])).json()["state"] == "ready"


async def test_every_field_is_kept(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    parent = (await api.post("/api/v1/jobs", json=JOB)).json()["id"]
    asked = JOB | {
        "queue": "bulk",
        "priority": 0,
        "timeout_s": 12.5,
        "max_attempts": 4,
        "callback_url": "https://n8n.example.org/webhook-waiting/1?a=b",
        "workflow_id": "w-1",
        "depends_on": [parent, parent],
        "on_parent_failure": "release",
        "run_at": "2999-01-01T00:00:00+02:00",
    }
    kept = await row(ledger, (await api.post("/api/v1/jobs", json=asked)).json()["id"])
    for name in ("queue", "priority", "timeout_s", "max_attempts", "callback_url", "workflow_id"):
        assert kept[name] == asked[name]
    assert kept["state"] == "blocked"
    assert kept["on_parent_failure"] == "release"
    assert kept["run_at"] == datetime(2998, 12, 31, 22, tzinfo=UTC)
    shown = (await api.get(f"/api/v1/jobs/{kept['id']}?payload=true")).json()
    assert shown["depends_on"] == [parent]
    assert shown["payload"] == asked["payload"]


async def test_a_job_waits_in_the_lane_of_what_it_depends_on(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    mail = {"from": "a@example.org", "to": ["b@example.org"], "subject": "s", "text": "t"}
    asked = {"kind": "email.send", "payload": mail}
    sent = await row(ledger, (await api.post("/api/v1/jobs", json=asked)).json()["id"])
    other = await row(ledger, (await api.post("/api/v1/jobs", json=JOB)).json()["id"])
    batch = (await api.post("/api/v1/jobs/batch", json=[asked, JOB])).json()["jobs"]
    assert (sent["lane"], other["lane"]) == ("default/relay:default", "default")
    assert [(await row(ledger, job["id"]))["lane"] for job in batch] == [
        "default/relay:default",
        "default",
    ]
    shown = await api.get(f"/api/v1/jobs/{sent['id']}")
    assert shown.json()["lane"] == "default/relay:default"
    assert 100 < sent["payload_bytes"] < 200
    assert 30 < other["payload_bytes"] < 80


async def test_a_delay_schedules(api: httpx.AsyncClient) -> None:
    job = (await api.post("/api/v1/jobs", json=JOB | {"delay_s": 3600})).json()
    assert job["state"] == "scheduled"
    ahead = datetime.fromisoformat(job["run_at"]) - datetime.fromisoformat(job["created_at"])
    assert abs(ahead - timedelta(hours=1)) < timedelta(seconds=1)


async def test_routing_decides_where_nothing_is_wished(api: httpx.AsyncClient) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    urgent = (await api.post("/api/v1/jobs", json=JOB | {"deadline": soon})).json()
    bulk = (await api.post("/api/v1/jobs", json=JOB | {"workflow_id": "bulk-may"})).json()
    assert (urgent["queue"], bulk["queue"]) == ("critical", "bulk")


async def test_the_callers_trace_goes_on(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    headers = {"traceparent": TRACEPARENT, "x-trace-id": "order-17"}
    answer = await api.post("/api/v1/jobs", json=JOB, headers=headers)
    kept = await row(ledger, answer.json()["id"])
    assert (
        kept["trace_id"] == answer.json()["trace_id"] == answer.headers["x-trace-id"] == "order-17"
    )
    assert kept["traceparent"][3:35] == TRACEPARENT[3:35]
    assert kept["traceparent"][36:52] != TRACEPARENT[36:52]
    assert answer.headers["traceparent"] == kept["traceparent"]


async def test_a_broken_traceparent_starts_a_new_trace(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/v1/jobs", json=JOB, headers={"traceparent": "00-zz"})
    assert answer.status_code == 202
    assert answer.json()["trace_id"] == answer.headers["traceparent"][3:35]


async def test_one_key_one_job(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    key = uuid4().hex
    answers = await asyncio.gather(
        *(
            api.post("/api/v1/jobs", json=JOB | {"idempotency_key": key})
            if number % 2
            else api.post("/api/v1/jobs", json=JOB, headers={"idempotency-key": key})
            for number in range(100)
        )
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 99
    async with ledger.connect() as connection:
        count = text("SELECT count(*) FROM relais.jobs WHERE idempotency_key = :key")
        assert (await connection.execute(count, {"key": key})).scalar_one() == 1


async def test_another_body_under_the_same_key_is_refused(api: httpx.AsyncClient) -> None:
    key = uuid4().hex
    first = (await api.post("/api/v1/jobs", json=JOB, headers={"idempotency-key": key})).json()
    other = await api.post(
        "/api/v1/jobs", json=JOB | {"priority": 1}, headers={"idempotency-key": key}
    )
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_conflict"
    assert other.json()["first_job"] == first["id"]


async def test_the_same_body_written_differently_is_the_same(api: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": uuid4().hex, "content-type": "application/json"}
    one = await api.post(
        "/api/v1/jobs",
        content=b'{"kind":"test.scripted_async","payload":{"mode":"ok","text":"\\u00e9"}}',
        headers=headers,
    )
    two = await api.post(
        "/api/v1/jobs",
        content='{ "payload": {"text": "é", "mode": "ok"}, "kind": "test.scripted_async" }'.encode(),
        headers=headers,
    )
    assert one.json()["id"] == two.json()["id"]
    assert two.headers["idempotency-replayed"] == "true"


async def test_tenants_do_not_share_keys_or_parents(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    key = await asyncio.to_thread(gateway.make_key, "admin", tenant="other")
    mine = await api.post("/api/v1/jobs", json=JOB, headers={"idempotency-key": "shared"})
    async with httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}) as other:
        theirs = await other.post("/api/v1/jobs", json=JOB, headers={"idempotency-key": "shared"})
        assert theirs.status_code == 202
        assert theirs.json()["id"] != mine.json()["id"]
        child = await other.post("/api/v1/jobs", json=JOB | {"depends_on": [mine.json()["id"]]})
        assert child.status_code == 422
        assert child.json()["code"] == "parent_unknown"


async def test_accepted_jobs_are_counted(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await api.post("/api/v1/jobs", json=JOB)
    async with httpx.AsyncClient(base_url=gateway.url) as anyone:
        metrics = (await anyone.get("/metrics")).text
    assert 'relais_jobs_accepted_total{kind="test.scripted_async",queue="template"}' in metrics
    assert 'relais_queue_jobs{queue="template",state="ready"}' in metrics
