"""A client that must not lose anything: every job has a key and is sent until it is acknowledged.

What was attempted and what was acknowledged is on the disk before the next step.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from lab.chaos.journal import Journal

ANSWER_WITHIN_S = 8.0
AGAIN_S = (0.1, 0.6)


class Client:
    """Talks to all gateways, with the key of each tenant."""

    def __init__(
        self,
        gateways: Sequence[str],
        *,
        keys: Mapping[str, str],
        journal: Journal,
        rng: random.Random,
    ) -> None:
        self.attempted = self.acknowledged = self.repeats = 0
        self._gateways = gateways
        self._keys = keys
        self._journal = journal
        self._rng = rng
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = httpx.AsyncClient(timeout=ANSWER_WITHIN_S, limits=limits)

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def post(
        self, job: dict[str, Any], *, ends: str = "succeeded", gateway: int | None = None
    ) -> str:
        """Hand over one job until it is acknowledged; its id. `ends`: how it shall end."""
        self._attempt([job], ends)
        answer = await self._until_answered("/api/v1/jobs", job, gateway=gateway)
        if answer["id"] is not None:
            self._acknowledge({job["idempotency_key"]: answer["id"]})
        return str(answer["id"])

    async def post_together(
        self, jobs: Sequence[dict[str, Any]], *, ends: str = "succeeded", tenant: str = "default"
    ) -> list[str]:
        """The same with one request; the ids of those that were taken, in order."""
        self._attempt(jobs, ends, tenant=tenant)
        answer = await self._until_answered("/api/v1/jobs/batch", list(jobs), tenant=tenant)
        ids = {jobs[line["index"]]["idempotency_key"]: line["id"] for line in answer["jobs"]}
        self._acknowledge(ids)
        return list(ids.values())

    async def cancel(self, key: str, job_id: str, *, within_s: float | None = None) -> str | None:
        """Cancel it; the state after that, None where it was over or nobody answered in time."""
        self._write("cancelling", key=key)
        path = f"/api/v1/jobs/{job_id}/cancel"
        answer = await self._until_answered(path, None, also=(409,), within_s=within_s)
        state: str | None = answer.get("state")
        self._write("cancelled", key=key, state=state)
        return state

    async def operate(self, path: str, body: object = None) -> None:
        """Have a gateway do what an operator asks, until one has (or it was done already)."""
        await self._until_answered(path, body, also=(409,))

    def probe(self, fault: str, about: str, *, seconds: float | None, bound_s: float) -> None:
        """Note how long somebody waited; None: as long as was looked."""
        self._write("probe", fault=fault, about=about, seconds=seconds, bound_s=bound_s)

    def find(self, text: str) -> None:
        """Note something that may never be."""
        self._write("finding", text=text)

    async def _until_answered(
        self,
        path: str,
        body: object,
        *,
        also: tuple[int, ...] = (),
        tenant: str = "default",
        gateway: int | None = None,
        within_s: float | None = None,
    ) -> dict[str, Any]:
        """Send until a gateway takes it; a refusal of what is right would be a defect.

        Only to `gateway` where one is named; {} where none took it `within_s`.
        """
        turn = self._rng.randrange(len(self._gateways))
        headers = {"Authorization": f"Bearer {self._keys[tenant]}"}
        began = time.monotonic()
        while within_s is None or time.monotonic() - began < within_s:
            number = turn % len(self._gateways) if gateway is None else gateway
            url = self._gateways[number] + path
            try:
                response = await self._http.post(url, json=body, headers=headers)
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
            turn += 1
            await asyncio.sleep(self._rng.uniform(*AGAIN_S))
        return {}

    def _attempt(
        self, jobs: Sequence[dict[str, Any]], ends: str, *, tenant: str = "default"
    ) -> None:
        self.attempted += len(jobs)
        self._journal.note_all(
            "attempted",
            (
                {
                    "key": job["idempotency_key"],
                    "kind": job["kind"],
                    "queue": job["queue"],
                    "recipients": job["payload"].get("to", []),
                    "relay": job["payload"].get("relay", "default"),
                    "has_callback": "callback_url" in job,
                    "delay_s": job.get("delay_s", 0.0),
                    "parents": job.get("depends_on", []),
                    "ends": ends,
                    "tenant": tenant,
                }
                for job in jobs
            ),
        )

    def _acknowledge(self, ids: Mapping[str, str]) -> None:
        self.acknowledged += len(ids)
        self._journal.note_all("acknowledged", ({"key": k, "id": v} for k, v in ids.items()))

    def _write(self, what: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON
        self._journal.note(what, **fields)
