"""What a caller may ask for that is long, wide or crossed: chains, fans, cancels and retries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from ops.chaos.faults.asking import Asking
from ops.chaos.faults.fault import HOOK_WITHIN_S
from ops.chaos.waiting import comes

if TYPE_CHECKING:
    from ops.chaos.faults.fault import Fault

DEPTH = 1000
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
        folder = self.stand.history / "gates"
        folder.mkdir(exist_ok=True)
        (folder / self.name).touch()

    async def last(self) -> None:
        """No longer than it takes."""

    async def heal(self) -> None:
        """Nothing may wait for ever."""
        self.open_gate()


class DeepChain(OfShape):
    """A thousand jobs, each waiting for the one before; then the first one ends."""

    ends: ClassVar[str] = ""
    head: tuple[str, str] = ("", "")  # key and id

    async def inject(self) -> None:
        """Hand them over one after the other; the first waits at a gate."""
        head = self.task(payload={"gate": self.name, "fails": True})
        self.head = (head["idempotency_key"], await self.client.post(head, ends=self.ends))
        parent = self.head[1]
        for _ in range(DEPTH):
            parent = await self.client.post(self.task(depends_on=[parent]), ends=self.ends)
        self.is_met = await self.states("blocked") == DEPTH
        await self.end()

    async def end(self) -> None:
        """End the first."""
        raise NotImplementedError


class DeepChainFails(DeepChain):
    """The first fails: all fail with it."""

    kind, ends = "deep_chain_fails", "failed"

    async def end(self) -> None:
        """Let it fail."""
        self.open_gate()


class DeepChainCancelled(DeepChain):
    """The first is cancelled: all are cancelled with it, and whoever asked is answered."""

    kind, ends = "deep_chain_cancelled", "cancelled"

    async def end(self) -> None:
        """Cancel it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        state = await self.client.cancel(*self.head, within_s=ANSWERED_WITHIN_S)
        self.client.probe(
            self.kind,
            f"cancelling the head of {DEPTH:,} jobs",
            seconds=loop.time() - began if state is not None else None,
            bound_s=ANSWERED_WITHIN_S,
        )


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
        retried = await self.stand.query(RETRIED, f"{self.name}.%")
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
    DeepChainFails,
    DeepChainCancelled,
    WideFan,
    CancelledWhileRetrying,
    RetriedTogether,
)
