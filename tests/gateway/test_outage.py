"""Postgres and Redis away, frozen and back; the gateway stopped and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from ledger import migrate
from ops.stack import Postgres, Valkey
from tests.gateway.process import Gateway, settings_for
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="relais-outage-"))
    made.chmod(0o711)
    yield made
    rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgres") as running:
        migrate.migrate(running.url, "pre")
        yield running


@pytest.fixture(scope="module")
def valkey(folder: Path) -> Iterator[Valkey]:
    with Valkey(folder / "valkey") as running:
        yield running


@pytest.fixture
def outage_gateway(postgres: Postgres, valkey: Valkey, tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(settings_for(database_url=postgres.url, redis_url=valkey.url, data_dir=tmp_path))
    made.make_keys()
    made.start()
    yield made
    if made.process is not None:
        made.stop()


async def accepts(client: httpx.AsyncClient) -> bool:
    return (await client.post("/api/v1/jobs", json=JOB)).status_code == 202


async def test_postgres_stops_and_returns(outage_gateway: Gateway, postgres: Postgres) -> None:
    async with outage_gateway.async_client("producer", timeout=30) as client:
        assert await accepts(client)
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        await asyncio.to_thread(postgres.stop, "immediate")
        try:
            started = time.monotonic()
            answers = await asyncio.gather(
                *(client.post("/api/v1/jobs", json=JOB) for _ in range(20)),
                client.post("/api/v1/jobs/batch", json=[JOB] * 3),
            )
            assert time.monotonic() - started < 6
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.json()["code"] for answer in answers} == {"ledger_unavailable"}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)

            async def is_unready() -> bool:
                return (await client.get("/health/ready")).status_code == 503

            await wait_for(is_unready)
            assert (await client.get("/health/live")).status_code == 200
        finally:
            await asyncio.to_thread(postgres.start)
        await wait_for(lambda: accepts(client))
        assert (await client.get("/health/ready")).status_code in {200, 503}


async def test_a_restart_while_nobody_asked_refuses_nobody(
    outage_gateway: Gateway, postgres: Postgres
) -> None:
    async with outage_gateway.async_client("producer", timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post("/api/v1/jobs/batch", json=[JOB] * 3) for _ in range(8))
        )
        assert {answer.status_code for answer in answers} == {202}
        await asyncio.to_thread(postgres.stop, "immediate")
        await asyncio.to_thread(postgres.start)
        for _ in range(8):
            assert await accepts(client)
        assert (await client.get("/health/ready")).json()["parts"]["ledger"]["status"] == "ok"


async def test_nothing_acknowledged_is_lost(outage_gateway: Gateway, postgres: Postgres) -> None:
    acknowledged: set[str] = set()
    stop = asyncio.Event()

    async def hand_over(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            answer = await client.post("/api/v1/jobs", json=JOB | {"tags": ["kept"]})
            if answer.status_code == 202:
                acknowledged.add(answer.json()["id"])
            else:
                assert answer.status_code == 503

    async with outage_gateway.async_client("admin", timeout=30) as client:
        loads = [asyncio.create_task(hand_over(client)) for _ in range(8)]
        await wait_for(lambda: len(acknowledged) > 100)
        await asyncio.to_thread(postgres.stop, "immediate")
        await asyncio.to_thread(postgres.start)
        enough = len(acknowledged) + 100
        await wait_for(lambda: len(acknowledged) > enough)
        stop.set()
        await asyncio.gather(*loads)
        found: set[str] = set()
        query: dict[str, Any] = {"tag": "kept", "limit": 1000}
        while True:
            page = (await client.get("/api/v1/jobs", params=query)).json()
            found |= {job["id"] for job in page["jobs"]}
            if page["next"] is None:
                break
            query["before"] = page["next"]
    assert acknowledged <= found


async def test_a_frozen_postgres_is_an_outage_too(
    outage_gateway: Gateway, postgres: Postgres
) -> None:
    """The kernel takes connections and bytes; nothing answers."""
    async with outage_gateway.async_client("admin", timeout=30) as client:
        assert await accepts(client)
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGSTOP)  # first, so that no new backend is made
        children = [*_children(postgres.pid), postgres.pid]
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            answers = await asyncio.gather(
                client.post("/api/v1/jobs", json=JOB),
                client.get("/api/v1/jobs"),
                client.post("/api/v1/jobs/batch", json=[JOB]),
            )
            assert time.monotonic() - started < 7
            assert {answer.status_code for answer in answers} == {503}
        finally:
            for pid in children:
                os.kill(pid, signal.SIGCONT)
        await wait_for(lambda: accepts(client), within_s=30)


async def test_a_connection_that_freezes_holds_up_only_those_who_were_on_it(
    outage_gateway: Gateway, postgres: Postgres
) -> None:
    """The server behind one connection stops; the others answer."""
    async with outage_gateway.async_client("producer", timeout=30) as client:
        assert await accepts(client)
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            frozen = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'relais gateway'"
                " AND state = 'idle'"
            ).fetchall()
        for (pid,) in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert not await accepts(client)
            await wait_for(lambda: accepts(client), within_s=60)
            assert time.monotonic() - started < 6 * (len(frozen) + 1)
        finally:
            for (pid,) in frozen:
                os.kill(pid, signal.SIGCONT)
        assert await accepts(client)


async def test_a_server_that_turned_read_only_is_not_ready(
    outage_gateway: Gateway, postgres: Postgres
) -> None:
    async with outage_gateway.async_client("producer", timeout=30) as client:
        assert await accepts(client)
        assert (await client.get("/health/ready")).status_code == 200
        _set_read_only(postgres, on=True)
        try:

            async def says_so() -> bool:
                ready = await client.get("/health/ready")
                intake = ready.json()["parts"]["intake"]
                return ready.status_code == 503 and "read-only" in intake.get("detail", "")

            await wait_for(says_so)
            refused = await client.post("/api/v1/jobs", json=JOB)
            assert (refused.status_code, refused.json()["code"]) == (503, "ledger_unavailable")
        finally:
            _set_read_only(postgres, on=False)
        await wait_for(lambda: accepts(client))

        async def is_ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await wait_for(is_ready)


async def test_without_redis_jobs_are_accepted(outage_gateway: Gateway, valkey: Valkey) -> None:
    async with outage_gateway.async_client("producer", timeout=30) as client:
        await asyncio.to_thread(valkey.stop, "immediate")
        try:
            started = time.monotonic()
            answers = [await client.post("/api/v1/jobs", json=JOB) for _ in range(50)]
            assert {answer.status_code for answer in answers} == {202}
            assert time.monotonic() - started < 5

            async def says_so() -> bool:
                health = await client.get("/health/ready")
                parts = health.json()["parts"]
                return health.status_code == 200 and parts["redis"]["status"] == "down"

            await wait_for(says_so)
        finally:
            await asyncio.to_thread(valkey.start)


async def test_sigterm_finishes_what_runs(outage_gateway: Gateway) -> None:
    async with outage_gateway.async_client("admin", timeout=30) as client:
        job = (await client.post("/api/v1/jobs", json=JOB)).json()["id"]
        waiting = asyncio.create_task(client.get(f"/api/v1/jobs/{job}?wait=60"))
        more_to_come = asyncio.Event()

        async def stream() -> Any:
            line = b'{"kind":"test.scripted_async","payload":{"mode":"ok"},"tags":["stream"]}\n'
            yield line * 600
            await more_to_come.wait()
            yield b'{"kind":"test.scripted_async","payload":{"mode":"ok"}}\n'

        sending = asyncio.create_task(
            client.post(
                "/api/v1/jobs/batch",
                content=stream(),
                headers={"content-type": "application/x-ndjson"},
            )
        )

        async def is_under_way() -> bool:
            stats = await client.get("/api/v1/jobs/stats", params={"tag": "stream"})
            return bool(stats.json()["total"])

        await wait_for(is_under_way)
        assert not waiting.done()
        started = time.monotonic()
        assert outage_gateway.process is not None
        outage_gateway.process.terminate()
        assert (await waiting).json()["state"] == "ready"  # let go, as it is now
        more_to_come.set()
        assert (await sending).json()["accepted"] == 601
    assert await asyncio.to_thread(outage_gateway.stop) == 0
    assert time.monotonic() - started < 10
    assert "gateway.stopped" in outage_gateway.log.read_text()


async def test_killed_after_the_commit_the_same_key_is_the_same_job(
    outage_gateway: Gateway,
) -> None:
    answers: list[str] = []
    async with outage_gateway.async_client("producer", timeout=30) as client:

        async def hand_over(number: int) -> None:
            try:
                answer = await client.post(
                    "/api/v1/jobs", json=JOB | {"idempotency_key": f"k{number}"}
                )
            except httpx.TransportError:
                return
            answers.append(answer.json()["id"])

        loads = [asyncio.create_task(hand_over(number)) for number in range(300)]
        await wait_for(lambda: answers)
        outage_gateway.stop(signal.SIGKILL)
        await asyncio.gather(*loads)
    outage_gateway.start()
    async with outage_gateway.async_client("admin", timeout=30) as client:
        again = [
            (await client.post("/api/v1/jobs", json=JOB | {"idempotency_key": f"k{n}"})).json()[
                "id"
            ]
            for n in range(300)
        ]
    assert len(set(again)) == 300
    assert set(answers) <= set(again)


def _set_read_only(postgres: Postgres, *, on: bool) -> None:
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(
            f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}"
        )
        connection.execute("SELECT pg_reload_conf()")


def _children(parent: int | None) -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent(int(entry.name)) == parent
    ]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
