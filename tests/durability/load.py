"""A steady load of single jobs over HTTP, as a patient client sends it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

if TYPE_CHECKING:
    from lab.bench.cluster import Cluster

PATIENCE_S = 60.0


@dataclass(slots=True)
class Load:
    """What was sent and what was answered."""

    url: str
    key: str
    queue: str = "bulk"
    kind: str = "bench.nothing"
    payload: dict[str, Any] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)  # idempotency key -> job id
    refusals: int = 0
    waits_s: list[float] = field(default_factory=list)  # until acknowledged

    async def run(self, *, per_s: float, seconds: float) -> None:
        """Send for `seconds`, then wait until each request is acknowledged."""
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            started = time.monotonic()
            sends = []
            for number in range(int(per_s * seconds)):
                await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
                sends.append(asyncio.create_task(self._send(client)))
            await asyncio.gather(*sends)

    async def _send(self, client: httpx.AsyncClient) -> None:
        key = str(uuid4())
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE_S:
            try:
                answer = await client.post(
                    f"{self.url}/api/v1/jobs",
                    headers={"Authorization": f"Bearer {self.key}", "Idempotency-Key": key},
                    json={"kind": self.kind, "queue": self.queue, "payload": self.payload},
                )
            except httpx.TransportError:
                self.refusals += 1
                await asyncio.sleep(0.2)
                continue
            if answer.status_code == httpx.codes.ACCEPTED:
                self.acknowledged[key] = answer.json()["id"]
                self.waits_s.append(time.monotonic() - started)
                return
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            self.refusals += 1
            await asyncio.sleep(0.2)
        message = f"{key} was not acknowledged within {PATIENCE_S:g} s"
        raise AssertionError(message)


async def load_on(here: Cluster, url: str, **fields: Any) -> Load:
    """A load with a fresh API key."""
    return Load(url, await asyncio.to_thread(here.make_key), **fields)
