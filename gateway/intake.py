"""How a job gets in: validate, route, write and commit, ring, answer. In that order.

Never an answer before the commit; a dead Redis is no reason to refuse.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import to_json

from gateway import refusals
from gateway.errors import Code, Problem
from gateway.job_request import JobRequest
from ledger import ids, transitions
from ledger.group_commit import GroupCommit
from ledger.models.jobs import State
from ledger.shapes import NewJob
from runtime import metrics
from workers import routing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.callers import Caller
    from gateway.connections import Connections
    from ledger.shapes import Accepted
    from tasks.kinds import Kind
    from workers.doorbell import Ringer

COMMIT_TOGETHER_MAX = 200
WRITERS = 1  # two would halve the batches, and so cost more commits for the same jobs


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a job comes from: its caller, and the trace of the request that carried it."""

    caller: Caller
    traceparent: str
    trace_id: str


class Intake:
    """Turns requests into committed jobs."""

    def __init__(
        self,
        ledger: Connections,
        *,
        ringer: Ringer,
        kinds: Mapping[str, Kind],
        answer_within_s: float,
    ) -> None:
        self._ledger = ledger
        self._ringer = ringer
        self._kinds = kinds
        self._answer_within_s = answer_within_s
        self._together: GroupCommit[NewJob, Accepted] = GroupCommit(
            self._write, batch_max=COMMIT_TOGETHER_MAX, writers=WRITERS
        )

    def prepare(self, asked: Any, *, origin: Origin, key: str | None, size: int) -> NewJob:  # noqa: ANN401 - JSON
        """The job that `asked` (parsed JSON of `size` bytes) describes; raises Problem.

        `key` is an idempotency key from outside the body.
        """
        try:
            request = JobRequest.model_validate(asked)
        except ValidationError as error:
            raise refusals.invalid_model(error) from error
        kind = self._kind(request.kind)
        try:
            kind.payload.model_validate(request.payload)
        except ValidationError as error:
            raise refusals.invalid_model(error, under=("payload",)) from error
        queue = routing.route(
            kind=kind,
            wish=request.queue,
            payload_bytes=size,
            workflow_id=request.workflow_id,
            deadline=request.deadline,
        )
        key = _one_key(request.idempotency_key, key)
        return NewJob(
            id=ids.new(),
            tenant=origin.caller.tenant,
            kind=kind.name,
            queue=queue,
            payload=request.payload,
            max_attempts=request.max_attempts or kind.max_attempts,
            timeout_s=request.timeout_s or kind.timeout_s,
            priority=request.priority,
            run_at=request.run_at,
            delay_s=request.delay_s,
            idempotency_key=key,
            request_hash=_hash(asked) if key else None,
            callback_url=request.callback_url,
            workflow_id=request.workflow_id,
            tags=tuple(request.tags),
            traceparent=origin.traceparent,
            trace_id=origin.trace_id,
            accepted_by=origin.caller.name,
            depends_on=tuple(dict.fromkeys(request.depends_on)),
            on_parent_failure=request.on_parent_failure,
        )

    async def accept(self, job: NewJob) -> Accepted:
        """Commit `job`, together with whoever else is waiting; raises Problem."""
        future = self._together.enqueue(job)
        done, _ = await asyncio.wait({future}, timeout=self._answer_within_s)
        if not done:
            future.cancel()  # while it waits its turn, it is never written; else nobody knows
            raise refusals.unavailable()
        accepted = future.result()
        refuse_unaccepted(job, accepted)
        return accepted

    async def accept_together(self, jobs: Sequence[NewJob]) -> Sequence[Accepted]:
        """Commit `jobs` in one transaction of their own; in order, refusals included."""
        if not jobs:
            return []
        accepted = await self._ledger.call(transitions.accept, jobs)
        self._tell(jobs, accepted)
        return accepted

    async def close(self) -> None:
        """Wait for what is being committed."""
        await self._together.flush()

    def _kind(self, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None or kind.internal:
            raise Problem(
                Code.KIND_UNKNOWN,
                f"There is no kind {name!r}.",
                field="kind",
                remedy="GET /api/v1/kinds lists what there is.",
            )
        return kind

    async def _write(self, jobs: Sequence[NewJob]) -> Sequence[Accepted]:
        accepted = await self._ledger.write(transitions.accept, jobs)
        self._tell(jobs, accepted)
        return accepted

    def _tell(self, jobs: Sequence[NewJob], accepted: Sequence[Accepted]) -> None:
        """After the commit, never before: count and ring."""
        counts: Counter[tuple[str, str]] = Counter()
        for job, answer in zip(jobs, accepted, strict=True):
            if not answer.is_new:
                continue
            counts[job.queue, job.kind] += 1
            if answer.state is State.READY:
                self._ringer.ring(
                    queue=job.queue, kind=job.kind, job_id=job.id, traceparent=job.traceparent
                )
        for (queue, kind), count in counts.items():
            metrics.accepted(queue=queue, kind=kind, count=count)


def refuse_unaccepted(job: NewJob, accepted: Accepted) -> None:
    """Raise the problem of a job that the ledger did not take."""
    if accepted.missing_parents:
        missing = accepted.missing_parents
        raise Problem(
            Code.PARENT_UNKNOWN,
            f"There is no job {missing[0]} to depend on.",
            field="depends_on",
            remedy="Name jobs of your own that have not been pruned.",
            extra={"missing": [str(parent) for parent in missing]},
        )
    if accepted.is_conflict:
        raise Problem(
            Code.IDEMPOTENCY_CONFLICT,
            f"The key {job.idempotency_key!r} was used for another body.",
            field="idempotency_key",
            remedy="Use a new key for a new job.",
            extra={"first_job": str(accepted.id)},
        )


def links(job_id: UUID) -> dict[str, str]:
    """Where to look at a job."""
    return {"self": f"/api/v1/jobs/{job_id}", "events": f"/api/v1/jobs/{job_id}/events"}


def receipt(job: NewJob, accepted: Accepted) -> dict[str, Any]:
    """What the caller of a new job is told."""
    return {
        "id": accepted.id,
        "state": accepted.state,
        "kind": job.kind,
        "queue": job.queue,
        "priority": job.priority,
        "created_at": accepted.created_at,
        "run_at": accepted.run_at,
        "trace_id": job.trace_id,
        "links": links(accepted.id),
    }


def _one_key(in_body: str | None, outside: str | None) -> str | None:
    if in_body is not None and outside is not None and in_body != outside:
        raise Problem(
            Code.VALUE_INVALID,
            "The header Idempotency-Key and the field idempotency_key differ.",
            field="idempotency_key",
            remedy="Send one of them, or the same key in both.",
        )
    return in_body or outside


def _hash(asked: dict[str, Any]) -> bytes:
    """A digest of what was asked, the same however the JSON was written."""
    body = {name: value for name, value in asked.items() if name != "idempotency_key"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).digest()


def size_of(payload: object) -> int:
    """How many bytes `payload` has as JSON."""
    return len(to_json(payload))
