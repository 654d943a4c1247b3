"""Lanes: what is waiting in each; pause, resume, limit and weight them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.callers import DEFAULT_TENANT, OPERATE, READ, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.lane_request import LanePage, LaneSettings, OneLane, PauseRequest
from gateway.responses import JsonResponse
from gateway.services import Services, TheCaller, TheServices
from ledger import lanes
from runtime import logs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.callers import Caller

router = APIRouter(prefix="/api/v1/lanes", tags=["operators"], route_class=GuardedRoute)
log = logs.logger("gateway")


class LaneView(BaseModel):
    """One lane of one queue; for the queue `*`: what was set for every queue."""

    queue: str
    lane: str
    paused_at: datetime | None
    paused_until: datetime | None = Field(description="Null while paused: until it is resumed.")
    paused_by: str | None
    reason: str | None
    running_max: int | None = Field(description="Most jobs at once; null: no limit of its own.")
    weight: float
    running: int | None = Field(
        description=f"Null if more than {lanes.RUNNING_SEEN} jobs are running in total, or for `*`."
    )
    ready: int | None = Field(description=f"Counted up to {lanes.READY_SEEN}; null for `*`.")
    ready_is_more: bool = Field(description=f"More than {lanes.READY_SEEN} are ready.")
    oldest_ready_at: datetime | None = Field(
        description="Since when its oldest ready job has been ready."
    )


class LaneList(BaseModel):
    """Lanes by name; `next` goes into `after` to get the next page."""

    lanes: list[LaneView]
    next: str | None


class LanePaused(BaseModel):
    """A lane after it was paused or resumed, with the pause in effect, if any."""

    lane: str
    queue: str | None
    paused: bool
    paused_at: datetime | None
    paused_until: datetime | None
    paused_by: str | None
    reason: str | None


class LaneConfigured(BaseModel):
    """A lane's settings as they are from now on."""

    lane: str
    queue: str | None
    running_max: int | None
    weight: float


@router.get(
    "",
    summary="List lanes",
    responses={200: {"model": LaneList}},
    openapi_extra=only(READ),
)
async def list_lanes(
    page: Annotated[LanePage, Query()], gateway: TheServices, caller: TheCaller
) -> Response:
    """By name, in pages: lanes that had jobs recently, and those with a pause or settings."""
    tenant = page.tenant if caller.tenant == DEFAULT_TENANT else caller.tenant
    if page.tenant not in (None, tenant):
        raise _not_yours(field="tenant")
    found = await gateway.ledger.call(
        lanes.list_all,
        queue=page.queue,
        tenant=tenant,
        prefix=page.prefix,
        after=page.position(),
        limit=page.limit + 1,
    )
    shown = found[: page.limit]
    last = f"{shown[-1].queue}:{shown[-1].lane}" if len(found) > len(shown) else None
    return JsonResponse({"lanes": [_view(lane) for lane in shown], "next": last})


@router.post(
    "/pause",
    summary="Pause a lane",
    responses={200: {"model": LanePaused}},
    openapi_extra=only(OPERATE),
)
async def pause_lane(asked: PauseRequest, gateway: TheServices, caller: TheCaller) -> Response:
    """Its jobs are still accepted; none are claimed until it is resumed or `until` has passed.

    A lane that has no job yet may be paused too. A pause that lasts longer stays as it is.
    """
    _require_own(asked, caller)
    if asked.until is not None and asked.until <= gateway.clock.now():
        message = "until: is in the past, by Postgres' clock."
        remedy = "Give a later time, or leave it out to pause until the lane is resumed."
        raise Problem(Code.VALUE_INVALID, message, field="until", remedy=remedy)
    pause = await gateway.actions.call(
        lanes.pause,
        lane=asked.lane,
        queue=asked.queue or lanes.ALL_QUEUES,
        by=caller.name,
        reason=asked.reason,
        until=asked.until,
    )
    log.warning(
        "lane.paused",
        lane=asked.lane,
        queue=asked.queue or lanes.ALL_QUEUES,
        by=caller.name,
        reason=asked.reason,
        until=asked.until.isoformat() if asked.until else None,
    )
    return _paused(asked, pause)


@router.post(
    "/resume",
    summary="Resume a lane",
    responses={200: {"model": LanePaused}},
    openapi_extra=only(OPERATE),
)
async def resume_lane(asked: OneLane, gateway: TheServices, caller: TheCaller) -> Response:
    """Workers claim again, at once. Without `queue`, the lane's pauses in all queues are lifted."""
    _require_own(asked, caller)
    queue = asked.queue or lanes.ALL_QUEUES

    async def work(connection: AsyncConnection) -> tuple[bool, lanes.Pause | None]:
        resumed = await lanes.resume(connection, lane=asked.lane, queue=queue)
        return resumed, await lanes.in_force(connection, lane=asked.lane, queue=queue)

    resumed, pause = await gateway.actions.call(work)
    if resumed:
        log.info("lane.resumed", lane=asked.lane, queue=queue, by=caller.name)
        await _wake(gateway, lane=asked.lane, queue=queue)
    return _paused(asked, pause)


@router.put(
    "/settings",
    summary="Limit or weight a lane",
    responses={200: {"model": LaneConfigured}},
    openapi_extra=only(OPERATE),
)
async def configure_lane(asked: LaneSettings, gateway: TheServices, caller: TheCaller) -> Response:
    """Omitted settings are unset. Workers apply them at their next claim."""
    _require_own(asked, caller)
    queue = asked.queue or lanes.ALL_QUEUES
    settings: dict[str, Any] = {"running_max": asked.running_max, "weight": asked.weight}
    await gateway.actions.call(lanes.configure, lane=asked.lane, queue=queue, **settings)
    log.info("lane.configured", lane=asked.lane, queue=queue, by=caller.name, **settings)
    await _wake(gateway, lane=asked.lane, queue=queue)
    return JsonResponse({"lane": asked.lane, "queue": asked.queue, **settings})


def _require_own(asked: OneLane, caller: Caller) -> None:
    """403 for lanes of other tenants; the default tenant manages the whole machine."""
    if caller.tenant not in (DEFAULT_TENANT, lanes.tenant_of(asked.lane)):
        raise _not_yours(field="lane")


def _not_yours(*, field: str) -> Problem:
    return Problem(
        Code.DEFAULT_TENANT_ONLY,
        f"{field}: This is the lane of another tenant.",
        field=field,
        remedy=f"Name one of your own, or ask someone with a key of the tenant {DEFAULT_TENANT!r}.",
    )


async def _wake(gateway: Services, *, lane: str, queue: str) -> None:
    """Ring for the jobs that wait in the lane."""
    for name, kind, job_id in await gateway.actions.call(lanes.waiting, lane=lane, queue=queue):
        gateway.ringer.ring(queue=name, kind=kind, job_id=job_id)


def _view(lane: lanes.LaneRecord) -> dict[str, Any]:
    view = asdict(lane)
    view["oldest_ready_at"] = view.pop("ready_at")
    view["ready_is_more"] = (lane.ready or 0) > lanes.READY_SEEN
    if view["ready_is_more"]:
        view["ready"] = lanes.READY_SEEN
    return view


def _paused(asked: OneLane, pause: lanes.Pause | None) -> JsonResponse:
    nothing = dict.fromkeys(("paused_at", "paused_until", "paused_by", "reason"))
    in_force = asdict(pause) if pause else nothing
    answer = {"lane": asked.lane, "queue": asked.queue, "paused": pause is not None}
    return JsonResponse(answer | in_force)
