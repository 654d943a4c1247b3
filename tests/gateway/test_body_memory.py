"""Bodies are bounded over all requests together: their memory, and the time they take from others."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gateway.process import Gateway

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
JSON = {"content-type": "application/json"}
MIB = 1_048_576


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_BODIES_MAX_BYTES": str(40 * MIB)}


def memory_bytes(gateway: Gateway) -> int:
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def slowest_check_s(gateway: Gateway) -> float:
    """Of a few checks of health, as the machine is now."""
    taken = []
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        for _ in range(10):
            started = time.monotonic()
            assert (await client.get("/health/live")).is_success
            taken.append(time.monotonic() - started)
    return max(taken)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_slow_uploads_hold_up_nobody_elses_array(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    begun = [asyncio.Event() for _ in range(6)]

    async def slow(event: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"[" + b" " * 100_000
        event.set()
        await asyncio.sleep(3_600)

    uploads = [
        asyncio.create_task(api.post("/api/v1/jobs/batch", content=slow(event), headers=JSON))
        for event in begun
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    async with gateway.async_client("producer", timeout=5) as other:
        answer = await other.post("/api/v1/jobs/batch", json=[JOB, JOB])
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    for upload in uploads:
        upload.cancel()
    await asyncio.gather(*uploads, return_exceptions=True)


async def test_a_caller_cannot_take_all_memory_for_bodies(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    head = (
        f"POST /api/v1/jobs/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.keys['admin']}\r\nContent-Length: {15 * MIB}\r\n\r\n"
    ).encode()

    async def upload(stack: AsyncExitStack) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.gateway_port)
        stack.push_async_callback(end, writer)
        writer.write(head + b"[" + b" " * (12 * MIB))
        return await reader.readuntil(b"\r\n\r\n")

    async with AsyncExitStack() as stack:
        uploads = [asyncio.create_task(upload(stack)) for _ in range(3)]
        done, others = await asyncio.wait(uploads, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        answers = [each.result().lower() for each in done]
        assert answers
        assert all(b" 503 " in each and b"retry-after" in each for each in answers)
        # Others still have theirs, and it all comes back.
        async with gateway.async_client("producer", timeout=10) as other:
            batch = json.dumps([JOB] * 5_000)
            assert (await other.post("/api/v1/jobs/batch", content=batch, headers=JSON)).is_success
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def has_room() -> bool:
        filled = b"[" + b" " * (12 * MIB) + json.dumps(JOB).encode() + b"]"
        return (await api.post("/api/v1/jobs/batch", content=filled, headers=JSON)).is_success

    await wait_for(has_room, what="room after the uploads ended")


@pytest.mark.parametrize(
    "item", [b"[]", b"[[[[[[]]]]]]", b'{"kind":"x","payload":[' + b"[]," * 300_000 + b"[]]}"]
)
async def test_dense_arrays_take_neither_memory_nor_the_loop(
    gateway: Gateway, api: httpx.AsyncClient, item: bytes
) -> None:
    body = b"[" + b",".join([item] * (15 * MIB // (len(item) + 1))) + b"]"
    before = memory_bytes(gateway)
    quiet_s = await slowest_check_s(gateway)
    sending = asyncio.create_task(api.post("/api/v1/jobs/batch", content=body, headers=JSON))
    longest_s, most = 0.0, 0
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        while not sending.done():
            started = time.monotonic()
            assert (await client.get("/health/live")).is_success
            longest_s = max(longest_s, time.monotonic() - started)
            most = max(most, memory_bytes(gateway) - before)
    with suppress(httpx.TransportError):
        assert (await sending).status_code in {413, 422}
    assert most < 200 * MIB
    assert longest_s < max(1.0, 5 * quiet_s)


async def test_a_thousand_international_domains_leave_the_loop_to_others(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    """Each distinct domain costs the better part of a millisecond: none waits for all of them."""
    jobs = [
        {
            "kind": "email.send",
            "payload": {
                "from": "a@example.org",
                "to": f"ada@straßenbahn-{number}.größe.example",
                "subject": "s",
                "text": "t",
            },
            "delay_s": 86_400,
        }
        for number in range(1_500)
    ]
    quiet_s = await slowest_check_s(gateway)
    sending = asyncio.create_task(api.post("/api/v1/jobs/batch", json=jobs, timeout=60))
    waits = []
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        while not sending.done():
            started = time.monotonic()
            assert (await client.get("/health/live")).is_success
            waits.append(time.monotonic() - started)
    answer = await sending
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1_500)
    assert len(waits) > 10
    assert max(waits) < max(0.25, 5 * quiet_s)
