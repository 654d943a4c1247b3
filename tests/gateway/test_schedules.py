"""Schedules over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.waiting import within

if TYPE_CHECKING:
    import httpx

    from tests.gateway.process import Gateway

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}, "tags": ["daily"]}


def schedule(**changes: Any) -> dict[str, Any]:
    return {
        "name": uuid4().hex,
        "cron": "0 9 * * MON",
        "timezone": "Europe/Paris",
        "job": JOB,
    } | changes


async def test_a_schedules_life(api: httpx.AsyncClient) -> None:
    made = await api.post("/api/v1/schedules", json=schedule())
    assert made.status_code == 201
    path = made.headers["location"]
    shown = (await api.get(path)).json()
    assert shown == made.json()
    assert len(shown["next_times"]) == 5
    assert shown["job"]["queue"] == "template"
    assert shown["job"]["max_attempts"] == 8
    changed = (await api.patch(path, json={"cron": "@hourly", "enabled": False})).json()
    assert (changed["cron"], changed["enabled"], changed["next_times"]) == ("@hourly", False, [])
    assert changed["name"] == shown["name"]
    listed = (await api.get("/api/v1/schedules?limit=500")).json()["schedules"]
    assert shown["id"] in [entry["id"] for entry in listed]
    assert (await api.delete(path)).status_code == 204
    assert (await api.get(path)).status_code == 404
    assert (await api.delete(path)).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "nope"}, "cron"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"job": {}}, "job.kind"),
        ({"job": {"kind": "no.such"}}, "job.kind"),
        ({"job": JOB | {"payload": {"mode": "nope"}}}, "job.payload.mode"),
        ({"job": JOB | {"delay_s": 5}}, "job.delay_s"),
        ({"job": JOB | {"idempotency_key": "x"}}, "job.idempotency_key"),
        ({"enabled": "yes"}, "enabled"),
        ({"more": 1}, "more"),
    ],
)
async def test_wrong_schedules(api: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    answer = await api.post("/api/v1/schedules", json=schedule(**change))
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


async def test_a_name_is_taken_once(api: httpx.AsyncClient) -> None:
    body = schedule()
    assert (await api.post("/api/v1/schedules", json=body)).status_code == 201
    again = await api.post("/api/v1/schedules", json=body)
    assert (again.status_code, again.json()["field"]) == (422, "name")


async def test_operators_switch_and_no_more(gateway: Gateway, api: httpx.AsyncClient) -> None:
    path = (await api.post("/api/v1/schedules", json=schedule())).headers["location"]
    async with gateway.async_client("operator") as operator:
        assert (await operator.patch(path, json={"enabled": False})).status_code == 200
        changed = await operator.patch(path, json={"enabled": True, "job": JOB})
        assert (changed.status_code, changed.json()["code"]) == (403, "role_missing")
    assert (await api.get(path)).json()["enabled"] is False


async def test_listing_200_minutely_schedules_takes_a_moment(
    api: httpx.AsyncClient,
) -> None:
    """Issue 7, row 12: the list computed every minute of three days, for each of them."""
    for number in range(200):
        body = schedule(name=f"minutely {number:03}", cron="* * * * *")
        assert (await api.post("/api/v1/schedules", json=body)).status_code == 201
    with within(1.0):
        listed = (await api.get("/api/v1/schedules?limit=500")).json()["schedules"]
    assert sum(len(entry["next_times"]) == 5 for entry in listed) >= 200
