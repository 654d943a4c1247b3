"""Users' own schedules: a cron expression in a time zone, and the job of each tick."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from gateway.callers import READ, Caller, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.intake import Intake
from gateway.job_request import EXAMPLES
from gateway.preparation import Origin, size_of
from gateway.responses import JsonResponse
from gateway.services import TheCaller, TheServices
from ledger import schedules, ticks
from ledger.api_keys import Role
from runtime import logs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

router = APIRouter(prefix="/api/v1/schedules", tags=["schedules"], route_class=GuardedRoute)
log = logs.logger("gateway")

# A schedule creates jobs, so only roles that may submit jobs may write one.
WRITE: tuple[Role, ...] = ("producer", "admin")
SWITCH: tuple[Role, ...] = ("producer", "operator", "admin")
# What makes no sense for a recurring job.
ONCE_ONLY = ("run_at", "delay_s", "deadline", "idempotency_key", "depends_on", "on_parent_failure")

Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
CronText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ScheduleRequest(BaseModel):
    """A new schedule."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "monday-digest",
                    "cron": "0 9 * * MON",
                    "timezone": "Europe/Paris",
                    "job": EXAMPLES["render"]["value"],
                }
            ]
        },
    )

    name: Name = Field(description="Unique within the tenant.")
    cron: CronText = Field(description="Five fields, or @hourly, @daily, @weekly ...")
    timezone: Zone = Field("UTC", description="IANA name; daylight-saving days are exact.")
    job: dict[str, Any] = Field(
        description=f"Like the body of POST /api/v1/jobs, without {', '.join(ONCE_ONLY)}."
    )
    enabled: Annotated[bool, Field(strict=True)] = True


class ScheduleChange(BaseModel):
    """What to change; omitted fields stay as they are."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"cron": "30 8 * * MON-FRI"}]}
    )

    name: Name | None = None
    cron: CronText | None = None
    timezone: Zone | None = None
    job: dict[str, Any] | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = None


class ScheduleView(BaseModel):
    """A schedule and the next times at which it fires."""

    id: UUID
    name: str
    cron: str
    timezone: str
    job: dict[str, Any]
    enabled: bool
    created_at: datetime
    changed_at: datetime
    next_times: list[datetime] = Field(description="The next five, in UTC; none while disabled.")


class SchedulePage(BaseModel):
    """Schedules by name; `next` goes into `after` to get the next page."""

    schedules: list[ScheduleView]
    next: str | None


@router.get(
    "",
    summary="List schedules",
    responses={200: {"model": SchedulePage}},
    openapi_extra=only(READ),
)
async def list_schedules(
    gateway: TheServices,
    caller: TheCaller,
    after: Annotated[
        str | None, Query(max_length=100, description="Only schedules after this name.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """By name, with the next times of each."""

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        found = await schedules.list_all(
            connection, tenant=caller.tenant, after=after, limit=limit + 1
        )
        now = await ticks.now(connection)
        shown = found[:limit]
        return {
            "schedules": [_view(schedule, now=now) for schedule in shown],
            "next": shown[-1].name if len(found) > len(shown) else None,
        }

    return JsonResponse(await gateway.ledger.call(work))


@router.post(
    "",
    summary="Create a schedule",
    status_code=201,
    responses={201: {"model": ScheduleView}},
    openapi_extra=only(WRITE),
)
async def create_schedule(
    asked: ScheduleRequest, gateway: TheServices, caller: TheCaller
) -> Response:
    """Each tick becomes one job, however many beats are running."""
    job = _job(gateway.intake, asked.job, caller=caller)

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        made = await schedules.create(
            connection,
            tenant=caller.tenant,
            name=asked.name,
            cron=asked.cron,
            timezone=asked.timezone,
            job=job,
            enabled=asked.enabled,
        )
        return _view(made, now=await ticks.now(connection))

    view = await gateway.ledger.call(work)
    log.info("schedule.created", by=caller.name, schedule=str(view["id"]))
    headers = {"location": f"/api/v1/schedules/{view['id']}"}
    return JsonResponse(view, status_code=201, headers=headers)


@router.get(
    "/{schedule_id}",
    summary="Show a schedule",
    responses={200: {"model": ScheduleView}},
    openapi_extra=only(("producer", *READ)),
)
async def show_schedule(schedule_id: UUID, gateway: TheServices, caller: TheCaller) -> Response:
    """One schedule, with its next times."""

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        found = await schedules.get(connection, tenant=caller.tenant, schedule_id=schedule_id)
        return _view(found, now=await ticks.now(connection))

    return JsonResponse(await gateway.ledger.call(work))


@router.patch(
    "/{schedule_id}",
    summary="Change a schedule",
    responses={200: {"model": ScheduleView}},
    openapi_extra=only(SWITCH),
)
async def change_schedule(
    schedule_id: UUID, asked: ScheduleChange, gateway: TheServices, caller: TheCaller
) -> Response:
    """Operators may only switch it on and off; its times and job need producer or admin."""
    if caller.role == "operator" and asked.model_fields_set - {"enabled"}:
        raise Problem(
            Code.ROLE_MISSING,
            "The role operator may only switch a schedule on and off.",
            remedy="Use a key with one of these roles: admin, producer.",
        )
    job = None
    if asked.job is not None:
        job = _job(gateway.intake, asked.job, caller=caller)

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        changed = await schedules.update(
            connection,
            tenant=caller.tenant,
            schedule_id=schedule_id,
            name=asked.name,
            cron=asked.cron,
            timezone=asked.timezone,
            job=job,
            enabled=asked.enabled,
        )
        return _view(changed, now=await ticks.now(connection))

    view = await gateway.ledger.call(work)
    log.info("schedule.changed", by=caller.name, schedule=str(schedule_id))
    return JsonResponse(view)


@router.delete(
    "/{schedule_id}",
    summary="Delete a schedule",
    status_code=204,
    responses={204: {"description": "It no longer fires; jobs that it created remain."}},
    openapi_extra=only(WRITE),
)
async def delete_schedule(schedule_id: UUID, gateway: TheServices, caller: TheCaller) -> Response:
    """Delete it permanently."""
    await gateway.ledger.call(schedules.delete, tenant=caller.tenant, schedule_id=schedule_id)
    log.info("schedule.deleted", by=caller.name, schedule=str(schedule_id))
    return Response(status_code=204)


def _job(intake: Intake, asked: dict[str, Any], *, caller: Caller) -> dict[str, Any]:
    """The job of every tick, validated as if it were submitted now."""
    for name in ONCE_ONLY:
        if name in asked:
            raise Problem(
                Code.VALUE_INVALID,
                f"job.{name}: makes no sense for a recurring job.",
                field=f"job.{name}",
                remedy="Omit it.",
            )
    nowhere = Origin(caller=caller, traceparent="", trace_id="")
    try:
        job = intake.prepare(asked, origin=nowhere, key=None, size=size_of(asked))
    except Problem as problem:
        raise problem.under(prefix="job") from problem
    return {
        "kind": job.kind,
        "payload": job.payload,
        "queue": job.queue,
        "max_attempts": job.max_attempts,
        "timeout_s": job.timeout_s,
        "priority": job.priority,
        "callback_url": job.callback_url,
        "workflow_id": job.workflow_id,
        "tags": list(job.tags),
    }


def _view(schedule: schedules.Schedule, *, now: datetime) -> dict[str, Any]:
    names = ("id", "name", "cron", "timezone", "job", "enabled", "created_at", "changed_at")
    view = {name: getattr(schedule, name) for name in names}
    return view | {"next_times": schedule.next_times(now=now) if schedule.enabled else []}
