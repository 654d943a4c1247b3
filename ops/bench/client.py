"""A load generator that costs little: raw HTTP/1.1 over kept-alive connections."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


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
    head = (
        "POST /api/v1/jobs HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    request = head + body
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


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    start = lower.index(b"content-length:") + len(b"content-length:")
    await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
    return head[9:12]
