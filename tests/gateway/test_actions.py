"""What operators do: retry, cancel, resolve, pause, suppress, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from ledger import relay_states
from ledger.models.jobs import State
from tests.ledger.jobs import accept, claim, finish, new_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.shapes import NewJob
    from tests.gateway.process import Gateway


@pytest.fixture
async def operator(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.async_client("operator", timeout=30) as client:
        yield client


async def ended(ledger: AsyncEngine, state: State, **fields: Any) -> NewJob:
    """A job that ended in `state`."""
    job = new_job(queue="vector", priority=9, **fields)
    await accept(ledger, job)
    claimed = next(c for c in await claim(ledger, queue="vector", limit=100) if c.id == job.id)
    assert await finish(ledger, claimed, state, reason="as told")
    return job


async def state_of(client: httpx.AsyncClient, job: NewJob) -> str:
    return str((await client.get(f"/api/v1/jobs/{job.id}")).json()["state"])


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.UNKNOWN])
async def test_retry(operator: httpx.AsyncClient, ledger: AsyncEngine, state: State) -> None:
    job = await ended(ledger, state)
    answer = await operator.post(f"/api/v1/jobs/{job.id}/retry")
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    assert await state_of(operator, job) == "ready"
    again = await operator.post(f"/api/v1/jobs/{job.id}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "wrong_state")
    assert again.json()["remedy"]


async def test_cancel(operator: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    job = new_job()
    await accept(ledger, job)
    assert (await operator.post(f"/api/v1/jobs/{job.id}/cancel")).json()["state"] == "cancelled"
    assert (await operator.post(f"/api/v1/jobs/{job.id}/cancel")).status_code == 409
    events = (await operator.get(f"/api/v1/jobs/{job.id}/events")).json()["events"]
    assert events[-1]["reason"].startswith("cancelled by rls_")


async def test_cancelling_a_running_job_asks_it_to_stop(
    operator: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    job = new_job(queue="vector", priority=9)
    await accept(ledger, job)
    await claim(ledger, queue="vector", limit=100)
    assert (await operator.post(f"/api/v1/jobs/{job.id}/cancel")).json()["state"] == "running"
    shown = (await operator.get(f"/api/v1/jobs/{job.id}")).json()
    assert shown["cancel_requested_at"]


@pytest.mark.parametrize("state", ["succeeded", "failed", "ready"])
async def test_resolve(operator: httpx.AsyncClient, ledger: AsyncEngine, state: str) -> None:
    job = await ended(ledger, State.UNKNOWN)
    body = {"state": state, "note": "seen in the mailbox"}
    answer = await operator.post(f"/api/v1/jobs/{job.id}/resolve", json=body)
    assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert await state_of(operator, job) == state
    events = (await operator.get(f"/api/v1/jobs/{job.id}/events")).json()["events"]
    assert "seen in the mailbox" in events[-1]["reason"]
    assert (await operator.post(f"/api/v1/jobs/{job.id}/resolve", json=body)).status_code == 409


async def test_resolve_is_for_unknown_jobs_only(
    operator: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    job = await ended(ledger, State.FAILED)
    answer = await operator.post(f"/api/v1/jobs/{job.id}/resolve", json={"state": "ready"})
    assert answer.status_code == 409
    assert await state_of(operator, job) == "failed"


async def test_bulk_retry(operator: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    tag = uuid4().hex
    failed = [await ended(ledger, State.FAILED, tags=(tag,)) for _ in range(5)]
    unknown = await ended(ledger, State.UNKNOWN, tags=(tag,))
    body: dict[str, Any] = {"filter": {"tag": tag}, "limit": 3, "dry_run": True}
    dry = (await operator.post("/api/v1/jobs/retry", json=body)).json()
    assert dry == {"matched": 3, "retried": 0, "dry_run": True}
    assert {await state_of(operator, job) for job in failed} == {"failed"}
    wet = (await operator.post("/api/v1/jobs/retry", json=body | {"dry_run": False})).json()
    assert (wet["matched"], wet["retried"]) == (3, 3)
    rest = (await operator.post("/api/v1/jobs/retry", json={"filter": {"tag": tag}})).json()
    assert rest["retried"] == 2
    assert await state_of(operator, unknown) == "unknown"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filter": {"state": ["running"]}},
        {"filter": {"state": []}},
        {"filter": {"unheard": 1}},
        {"filter": {}, "limit": 0},
        {"filter": {}, "dry_run": "no"},
    ],
)
async def test_bulk_retry_refuses_what_it_does_not_know(
    operator: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await operator.post("/api/v1/jobs/retry", json=body)).status_code == 422


async def test_a_paused_queue_is_not_claimed(
    operator: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    await accept(ledger, new_job(queue="critical"))
    for _ in range(2):
        assert (await operator.post("/api/v1/queues/critical/pause")).json()["paused"] is True
    assert await claim(ledger, queue="critical") == []
    queues = (await operator.get("/api/v1/queues")).json()["queues"]
    assert next(q for q in queues if q["name"] == "critical")["paused_by"].startswith("rls_")
    for _ in range(2):
        assert (await operator.post("/api/v1/queues/critical/resume")).json()["paused"] is False
    assert len(await claim(ledger, queue="critical")) == 1


async def test_an_address_is_suppressed_and_lifted_under_any_spelling(
    operator: httpx.AsyncClient,
) -> None:
    stored = {"addresses": ["z@STRAßE.example", "z@straße。example"]}
    assert (await operator.post("/api/v1/suppressions", json=stored)).json()["suppressed"] == 1
    found = (await operator.get("/api/v1/suppressions?after=y")).json()["suppressions"]
    assert [entry["address"] for entry in found] == ["z@xn--strae-oqa.example"]
    lifted = await operator.delete("/api/v1/suppressions/Z@stra%C3%9Fe.example")
    assert lifted.status_code == 204


async def test_suppressions(operator: httpx.AsyncClient) -> None:
    body = {"addresses": ["A@Example.org", "b@example.org", "a@example.org"], "reason": "asked"}
    assert (await operator.post("/api/v1/suppressions", json=body)).json()["suppressed"] == 2
    first = (await operator.get("/api/v1/suppressions?limit=1")).json()
    assert [s["address"] for s in first["suppressions"]] == ["a@example.org"] == [first["next"]]
    second = (await operator.get(f"/api/v1/suppressions?after={first['next']}")).json()
    assert [s["address"] for s in second["suppressions"]] == ["b@example.org"]
    assert (await operator.delete("/api/v1/suppressions/B@example.org")).status_code == 204
    assert (await operator.delete("/api/v1/suppressions/b@example.org")).status_code == 404
    wrong = await operator.post("/api/v1/suppressions", json={"addresses": ["a@b.org", "nope"]})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "addresses.1")


async def test_relays(operator: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    async with ledger.begin() as connection:
        await relay_states.stop(connection, tenant="default", name="main", reason="535 no")
    relays = (await operator.get("/api/v1/relays")).json()["relays"]
    assert [(r["name"], r["reason"]) for r in relays] == [("main", "535 no")]
    assert relays[0]["stopped_at"]
    assert (await operator.post("/api/v1/relays/main/resume")).json()["resumed"] is True
    assert (await operator.post("/api/v1/relays/other/resume")).json()["resumed"] is False
