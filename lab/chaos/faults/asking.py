"""Faults that hand over jobs of their own and look what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lab.chaos.faults.fault import Fault
from lab.chaos.waiting import comes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.chaos.faults.fault import Scene

ROWS = """
SELECT id::text, idempotency_key AS key, state::text, attempt,
       extract(epoch FROM finished_at - created_at)::float8 AS took_s
FROM relais.jobs WHERE idempotency_key LIKE %s
"""


class Asking(Fault):
    """Its jobs have keys that begin with `name`."""

    has_jobs: ClassVar[bool] = True

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.name = f"{self.kind}.{self.rng.getrandbits(40):010x}"
        self._count = 0

    def job(self, kind: str, payload: dict[str, Any], **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        """A job with a key of its own."""
        self._count += 1
        key = f"{self.name}.{self._count:04d}"
        return {"kind": kind, "payload": payload, "idempotency_key": key, **fields}

    def task(
        self,
        *,
        queue: str = "template",
        payload: dict[str, Any] | None = None,
        is_noted: bool = True,
        **fields: Any,  # noqa: ANN401 - any JSON
    ) -> dict[str, Any]:
        """A `chaos.task`; `is_noted`: each of its runs is in the history."""
        job = self.job("chaos.task", dict(payload or {}), queue=queue, max_attempts=60, **fields)
        if is_noted:
            job["payload"]["key"] = job["idempotency_key"]
        return job

    async def rows(self, *, start: str = "") -> list[dict[str, Any]]:
        """Its jobs as they stand, or those whose keys begin with `start`."""
        return await self.cluster.query(ROWS, f"{start or self.name}.%")

    async def states(self, *wanted: str) -> int:
        """How many of its jobs are in one of these states."""
        return sum(row["state"] in wanted for row in await self.rows())

    async def time(self, jobs: Sequence[dict[str, Any]], *, about: str, bound_s: float) -> None:
        """Wait until `jobs` are over, and note for each how long it took from being accepted."""
        keys = {job["idempotency_key"] for job in jobs}

        async def are_over() -> bool:
            over = {row["key"] for row in await self.rows() if row["took_s"] is not None}
            return keys <= over

        await comes(are_over, within_s=bound_s)
        for row in await self.rows():
            if row["key"] in keys:
                self.client.probe(self.kind, about, seconds=row["took_s"], bound_s=bound_s)
