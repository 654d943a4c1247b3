"""Many jobs at once: slices, bad lines, streams, caps."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from sqlalchemy.ext.asyncio import AsyncEngine

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_BATCH_MAX_JOBS": "2000", "RELAIS_BATCH_MAX_BYTES": "4000000"}


def job(**more: Any) -> dict[str, Any]:
    return {"kind": "test.scripted_async", "payload": {"mode": "ok"}, **more}


def line(**more: Any) -> bytes:
    return json.dumps(job(**more)).encode() + b"\n"


async def count(ledger: AsyncEngine, tag: str) -> int:
    async with ledger.connect() as connection:
        statement = text("SELECT count(*) FROM relais.jobs WHERE tags @> ARRAY[:tag]")
        return int((await connection.execute(statement, {"tag": tag})).scalar_one())


async def test_an_array(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    tag = uuid4().hex
    items = [job(tags=[tag]) for _ in range(1200)]
    items[7]["priority"] = 99
    items[1100] = 5  # type: ignore[call-overload]
    answer = await api.post("/api/v1/jobs/batch", json=items)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["refused"]) == (1198, 2)
    assert [(e["index"], e["field"]) for e in told["errors"]] == [(7, "priority"), (1100, "body")]
    assert [j["index"] for j in told["jobs"]] == [i for i in range(1200) if i not in {7, 1100}]
    assert await count(ledger, tag) == 1198


async def test_bad_lines_spoil_no_others(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    tag = uuid4().hex
    lines = [
        line(tags=[tag]),
        b"{nope\n",
        b"\n",
        b'{"kind":"no.such"}\r\n',
        line(tags=[tag]).replace(b"\n", b"\r\n"),
        b'{"kind":"test.scripted_async","payload":{"text":"\\u0000"}}\n',
        b'{"a":' * 100 + b"\n",
        line(tags=[tag]).rstrip(b"\n"),
    ]
    answer = await api.post("/api/v1/jobs/batch", content=b"".join(lines), headers=NDJSON)
    told = answer.json()
    assert answer.status_code == 202
    assert [j["index"] for j in told["jobs"]] == [0, 3, 6]
    assert [(e["index"], e["code"]) for e in told["errors"]] == [
        (1, "malformed_json"),
        (2, "kind_unknown"),
        (4, "value_invalid"),
        (5, "body_too_deep"),
    ]
    assert await count(ledger, tag) == 3


async def test_lines_are_accepted_while_they_arrive(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    tag = uuid4().hex
    first_slice_is_in = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        yield line(tags=[tag]) * 600
        await first_slice_is_in.wait()
        yield line(tags=[tag])[:20]
        yield line(tags=[tag])[20:]

    sending = asyncio.create_task(api.post("/api/v1/jobs/batch", content=stream(), headers=NDJSON))
    await wait_for(lambda: count(ledger, tag), what="jobs of a batch that is still being sent")
    assert not sending.done()
    first_slice_is_in.set()
    assert (await sending).json()["accepted"] == 601
    assert await count(ledger, tag) == 601


async def test_a_batch_sent_again_makes_no_second_job(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    tag = uuid4().hex
    headers = NDJSON | {"idempotency-key": tag}
    content = line(tags=[tag]) * 50 + line(tags=[tag], idempotency_key=f"own-{tag}")
    first = await api.post("/api/v1/jobs/batch", content=content, headers=headers)
    again = await api.post("/api/v1/jobs/batch", content=content, headers=headers)
    assert [j["id"] for j in first.json()["jobs"]] == [j["id"] for j in again.json()["jobs"]]
    assert all(j["replayed"] for j in again.json()["jobs"])
    assert await count(ledger, tag) == 51


async def test_one_key_twice_within_a_batch(api: httpx.AsyncClient) -> None:
    key = uuid4().hex
    content = line(idempotency_key=key) * 2 + line(idempotency_key=key, priority=1)
    told = (await api.post("/api/v1/jobs/batch", content=content, headers=NDJSON)).json()
    assert len({j["id"] for j in told["jobs"]}) == 1
    assert [(e["index"], e["code"]) for e in told["errors"]] == [(2, "idempotency_conflict")]


async def test_too_many_jobs_of_an_array_are_none(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    tag = uuid4().hex
    answer = await api.post("/api/v1/jobs/batch", json=[job(tags=[tag])] * 2001)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_jobs")
    assert await count(ledger, tag) == 0


async def test_a_stream_with_too_many_jobs_says_what_was_accepted(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    tag = uuid4().hex
    answer = await api.post("/api/v1/jobs/batch", content=line(tags=[tag]) * 2001, headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_jobs")
    assert answer.json()["accepted"] == len(answer.json()["jobs"]) == await count(ledger, tag)


async def test_a_long_line_and_a_long_batch(api: httpx.AsyncClient) -> None:
    long_line = line() + b'"' + b"x" * 1_100_000
    answer = await api.post("/api/v1/jobs/batch", content=long_line, headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    long_batch = (line(payload={"mode": "ok", "text": "x" * 10_000})) * 500
    answer = await api.post("/api/v1/jobs/batch", content=long_batch, headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b"", "application/x-ndjson", 422, "nothing_accepted"),
        (b"\n\n", "application/jsonl", 422, "nothing_accepted"),
        (b"[]", "application/json", 422, "nothing_accepted"),
        (b"[1]", "application/json", 422, "nothing_accepted"),
        (b"{}", "application/json", 422, "value_invalid"),
        (b"[" * 70 + b"]" * 70, "application/json", 422, "body_too_deep"),
        (b"[", "application/json", 400, "malformed_json"),
        (b"a,b\n1,2", "text/csv", 415, "media_type_unsupported"),
    ],
)
async def test_whole_batches_that_are_wrong(
    api: httpx.AsyncClient, content: bytes, media_type: str, status: int, code: str
) -> None:
    answer = await api.post(
        "/api/v1/jobs/batch", content=content, headers={"content-type": media_type}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
