"""What operators do to jobs: retry, cancel, resolve."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from gateway.callers import CANCEL, OPERATE, Caller, only
from gateway.guard import GuardedRoute
from gateway.intake import links
from gateway.job_access import own_job
from gateway.job_filter import Filter
from gateway.job_view import Acted, RetriedMany
from gateway.responses import JsonResponse
from gateway.services import Services, TheCaller, TheServices
from ledger import queries, transitions
from ledger.errors import WrongState
from ledger.filters import JobFilter
from ledger.models.jobs import State
from runtime import logs

router = APIRouter(prefix="/api/v1/jobs", tags=["operators"], route_class=GuardedRoute)
log = logs.logger("gateway")

Retryable = Literal["failed", "cancelled", "unknown"]
Retried = list[tuple[UUID, str, str]]


def _failed() -> list[Retryable]:
    return ["failed"]


class Resolution(BaseModel):
    """How to settle an unknown job."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"state": "succeeded", "note": "It is in the mailbox."}]},
    )

    state: Literal["succeeded", "failed", "ready"] = Field(
        description="Its new state; `ready` runs it again."
    )
    note: Annotated[str, StringConstraints(max_length=500)] = Field(
        "", description="Kept in the history."
    )


class RetryFilter(Filter):
    """Which jobs to retry."""

    state: Annotated[list[Retryable], Field(min_length=1, max_length=3)] = Field(  # type: ignore[assignment]
        default_factory=_failed, description="In any of these states."
    )

    def matching(self) -> JobFilter:
        """The filter as the ledger reads it."""
        states = tuple(State(state) for state in dict.fromkeys(self.state))
        return JobFilter(
            states=states,
            queue=self.queue,
            kind=self.kind,
            tag=self.tag,
            workflow_id=self.workflow_id,
            created_from=self.created_from,
            created_until=self.created_until,
        )


class RetryRequest(BaseModel):
    """A bulk retry."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"filter": {"state": ["failed"], "tag": "may"}, "limit": 500, "dry_run": True}
            ]
        },
    )

    filter: RetryFilter = Field(description="Which jobs.")
    limit: Annotated[int, Field(strict=True, ge=1, le=10_000)] = Field(
        1_000, description="At most this many, oldest first."
    )
    dry_run: Annotated[bool, Field(strict=True)] = Field(
        False, description="Only report how many jobs match."
    )


@router.post(
    "/retry",
    summary="Retry many jobs",
    responses={200: {"model": RetriedMany}},
    openapi_extra=only(OPERATE),
)
async def retry_many(asked: RetryRequest, gateway: TheServices, caller: TheCaller) -> Response:
    """Failed jobs (or cancelled, unknown ones) that match become ready, with new attempts."""

    async def work(connection: AsyncConnection) -> tuple[int, Retried]:
        found = await queries.matching_ids(
            connection, tenant=caller.tenant, matching=asked.filter.matching(), limit=asked.limit
        )
        if asked.dry_run or not found:
            return len(found), []
        retried = await transitions.retry(
            connection, tenant=caller.tenant, job_ids=found, by=caller.name
        )
        return len(found), retried

    matched, retried = await gateway.actions.call(work)
    _ring(gateway, retried)
    if not asked.dry_run:
        log.info("jobs.retried", by=caller.name, tenant=caller.tenant, jobs=len(retried))
    return JsonResponse({"matched": matched, "retried": len(retried), "dry_run": asked.dry_run})


@router.post(
    "/{job_id}/retry",
    summary="Retry a job",
    responses={200: {"model": Acted}},
    openapi_extra=only(OPERATE),
)
async def retry_job(job_id: UUID, gateway: TheServices, caller: TheCaller) -> Response:
    """A failed, cancelled or unknown job becomes ready, with a full set of attempts."""
    await _retry(gateway, caller, job_id)
    return _acted(job_id, State.READY)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses={200: {"model": Acted}},
    openapi_extra=only(CANCEL),
)
async def cancel_job(job_id: UUID, gateway: TheServices, caller: TheCaller) -> Response:
    """A waiting job is cancelled; a running one is asked to stop, and is `running` until then.

    A producer may cancel the jobs that its own key submitted.
    """

    async def work(connection: AsyncConnection) -> State:
        await own_job(connection, job_id=job_id, caller=caller)
        return await transitions.cancel(
            connection, tenant=caller.tenant, job_id=job_id, by=caller.name
        )

    state = await gateway.actions.call(work)
    log.info("job.cancelled", by=caller.name, job_id=str(job_id), state=str(state))
    return _acted(job_id, state)


@router.post(
    "/{job_id}/resolve",
    summary="Settle an unknown job",
    responses={200: {"model": Acted}},
    openapi_extra=only(OPERATE),
)
async def resolve_job(
    job_id: UUID, asked: Resolution, gateway: TheServices, caller: TheCaller
) -> Response:
    """Settle the outcome of a job whose effect is unknown."""
    state = State(asked.state)
    if state is State.READY:
        by = f"{caller.name}: {asked.note}" if asked.note else caller.name
        retried = await gateway.actions.call(_run_again, tenant=caller.tenant, job_id=job_id, by=by)
        _ring(gateway, retried)
    else:
        await gateway.actions.call(
            transitions.resolve,
            tenant=caller.tenant,
            job_id=job_id,
            as_state=state,
            by=caller.name,
            note=asked.note,
        )
    log.info("job.resolved", by=caller.name, job_id=str(job_id), state=str(state))
    return _acted(job_id, state)


async def _retry(gateway: Services, caller: Caller, job_id: UUID) -> None:
    retried = await gateway.actions.call(
        transitions.retry, tenant=caller.tenant, job_ids=[job_id], by=caller.name
    )
    _ring(gateway, retried)
    log.info("job.retried", by=caller.name, job_id=str(job_id))


async def _run_again(connection: AsyncConnection, *, tenant: str, job_id: UUID, by: str) -> Retried:
    """Retry an unknown job; other states are refused here."""
    row = await queries.job(connection, tenant=tenant, job_id=job_id)
    if row is not None and row["state"] != State.UNKNOWN:
        message = f"Job {job_id} is {row['state']} and cannot be resolved."
        raise WrongState(message, remedy="Its events say how it came to this state.")
    return await transitions.retry(connection, tenant=tenant, job_ids=[job_id], by=by)


def _ring(gateway: Services, retried: Retried) -> None:
    for job_id, queue, kind in retried:
        gateway.ringer.ring(queue=queue, kind=kind, job_id=job_id)


def _acted(job_id: UUID, state: State) -> JsonResponse:
    return JsonResponse({"id": job_id, "state": state, "links": links(job_id)})
