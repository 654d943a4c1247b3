"""Deadlines are told by the clock of Postgres, which may be hours from the gateway's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests import services
from tests.gateway.process import Gateway, settings_for
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
AHEAD = timedelta(hours=2)
# Found before pg_catalog's own: all that the gateway and the ledger ask is two hours ahead.
SHIFT = """
CREATE SCHEMA shifted;
CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$;
CREATE FUNCTION shifted.statement_timestamp() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT pg_catalog.statement_timestamp() + interval '2 hours' $$;
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose Postgres is two hours ahead."""
    with services.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SHIFT)
            name = url.rpartition("/")[2]
            connection.execute(f"ALTER DATABASE {name} SET search_path = shifted, pg_catalog")
        made = Gateway(
            settings_for(
                database_url=url,
                redis_url=services.redis_url(),
                data_dir=tmp_path_factory.mktemp("gateway"),
            )
        )
        made.make_keys()
        made.start()
        yield made
        made.stop()


def after(**left: float) -> str:
    """So long after now, as Postgres sees it."""
    return (datetime.now(UTC) + AHEAD + timedelta(**left)).isoformat()


async def test_a_near_deadline_is_urgent_by_the_clock_of_postgres(api: httpx.AsyncClient) -> None:
    near = await api.post("/api/v1/jobs", json=JOB | {"deadline": after(seconds=60)})
    far = await api.post("/api/v1/jobs", json=JOB | {"deadline": after(minutes=30)})
    assert (near.status_code, far.status_code) == (202, 202)
    assert (near.json()["queue"], far.json()["queue"]) == ("critical", "template")


async def test_the_deadline_is_kept(api: httpx.AsyncClient) -> None:
    deadline = after(hours=1)
    job = (await api.post("/api/v1/jobs", json=JOB | {"deadline": deadline})).json()
    shown = (await api.get(job["links"]["self"])).json()
    assert datetime.fromisoformat(shown["deadline"]) == datetime.fromisoformat(deadline)


@pytest.mark.parametrize(
    ("deadline", "more"),
    [
        (after(seconds=-1), {}),
        (after(hours=-1), {}),  # an hour ahead here, and past there
        (after(hours=1), {"delay_s": 7200}),
        (after(hours=1), {"run_at": after(hours=2)}),
        (after(hours=-1), {"idempotency_key": "never seen before"}),
    ],
    ids=["past", "past there", "delayed", "run_at", "with a key"],
)
async def test_what_could_never_start_in_time_is_refused(
    api: httpx.AsyncClient, deadline: str, more: dict[str, Any]
) -> None:
    job = JOB | {"deadline": deadline} | more
    answer = await api.post("/api/v1/jobs", json=job)
    assert (answer.status_code, answer.json()["code"]) == (422, "value_invalid")
    assert answer.json()["field"] == "deadline"
    batch = await api.post("/api/v1/jobs/batch", json=[JOB, job, JOB])
    assert (batch.status_code, batch.json()["accepted"]) == (202, 2)
    assert [(e["index"], e["field"]) for e in batch.json()["errors"]] == [(1, "deadline")]


async def test_what_was_accepted_in_time_is_known_after_its_deadline(
    api: httpx.AsyncClient,
) -> None:
    deadline = after(seconds=3)
    job = JOB | {"deadline": deadline, "idempotency_key": "in time"}
    first = await api.post("/api/v1/jobs", json=job)
    assert first.status_code == 202
    await wait_for(lambda: after() > deadline)
    for again in (
        await api.post("/api/v1/jobs", json=job),
        await api.post("/api/v1/jobs/batch", json=[job]),
    ):
        assert again.status_code == 202
        told = again.json() if "id" in again.json() else again.json()["jobs"][0]
        assert told["id"] == first.json()["id"]
    other = await api.post("/api/v1/jobs", json=job | {"priority": 1})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
