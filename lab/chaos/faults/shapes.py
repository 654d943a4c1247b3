"""What a caller may ask for that is long, wide or crossed: chains, fans, cancels and retries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from lab.chaos.faults.asking import Asking
from lab.chaos.faults.fault import HOOK_WITHIN_S
from lab.chaos.waiting import comes

if TYPE_CHECKING:
    from lab.chaos.faults.fault import Fault

DEPTH = 1000
ENDS = ("failed", "cancelled")
PARENTS, CHILDREN = 200, 50
ANSWERED_WITHIN_S = 30.0  # other faults may go on meanwhile
CANCELLED = 20
TOGETHER = 4
RETRIED = """
SELECT count(*) AS n FROM relais.job_events AS e JOIN relais.jobs AS j ON j.id = e.job_id
WHERE j.idempotency_key LIKE %s AND e.from_state = 'failed'
"""


class OfShape(Asking):
    """Any of them; `open_gate` lets go what waits."""

    service: ClassVar[str] = "load"

    def open_gate(self) -> None:
        """What waits for it goes on."""
        folder = self.cluster.history / "gates"
        folder.mkdir(exist_ok=True)
        (folder / self.name).touch()

    async def last(self) -> None:
        """No longer than it takes."""

    async def heal(self) -> None:
        """Nothing may wait for ever."""
        self.open_gate()


class DeepChains(OfShape):
    """Twice a thousand jobs, each waiting for the one before; then both heads end.

    One fails, and all fail with it; the other is cancelled, and so are all.
    """

    kind = "deep_chains"

    async def inject(self) -> None:
        """Hand both over side by side; each head waits at a gate."""
        heads = {end: self.task(payload={"gate": self.name, "fails": True}) for end in ENDS}
        parents = {end: await self.client.post(head, ends=end) for end, head in heads.items()}
        cancelled = (heads["cancelled"]["idempotency_key"], parents["cancelled"])
        for _ in range(DEPTH):
            links = [(self.task(depends_on=[parents[end]]), end) for end in ENDS]
            posts = (self.client.post(job, ends=end) for job, end in links)
            parents = dict(zip(ENDS, await asyncio.gather(*posts), strict=True))
        self.is_met = await self.states("blocked") == len(ENDS) * DEPTH
        loop = asyncio.get_running_loop()
        began = loop.time()
        state = await self.client.cancel(*cancelled, within_s=ANSWERED_WITHIN_S)
        self.client.probe(
            self.kind,
            f"cancelling the head of {DEPTH:,} jobs",
            seconds=loop.time() - began if state is not None else None,
            bound_s=ANSWERED_WITHIN_S,
        )
        self.open_gate()


class WideFan(OfShape):
    """Fifty jobs that all wait for the same two hundred, and one that waits for the fifty."""

    kind = "wide_fan"

    async def inject(self) -> None:
        """Hand them over; the two hundred start when all are there."""
        made = [self.task(payload={"gate": self.name}) for _ in range(PARENTS)]
        parents = await self.client.post_together(made)
        widened = [self.task(depends_on=parents) for _ in range(CHILDREN)]
        children = await self.client.post_together(widened)
        await self.client.post(self.task(depends_on=children))
        self.is_met = await self.states("blocked") == CHILDREN + 1
        self.open_gate()


class CancelledWhileRetrying(OfShape):
    """Jobs that try again and again are cancelled at any moment between two runs or in one."""

    kind = "cancelled_while_retrying"

    async def inject(self) -> None:
        """Hand them over and cancel each; met where one had run before."""
        self.is_met = any(await asyncio.gather(*(self._one() for _ in range(CANCELLED))))

    async def _one(self) -> bool:
        job = self.task(payload={"retries": 40, "holds_s": 0.2})
        job_id = await self.client.post(job)
        await asyncio.sleep(self.rng.uniform(0.3, 3.0))
        state = await self.client.cancel(job["idempotency_key"], job_id)
        return state == "running"


class RetriedTogether(OfShape):
    """A parent and its children have failed, and are run again by one request."""

    kind = "retried_together"

    async def inject(self) -> None:
        """Have them fail, then retry all by their tag."""
        parent: dict[str, Any] = {"fails_until": self.name, "holds_s": 1.0}
        tags = [self.name]
        parents = [await self.client.post(self.task(payload=parent, tags=tags))]
        for _ in range(TOGETHER - 1):
            await self.client.post(self.task(depends_on=parents, tags=tags))
        if not await comes(self._have_failed, within_s=HOOK_WITHIN_S):
            return
        self.open_gate()
        await self.client.operate(
            "/api/v1/jobs/retry", {"filter": {"state": ["failed"], "tag": self.name}}
        )
        retried = await self.cluster.query(RETRIED, f"{self.name}.%")
        self.is_met = retried[0]["n"] == TOGETHER

    async def heal(self) -> None:
        """Whatever is still failed is run again, as somebody would."""
        await super().heal()
        if not self.is_met:
            await self.client.operate(
                "/api/v1/jobs/retry", {"filter": {"state": ["failed"], "tag": self.name}}
            )

    async def _have_failed(self) -> bool:
        return await self.states("failed") == TOGETHER


ALL: tuple[type[Fault], ...] = (
    DeepChains,
    WideFan,
    CancelledWhileRetrying,
    RetriedTogether,
)
