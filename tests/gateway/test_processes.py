"""Several gateway processes on one address: killed, frozen, told to end, orphaned."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from gateway.callers import Caller
from gateway.errors import Problem
from gateway.processes import Process
from gateway.rate import RateLimit
from tests import services
from tests.gateway.process import Gateway, settings_for
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

COUNT = 2
JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
LATER = JOB | {"run_at": "2100-01-01T00:00:00Z"}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def children(gateway: Gateway) -> list[int]:
    assert gateway.process is not None
    pid = gateway.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log.read_text().splitlines() if line[:1] == "{"]


def serving(gateway: Gateway) -> list[int]:
    """The processes that have got as far as to take connections."""
    started = {line["process"] for line in lines(gateway) if line["action"] == "gateway.started"}
    return [pid for pid in children(gateway) if pid in started]


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def clients(gateway: Gateway, role: str = "admin") -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each process, with one connection that this process has taken."""
    made: list[httpx.AsyncClient] = []
    pids = await wait_for(lambda: (found := serving(gateway))[COUNT - 1 :] and found)
    try:
        for pid in pids:
            client = gateway.async_client(role, timeout=30, limits=httpx.Limits(max_connections=1))
            made.append(client)

            async def is_live(client: httpx.AsyncClient = client) -> bool:
                return (await client.get("/health/live")).status_code == 200

            with frozen([other for other in pids if other != pid]):
                await wait_for(is_live)
        yield made
    finally:
        for client in made:
            await client.aclose()


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_GATEWAY_PROCESSES": str(COUNT)}


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of two processes for one test, not yet started."""
    with services.fresh_database() as url:
        made = Gateway(
            settings_for(database_url=url, redis_url=services.redis_url(), data_dir=tmp_path),
            extra={"RELAIS_GATEWAY_PROCESSES": str(COUNT)},
        )
        made.make_keys()
        yield made
        if made.process is not None:
            made.stop()


async def test_one_process_has_no_parent(short_lived: Gateway) -> None:
    short_lived.extra.clear()
    await asyncio.to_thread(short_lived.start)
    assert children(short_lived) == []
    assert short_lived.process is not None
    assert {line["process"] for line in lines(short_lived)} == {short_lived.process.pid}


async def test_each_line_says_which_process_wrote_it(gateway: Gateway) -> None:
    pids = await wait_for(lambda: (found := serving(gateway))[COUNT - 1 :] and found)
    assert gateway.process is not None
    assert {gateway.process.pid, *pids} <= {line["process"] for line in lines(gateway)}


async def test_a_killed_process_is_replaced_and_nothing_acknowledged_is_lost(
    gateway: Gateway,
) -> None:
    acknowledged: set[str] = set()
    broken: list[httpx.TransportError] = []
    stop = asyncio.Event()

    async def hand_over(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            try:
                answer = await client.post("/api/v1/jobs", json=LATER | {"tags": ["kept"]})
            except httpx.TransportError as error:
                broken.append(error)
                continue
            assert answer.status_code == 202
            acknowledged.add(answer.json()["id"])

    async with clients(gateway) as made:
        loads = [asyncio.create_task(hand_over(client)) for client in made for _ in range(2)]
        await wait_for(lambda: len(acknowledged) > 100)
        before = children(gateway)
        os.kill(before[0], signal.SIGKILL)
        enough = len(acknowledged) + 100
        await wait_for(lambda: len(acknowledged) > enough)
        after = await wait_for(lambda: (now := serving(gateway))[COUNT - 1 :] and now)
        stop.set()
        await asyncio.gather(*loads)
    assert before[0] not in after
    assert before[1] in after
    # One connection was lost: those who waited on it and for it, and nobody else.
    assert len(broken) <= len(loads) // COUNT
    with psycopg.connect(gateway.settings.database_url.get_secret_value()) as connection:
        rows = connection.execute("SELECT id::text FROM relais.jobs").fetchall()
    assert acknowledged <= {row[0] for row in rows}


async def test_one_that_is_told_to_end_answers_first_and_is_replaced(gateway: Gateway) -> None:
    async with clients(gateway) as made:
        pids = serving(gateway)
        with psycopg.connect(gateway.settings.database_url.get_secret_value()) as blocker:
            blocker.execute("LOCK TABLE relais.jobs IN EXCLUSIVE MODE")
            posts = [
                asyncio.create_task(client.post("/api/v1/jobs", json=LATER)) for client in made
            ]
            await wait_for(lambda: waiting_for_locks(gateway) >= COUNT)
            os.kill(pids[0], signal.SIGTERM)
        assert [(await post).status_code for post in posts] == [202] * COUNT
    await wait_for(lambda: pids[0] not in children(gateway) and serving(gateway)[COUNT - 1 :])


def waiting_for_locks(gateway: Gateway) -> int:
    with psycopg.connect(gateway.settings.database_url.get_secret_value()) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database() AND application_name = 'relais gateway'"
        ).fetchone()
    assert row
    return int(row[0])


@asynccontextmanager
async def held_up(
    gateway: Gateway, made: Sequence[httpx.AsyncClient]
) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """A POST of each client that waits for a lock inside its transaction, until the block ends."""
    with psycopg.connect(gateway.settings.database_url.get_secret_value()) as blocker:
        blocker.execute("LOCK TABLE relais.jobs IN EXCLUSIVE MODE")
        posts = [asyncio.create_task(client.post("/api/v1/jobs", json=LATER)) for client in made]
        await wait_for(lambda: waiting_for_locks(gateway) >= COUNT)
        yield posts


async def test_sigterm_answers_what_is_in_flight_and_exits_0(short_lived: Gateway) -> None:
    await asyncio.to_thread(short_lived.start)
    async with clients(short_lived) as made:
        pids = children(short_lived)
        async with held_up(short_lived, made) as posts:
            stopping = asyncio.create_task(asyncio.to_thread(short_lived.stop))
            await wait_for(lambda: not is_accepting(short_lived))
        assert [(await post).status_code for post in posts] == [202] * COUNT
        assert await stopping == 0
    assert not any(map(is_alive, pids))
    assert not [line for line in lines(short_lived) if line["level"] in {"warning", "error"}]


def is_accepting(gateway: Gateway) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.settings.gateway_port), timeout=1).close()
    except OSError:
        return False
    return True


async def test_processes_end_with_their_parent_and_the_address_is_free(
    short_lived: Gateway,
) -> None:
    await asyncio.to_thread(short_lived.start)
    async with clients(short_lived) as made:
        pids = children(short_lived)
        async with held_up(short_lived, made) as posts:
            await asyncio.to_thread(short_lived.stop, signal.SIGKILL)
            await wait_for(lambda: not is_accepting(short_lived))
        assert [(await post).status_code for post in posts] == [202] * COUNT
    await wait_for(lambda: not any(map(is_alive, pids)))
    await asyncio.to_thread(short_lived.start)
    assert len(children(short_lived)) == COUNT
    assert not set(children(short_lived)) & set(pids)


async def test_what_keeps_all_from_serving_ends_the_parent_too(short_lived: Gateway) -> None:
    short_lived.extra["RELAIS_JWT_KEY"] = "short"
    with pytest.raises(AssertionError):
        await asyncio.to_thread(short_lived.start)
    assert short_lived.process is not None
    assert await asyncio.to_thread(short_lived.process.wait, 15) == 2  # as without a parent
    assert "RELAIS_JWT" in short_lived.log.read_text()
    started = [line["pid"] for line in lines(short_lived) if line["action"].endswith("ss_started")]
    assert not any(map(is_alive, started))


async def test_a_frozen_process_keeps_nobody_waiting(gateway: Gateway) -> None:
    pids = await wait_for(lambda: (found := serving(gateway))[COUNT - 1 :] and found)
    with frozen(pids[:1]):
        for _ in range(20):
            async with gateway.async_client(timeout=5) as client:
                assert (await client.post("/api/v1/jobs", json=LATER)).status_code == 202


def test_a_process_whose_loop_stands_still_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talks = "import os, sys, time\nwhile True: os.write(int(sys.argv[2]), b'.'); time.sleep(0.05)"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", talks])
    process = Process()
    with socket.socket() as listening:
        process.start(listening)
        assert process.listen() is None
        assert process.serves_since is not None
        process.end_if_silent(for_s=30.0)
        assert process.listen() is None
        process.tell(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        ended = None
        while ended is None and time.monotonic() < deadline:
            process.end_if_silent(for_s=0.2)
            if select.select([process.pipe], (), (), 0.05)[0]:
                ended = process.listen()
    assert ended == -signal.SIGKILL


async def test_a_key_sent_to_both_at_once_is_one_job(gateway: Gateway) -> None:
    async with clients(gateway) as made:
        for number in range(20):
            headers = {"idempotency-key": f"both-{number}"}
            answers = await asyncio.gather(
                *(client.post("/api/v1/jobs", json=LATER, headers=headers) for client in made)
            )
            assert {answer.status_code for answer in answers} <= {200, 202}
            assert len({answer.json()["id"] for answer in answers}) == 1
        other = LATER | {"priority": 7}
        refused = await made[1].post("/api/v1/jobs", json=other, headers=headers)
        assert refused.status_code == 422


async def test_a_job_of_one_process_is_waited_for_at_another(gateway: Gateway) -> None:
    async with clients(gateway) as (one, other):
        job_id = (await one.post("/api/v1/jobs", json=LATER)).json()["id"]
        waiting = asyncio.create_task(other.get(f"/api/v1/jobs/{job_id}", params={"wait": 20}))
        started = time.monotonic()
        assert (await one.post(f"/api/v1/jobs/{job_id}/cancel")).status_code in {200, 202}
        assert (await waiting).json()["state"] == "cancelled"
        assert time.monotonic() - started < 10


async def test_a_revoked_key_is_refused_by_every_process(gateway: Gateway) -> None:
    async with gateway.async_client() as admin:
        made = (await admin.post("/api/v1/keys", json={"name": "short", "role": "viewer"})).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        async with clients(gateway) as each:
            for client in each:
                assert (await client.get("/api/v1/jobs", headers=headers)).status_code == 200
            assert (await admin.delete(f"/api/v1/keys/{made['prefix']}")).status_code == 204

            async def are_all_refusing() -> bool:
                answers = [await client.get("/api/v1/jobs", headers=headers) for client in each]
                return {answer.status_code for answer in answers} == {401}

            await wait_for(are_all_refusing, within_s=2.5)


async def test_numbers_of_all_processes_add_up(short_lived: Gateway) -> None:
    await asyncio.to_thread(short_lived.start)

    async def accepted(client: httpx.AsyncClient) -> float:
        text = (await client.get("/metrics")).text
        rows = [line for line in text.splitlines() if line.startswith("relais_jobs_accepted_total")]
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    async with clients(short_lived) as (one, other):
        for client, count in ((one, 3), (other, 5)):
            for _ in range(count):
                assert (await client.post("/api/v1/jobs", json=LATER)).status_code == 202
        for client in (one, other):

            async def are_all_there(client: httpx.AsyncClient = client) -> bool:
                return await accepted(client) == 8

            await wait_for(are_all_there)
        os.kill(serving(short_lived)[0], signal.SIGKILL)
        await wait_for(lambda: len(serving(short_lived)) == COUNT)
        assert await accepted(other) == 8


async def test_the_rate_of_a_key_is_shared_out(gateway: Gateway) -> None:
    key = await asyncio.to_thread(gateway.make_key, "viewer", rate_per_s=0.5 * COUNT)
    headers = {"authorization": f"Bearer {key}"}
    async with clients(gateway) as each:
        for client in each:
            answers = [await client.get("/api/v1/kinds", headers=headers) for _ in range(3)]
            assert answers[0].status_code == 200
            assert answers[-1].status_code == 429
            assert f"{0.5 * COUNT:g} requests per second, divided among" in answers[-1].text


def test_shares_of_a_rate_are_the_rate_together() -> None:
    now = [0.0]
    shares = [RateLimit(rate_per_s=10.0, processes=5, clock=lambda: now[0]) for _ in range(5)]
    caller = Caller(name="key", tenant="t", role="viewer", rate_per_s=None)

    def passed() -> int:
        count = 0
        for share in shares:
            for _ in range(20):
                try:
                    share.spend(caller)
                except Problem:
                    break
                count += 1
        return count

    assert passed() == 10
    now[0] += 1.0
    assert passed() == 10
