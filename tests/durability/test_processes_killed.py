"""Processes killed at the worst moments; a proxy on the wire knows when those are."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from lab.bench.cluster import Cluster, wait_until
from lab.chaos import patterns
from lab.chaos.proxy import Proxy, Trap
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOB = {"kind": "bench.nothing", "payload": {}}


@asynccontextmanager
async def proxied(here: Cluster) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before Postgres, and the database URL through it."""
    proxy = Proxy(here.postgres.port, forgets=patterns.OVER)
    await proxy.start()
    try:
        url = here.postgres.superuser_url.replace(f":{here.postgres.port}/", f":{proxy.port}/")
        yield proxy, f"{url}?sslmode=disable"
    finally:
        await proxy.stop()


async def post(here: Cluster, api_key: str, *, key: str) -> httpx.Response | None:
    """One job; None where the gateway hung up on us."""
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        try:
            return await client.post(
                f"http://127.0.0.1:{here.gateway_port}/api/v1/jobs",
                headers={"Authorization": f"Bearer {api_key}", "Idempotency-Key": key},
                json=JOB,
            )
        except httpx.TransportError:
            return None


def job_ids(here: Cluster) -> list[str]:
    """Every job in the ledger."""
    with psycopg.connect(here.postgres.superuser_url) as connection:
        return [row[0] for row in connection.execute("SELECT id::text FROM relais.jobs")]


@pytest.mark.parametrize("moment", ["before the commit", "after the commit, before the 202"])
async def test_gateway_killed(here: Cluster, moment: str) -> None:
    api_key = await asyncio.to_thread(here.make_key)
    is_before = moment.startswith("before")
    async with proxied(here) as (proxy, url):
        with here.process("gateway", database_url=url) as doomed:
            await asyncio.to_thread(
                wait_until, lambda: _is_live(here), what="the gateway", process=doomed
            )
            assert (await post(here, api_key, key="warm")) is not None

            async def kill(_: object) -> None:
                doomed.kill()
                await asyncio.to_thread(doomed.wait)

            trap = Trap(
                direction="up" if is_before else "down",
                pattern=patterns.COMMIT if is_before else patterns.COMMITTED,
                after=patterns.ACCEPTED,
                verdict="cut",
                callback=kill,
            )
            proxy.traps.append(trap)
            assert await post(here, api_key, key="k") is None, "no 202 for what was not committed"
            assert trap.count == 1
    await wait_for(lambda: len(job_ids(here)) == (1 if is_before else 2), what="the commit")
    with here.gateway():
        answer = await post(here, api_key, key="k")
        again = await post(here, api_key, key="k")
    assert answer is not None
    assert again is not None
    assert answer.json()["id"] == again.json()["id"]
    assert answer.headers.get("idempotency-replayed") == (None if is_before else "true")
    assert len(job_ids(here)) == 2


async def test_worker_killed_in_the_middle_of_a_callback(here: Cluster) -> None:
    """The receiver has the callback, the worker dies before it hears so: same id again."""
    api_key = await asyncio.to_thread(here.make_key)
    heard: list[dict[str, str]] = []
    workers: list[subprocess.Popen[bytes]] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        heard.append(headers | {"type": json.loads(body)["type"]})
        if len(heard) == 1:
            workers[0].kill()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings: dict[str, Any] = {
        "outbound_allow": f"127.0.0.1:{port}",
        "callback_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }
    with here.gateway(**settings) as url, here.process("workers", "bulk"):
        with here.process("workers", "callback", **settings) as doomed:
            workers.append(doomed)
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(
                    f"{url}/api/v1/jobs",
                    headers={"Authorization": f"Bearer {api_key}"},
                    json={**JOB, "callback_url": f"http://127.0.0.1:{port}/hook"},
                )
            assert answer.status_code == httpx.codes.ACCEPTED, answer.text
            await wait_for(lambda: doomed.poll() is not None, within_s=30, what="it is killed")
        with here.process("workers", "callback", **settings):
            await wait_for(lambda: len(heard) == 2, within_s=30, what="the callback comes again")
            await wait_for(lambda: _callback_states(here) == ["succeeded"], what="it is settled")
    server.close()
    assert {call["type"] for call in heard} == {"job.succeeded"}
    assert heard[0]["webhook-id"] == heard[1]["webhook-id"]


def _callback_states(here: Cluster) -> list[str]:
    with psycopg.connect(here.postgres.superuser_url) as connection:
        rows = connection.execute(
            "SELECT state::text FROM relais.jobs WHERE kind = 'http.callback'"
        )
        return [row[0] for row in rows]


def _is_live(here: Cluster) -> bool:
    try:
        url = f"http://127.0.0.1:{here.gateway_port}/health/live"
        return httpx.get(url, timeout=1, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
