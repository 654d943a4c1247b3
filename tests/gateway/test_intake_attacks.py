"""Intake under callers who repeat themselves, tie knots, or leave: one job, or none."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from ledger import ids, transitions
from ledger.models.jobs import State
from ledger.shapes import Finish
from tests import services
from tests.gateway.process import Gateway, settings_for
from tests.ledger.jobs import accept, claim, new_job, path, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
BIG = JOB | {"tags": ["x" * 90] * 20}
AT_ONCE = 64
REPEATED = 10_000
PARENTS = 1_000  # as many as a job may have


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_RATE_LIMIT_PER_S": "100000"}


@pytest.fixture
def second(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Another gateway on the same ledger."""
    made = Gateway(
        settings_for(
            database_url=gateway.settings.database_url.get_secret_value(),
            redis_url=services.redis_url(),
            data_dir=tmp_path_factory.mktemp("second"),
        ),
        extra=gateway.extra,
        keys=gateway.keys,
    )
    made.start()
    yield made
    made.stop()


async def jobs_of(ledger: AsyncEngine, keys: list[str]) -> Counter[str]:
    """How many jobs there are of each of these idempotency keys."""
    async with ledger.connect() as connection:
        found = await connection.execute(
            text("SELECT idempotency_key FROM relais.jobs WHERE idempotency_key = ANY(:keys)"),
            {"keys": keys},
        )
        return Counter(found.scalars())


