"""A steady load through the HTTP API, as a client would send it that must not lose anything.

Every job has an idempotency key and is sent, again and again and to either gateway, until it is
acknowledged. What was attempted and what was acknowledged is on the disk before the next step.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import httpx

from ops.chaos.orders import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops.chaos.journal import Journal
    from ops.chaos.orders import Order

ANSWER_WITHIN_S = 8.0
AGAIN_S = (0.1, 0.6)
UNDER_WAY_MAX = 200


class Load:
    """Sends `rate` orders a second until stopped."""

    def __init__(
        self,
        gateways: Sequence[str],
        *,
        key: str,
        journal: Journal,
        seed: int,
        rate: float,
        callback_base: str,
    ) -> None:
        self.attempted = self.acknowledged = self.repeats = 0
        self._gateways = gateways
        self._journal = journal
        self._rng = random.Random(f"{seed} clients")
        self._orders: Iterator[Order] = iter(Stream(random.Random(f"{seed} load"), callback_base))
        self._rate = rate
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._client = httpx.AsyncClient(headers=headers, timeout=ANSWER_WITHIN_S, limits=limits)

    async def run(self) -> None:
        """Start orders, evenly spread, until `finish`."""
        due = time.monotonic()
        while not self._is_over:
            due += self._rng.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(self._tasks) < UNDER_WAY_MAX:
                task = asyncio.create_task(self._place(next(self._orders)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                due = time.monotonic()

    def stop(self) -> None:
        """Start no more orders."""
        self._is_over = True

    async def finish(self, *, within_s: float) -> int:
        """Wait until everything is acknowledged; how many orders are not. `close` comes after."""
        pending: set[asyncio.Task[None]] = set()
        if self._tasks:
            done, pending = await asyncio.wait(self._tasks, timeout=within_s)
            for task in done:
                task.result()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return len(pending)

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def post(self, job: dict[str, Any]) -> str:
        """Hand over one job until it is acknowledged; its id."""
        self._note("attempted", job)
        answer = await self._until_answered("/api/v1/jobs", job)
        self._acknowledge(job["idempotency_key"], answer["id"])
        return str(answer["id"])

    async def operate(self, path: str, body: object = None) -> None:
        """Have a gateway do what an operator asks, until one has (or it was done already)."""
        await self._until_answered(path, body, also=(409,))

    async def _place(self, order: Order) -> None:
        if order.shape == "batch":
            await self._post_together(order.jobs)
        elif order.shape == "cancel":
            job_id = await self.post(order.jobs[0])
            await self._cancel(order.jobs[0]["idempotency_key"], job_id)
        else:
            parents: list[str] = []
            for job in order.jobs:
                sent = {**job, "depends_on": parents} if parents else job
                parents = [await self.post(sent)]

    async def _post_together(self, jobs: Sequence[dict[str, Any]]) -> None:
        for job in jobs:
            self._note("attempted", job)
        answer = await self._until_answered("/api/v1/jobs/batch", list(jobs))
        for line in answer["jobs"]:
            self._acknowledge(jobs[line["index"]]["idempotency_key"], line["id"])

    async def _cancel(self, key: str, job_id: str) -> None:
        self._write("cancelling", key=key)
        answer = await self._until_answered(f"/api/v1/jobs/{job_id}/cancel", None, also=(409,))
        self._write("cancelled", key=key, state=answer.get("state"))

    async def _until_answered(
        self, path: str, body: object, *, also: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """Send until a gateway takes it; a refusal of what is right would be a defect."""
        gateway = self._rng.randrange(len(self._gateways))
        while True:
            url = self._gateways[gateway % len(self._gateways)] + path
            try:
                response = await self._client.post(url, json=body)
            except httpx.HTTPError:
                pass
            else:
                if response.status_code in (200, 202, *also):
                    answer: dict[str, Any] = response.json()
                    return answer
                if response.status_code < 500 and response.status_code != 429:
                    self._write(
                        "refused", path=path, status=response.status_code, text=response.text[:500]
                    )
                    return {"jobs": [], "id": None}
                self._write("unavailable", status=response.status_code)
            self.repeats += 1
            gateway += 1
            await asyncio.sleep(self._rng.uniform(*AGAIN_S))

    def _note(self, what: str, job: dict[str, Any]) -> None:
        self.attempted += 1
        payload = job["payload"]
        self._write(
            what,
            key=job["idempotency_key"],
            kind=job["kind"],
            queue=job["queue"],
            recipients=payload.get("to", []),
            relay=payload.get("relay", "default"),
            has_callback="callback_url" in job,
            delay_s=job.get("delay_s", 0.0),
            has_parent="depends_on" in job,
        )

    def _acknowledge(self, key: str, job_id: str | None) -> None:
        if job_id is None:
            return
        self.acknowledged += 1
        self._write("acknowledged", key=key, id=job_id)

    def _write(self, what: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON
        self._journal.note(what, **fields)
