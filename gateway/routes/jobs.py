"""Reading jobs: one, many, counted, and their history."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.callers import READ, READ_ONE, READ_OWN, only
from gateway.guard import GuardedRoute
from gateway.intake import links
from gateway.job_access import unknown_job
from gateway.job_filter import Filter, Page
from gateway.job_view import Events, JobFull, JobPage, Stats
from gateway.responses import JsonResponse
from gateway.services import Services, TheCaller, TheServices
from ledger import queries
from ledger.models.jobs import FINISHED

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=GuardedRoute)

WAIT_MAX_S = 60


@router.get(
    "",
    summary="List jobs",
    responses={200: {"model": JobPage}},
    openapi_extra=only(READ_OWN),
)
async def list_jobs(
    page: Annotated[Page, Query()], gateway: TheServices, caller: TheCaller
) -> Response:
    """Newest first, in pages; conditions are joined by "and", `state` may be given repeatedly.

    A producer sees the jobs that its own key submitted.
    """
    rows = await gateway.ledger.call(
        queries.jobs,
        tenant=caller.tenant,
        matching=replace(page.matching(), accepted_by=caller.only_own),
        before=page.before,
        limit=page.limit + 1,
    )
    shown = rows[: page.limit]
    return JsonResponse(
        {"jobs": shown, "next": shown[-1]["id"] if len(rows) > len(shown) else None}
    )


@router.get(
    "/stats",
    summary="Count jobs",
    responses={200: {"model": Stats}},
    openapi_extra=only(READ),
)
async def count_jobs(
    conditions: Annotated[Filter, Query()], gateway: TheServices, caller: TheCaller
) -> Response:
    """By queue and state, under the same conditions as the list."""
    rows = await gateway.ledger.call(
        queries.stats, tenant=caller.tenant, matching=conditions.matching()
    )
    states: Counter[str] = Counter()
    for row in rows:
        states[str(row["state"])] += row["jobs"]
    return JsonResponse({"total": states.total(), "states": states, "queues": rows})


@router.get(
    "/{job_id}",
    summary="Show a job",
    responses={200: {"model": JobFull}},
    openapi_extra=only(READ_ONE),
)
async def show_job(
    job_id: UUID,
    gateway: TheServices,
    caller: TheCaller,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=WAIT_MAX_S,
            allow_inf_nan=False,
            description="Seconds to wait for the job to be over.",
        ),
    ] = 0,
    payload: Annotated[bool, Query(description="Show the payload too.")] = False,  # noqa: FBT002
) -> Response:
    """With `wait`, responds when the job has ended, or after that many seconds with its state."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    row = await _job(gateway, tenant=caller.tenant, job_id=job_id, payload=payload)
    if wait and row["state"] not in FINISHED:
        await gateway.long_polls.until_over(job_id, timeout_s=until - loop.time())
        row = await _job(gateway, tenant=caller.tenant, job_id=job_id, payload=payload)
    sent: list[dict[str, Any]] = []
    if row["callback_url"] is not None:
        sent = await gateway.ledger.call(queries.callbacks, tenant=caller.tenant, job_id=job_id)
    return JsonResponse(row | {"callbacks": sent, "links": links(job_id)})


@router.get(
    "/{job_id}/events",
    summary="Read a job's history",
    responses={200: {"model": Events}},
    openapi_extra=only(READ_ONE),
)
async def list_events(
    job_id: UUID,
    gateway: TheServices,
    caller: TheCaller,
    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Only changes after this seq.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """Every change of state, oldest first; kept longer than the job itself."""
    rows = await gateway.ledger.call(
        queries.events, tenant=caller.tenant, job_id=job_id, after=after, limit=limit
    )
    if not rows and not after:
        raise unknown_job(job_id)
    return JsonResponse({"events": rows})


async def _job(gateway: Services, *, tenant: str, job_id: UUID, payload: bool) -> dict[str, Any]:
    row = await gateway.ledger.call(queries.job, tenant=tenant, job_id=job_id, with_payload=payload)
    if row is None:
        raise unknown_job(job_id)
    return row