def _request(gateway: Gateway, *, key: str) -> bytes:
    """A job over HTTP/1.1, byte by byte."""
    body = json.dumps(BIG).encode()
    head = (
        f"POST /api/v1/jobs HTTP/1.1\r\nHost: relais\r\nAuthorization: Bearer {gateway.keys['admin']}"
        f"\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.timeout(240)
async def test_ten_thousand_requests_with_one_key_are_one_job(
    gateway: Gateway, ledger: AsyncEngine
) -> None:
    key = f"one-{uuid4()}"
    answers: Counter[tuple[int, str, str | None]] = Counter()

    async def send() -> None:
        # One connection, kept: a client library would be most of what is measured here.
        port = gateway.settings.gateway_port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for _ in range(REPEATED // AT_ONCE + 1):
                writer.write(_request(gateway, key=key))
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                answer = json.loads(await reader.readexactly(int(headers["content-length"])))
                replayed = headers.get("idempotency-replayed")
                answers[int(head[0].split()[1]), answer.get("id", str(answer)), replayed] += 1
        finally:
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*(send() for _ in range(AT_ONCE)))
    assert answers.total() >= REPEATED
    assert len({job_id for _, job_id, _ in answers}) == 1
    assert {status for status, _, _ in answers} == {202}
    new = {entry: count for entry, count in answers.items() if entry[2] is None}
    assert list(new.values()) == [1], "one of them made it, all others were told so"
    assert await jobs_of(ledger, [key]) == {key: 1}
    ((_, job_id, _), _) = answers.most_common(1)[0]
    assert await path(ledger, UUID(job_id)) == ["ready"]


@pytest.mark.timeout(120)
async def test_two_gateways_and_one_key_at_once_make_one_job(
    gateway: Gateway, second: Gateway, ledger: AsyncEngine
) -> None:
    keys = [f"two-{uuid4()}" for _ in range(150)]
    async with gateway.async_client(timeout=30) as one, second.async_client(timeout=30) as other:
        for key in keys:
            headers = {"idempotency-key": key}
            answers = await asyncio.gather(
                *(client.post("/api/v1/jobs", json=JOB, headers=headers)
                  for client in (one, other, one, other))
            )  # fmt: skip
            assert [answer.status_code for answer in answers] == [202] * 4
            assert len({answer.json()["id"] for answer in answers}) == 1
            replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
            assert replayed.count("true") == 3
    assert await jobs_of(ledger, keys) == Counter(keys)


async def test_two_gateways_and_two_bodies_under_one_key_make_one_job_and_one_conflict(
    gateway: Gateway, second: Gateway, ledger: AsyncEngine
) -> None:
    keys = [f"bodies-{uuid4()}" for _ in range(50)]
    async with gateway.async_client(timeout=30) as one, second.async_client(timeout=30) as other:
        for key in keys:
            headers = {"idempotency-key": key}
            answers = await asyncio.gather(
                one.post("/api/v1/jobs", json=JOB, headers=headers),
                other.post("/api/v1/jobs", json=JOB | {"priority": 1}, headers=headers),
            )
            assert sorted(answer.status_code for answer in answers) == [202, 422]
            taken, refused = sorted(answers, key=lambda answer: answer.status_code)
            assert refused.json()["code"] == "idempotency_conflict"
            assert refused.json()["first_job"] == taken.json()["id"]
    assert await jobs_of(ledger, keys) == Counter(keys)


@pytest.mark.timeout(120)
async def test_a_child_of_a_thousand_parents_waits_for_the_last(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    parents = [new_job(queue="vector") for _ in range(PARENTS)]
    await accept(ledger, *parents)
    asked = JOB | {"depends_on": [str(parent.id) for parent in parents]}
    answer = await api.post("/api/v1/jobs", json=asked)
    assert (answer.status_code, answer.json()["state"]) == (202, "blocked")
    child = UUID(answer.json()["id"])
    assert (await row(ledger, child)).waits_for == PARENTS
    claimed = await claim(ledger, queue="vector", limit=PARENTS)
    assert len(claimed) == PARENTS
    for some in (claimed[: PARENTS - 1], claimed[PARENTS - 1 :]):
        assert (await row(ledger, child)).state == "blocked"
        async with ledger.begin() as connection:
            ends = [Finish(job.id, job.attempt, State.SUCCEEDED) for job in some]
            assert all((await transitions.finish(connection, ends)).written)
    assert (await row(ledger, child)).state == "ready"
    assert await path(ledger, child) == ["blocked", "ready"]


async def test_a_job_cannot_be_its_own_parent(api: httpx.AsyncClient, ledger: AsyncEngine) -> None:
    key = f"self-{uuid4()}"
    first = (await api.post("/api/v1/jobs", json=JOB | {"idempotency_key": key})).json()["id"]
    knot = JOB | {"idempotency_key": key, "depends_on": [first]}
    refused = await api.post("/api/v1/jobs", json=knot)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_conflict")
    assert (await row(ledger, UUID(first))).state == "ready"
    # Who guesses the id that its job will get names a job that does not exist.
    guessed = [str(ids.new()) for _ in range(50)]
    unknown = await api.post("/api/v1/jobs", json=JOB | {"depends_on": guessed})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "parent_unknown")
    assert sorted(unknown.json()["missing"]) == sorted(guessed)
    batch = [JOB | {"idempotency_key": f"{key}-{n}", "depends_on": [guessed[n]]} for n in range(3)]
    none = await api.post("/api/v1/jobs/batch", json=batch)
    assert (none.status_code, none.json()["code"]) == (422, "nothing_accepted")
    async with ledger.connect() as connection:
        loops = text("SELECT count(*) FROM relais.job_parents WHERE child_id = parent_id")
        assert (await connection.execute(loops)).scalar_one() == 0


def leave(gateway: Gateway, *, key: str, sent: float, is_reset: bool) -> None:
    """Send a share of a request (1.0: all of it), and be gone before any answer."""
    request = _request(gateway, key=key)
    peer = socket.create_connection(("127.0.0.1", gateway.settings.gateway_port))
    peer.sendall(request[: int(len(request) * sent)])
    if is_reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.mark.timeout(120)
async def test_a_client_that_goes_away_leaves_its_job_once_or_not_at_all(
    gateway: Gateway, api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    whole = [f"whole-{uuid4()}" for _ in range(100)]
    cut = [f"cut-{uuid4()}" for _ in range(100)]
    for number, key in enumerate(cut):
        leave(gateway, key=key, sent=number / len(cut), is_reset=bool(number % 2))
    for number, key in enumerate(whole):
        leave(gateway, key=key, sent=1.0, is_reset=bool(number % 2))
    # What comes after them is answered; whatever of theirs is still under way is looked for below.
    assert (await api.post("/api/v1/jobs", json=JOB)).status_code == 202
    assert await jobs_of(ledger, cut) == {}
    left = await jobs_of(ledger, whole)
    assert set(left.values()) <= {1}
    # Whoever comes back with the key gets the job that is there, or makes it.
    for key in (*whole, *cut):
        answer = await api.post("/api/v1/jobs", json=BIG, headers={"idempotency-key": key})
        assert answer.status_code == 202
    assert await jobs_of(ledger, [*whole, *cut]) == Counter([*whole, *cut])
