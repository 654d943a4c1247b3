"""A load generator that costs little: raw HTTP/1.1 over kept-alive connections."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: answers per second and how long each took."""

    per_s: float
    latencies_ms: list[float]
    refused: int

    def percentile_ms(self, share: float) -> float:
        """The latency that `share` of the requests stayed below."""
        ordered = sorted(self.latencies_ms)
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


async def post_many(*, port: int, key: str, body: bytes, requests: int, connections: int) -> Load:
    """Send `requests` POSTs of one job each, every connection as fast as it is answered."""
    request = _request(key, body)
    latencies: list[float] = []
    refused = 0
    left = requests

    async def connection() -> None:
        nonlocal left, refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while left > 0:
                left -= 1
                started = time.perf_counter()
                writer.write(request)
                status = await _answer(reader)
                latencies.append(1000 * (time.perf_counter() - started))
                refused += status != b"202"
        finally:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return Load(round(requests / (time.perf_counter() - started)), latencies, refused)


@dataclass(frozen=True, slots=True)
class Pace:
    """So many jobs a second, for so long, and how many in a POST."""

    rate: int
    seconds: float
    batch: int = 1


async def post_at_rate(
    *,
    port: int,
    key: str,
    body: bytes,
    pace: Pace,
    connections: int,
    tell: Callable[[int], None] | None = None,
) -> tuple[int, int]:
    """Send a POST of `pace.batch` jobs at each of its times, whatever became of earlier ones.

    Where all `connections` wait for answers, times pass. Returns how many jobs were posted, and how
    many POSTs were refused.
    """
    request = _request(key, body)
    if pace.batch > 1:
        request = _request(key, b"[" + b",".join([body] * pace.batch) + b"]", path="/jobs/batch")
    total = int(pace.rate * pace.seconds / pace.batch)
    next_number = posted = refused = 0
    began = time.perf_counter()

    async def connection() -> None:
        nonlocal next_number, posted, refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while next_number < total:
                wait_s = next_number * pace.batch / pace.rate - (time.perf_counter() - began)
                next_number += 1
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                if time.perf_counter() - began > pace.seconds:
                    break  # too slow for this rate: over is over
                writer.write(request)
                refused += await _answer(reader) != b"202"
                posted += pace.batch
        finally:
            writer.close()

    async def report() -> None:
        while tell is not None:
            tell(posted)
            await asyncio.sleep(REPORT_EVERY_S)

    reporting = asyncio.create_task(report())
    await asyncio.gather(*(connection() for _ in range(connections)))
    reporting.cancel()
    return posted, refused


def _request(key: str, body: bytes, path: str = "/jobs") -> bytes:
    head = (
        f"POST /api/v1{path} HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    start = lower.index(b"content-length:") + len(b"content-length:")
    await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
    return head[9:12]
