"""Queues: how deep they are, who works on them; pause and resume."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.callers import OPERATE, READ, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.responses import JsonResponse
from gateway.services import TheCaller, TheServices
from ledger import queries, queues
from runtime import logs
from tasks.kinds import QUEUES

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

router = APIRouter(prefix="/api/v1/queues", tags=["operators"], route_class=GuardedRoute)
log = logs.logger("gateway")

SEEN_WITHIN_S = 15.0


class WorkerView(BaseModel):
    """A worker process that was seen recently."""

    colour: str
    version: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime


class QueueView(BaseModel):
    """One queue; the counts are those of the caller's tenant."""

    name: str
    paused_at: datetime | None
    paused_by: str | None
    ready: int
    scheduled: int
    running: int
    oldest_ready_s: float | None = Field(description="How long the oldest ready job has waited.")
    canary_age_s: float | None = Field(description="Time since a canary last came through.")
    workers: list[WorkerView]


class QueueList(BaseModel):
    """Every queue."""

    queues: list[QueueView]


class Paused(BaseModel):
    """A queue after it was paused or resumed."""

    name: str
    paused: bool


@router.get(
    "",
    summary="List queues",
    responses={200: {"model": QueueList}},
    openapi_extra=only(READ),
)
async def list_queues(gateway: TheServices, caller: TheCaller) -> Response:
    """How many jobs wait in each, and which workers serve it."""

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        waiting = {
            (row["queue"], str(row["state"])): row
            for row in await queries.open_jobs(connection, tenant=caller.tenant)
        }
        known = {row["name"]: row for row in await queries.queues(connection)}
        workers = await queries.workers(connection)
        return [
            _view(queue, waiting=waiting, known=known.get(queue, {}), workers=workers)
            for queue in QUEUES
        ]

    return JsonResponse({"queues": await gateway.ledger.call(work)})


@router.post(
    "/{name}/pause",
    summary="Pause a queue",
    responses={200: {"model": Paused}},
    openapi_extra=only(OPERATE),
)
async def pause_queue(name: str, gateway: TheServices, caller: TheCaller) -> Response:
    """Jobs are still accepted; nothing is claimed until the queue is resumed."""
    caller.require_default_tenant()
    await gateway.actions.call(queues.pause, name=_known(name), by=caller.name)
    log.warning("queue.paused", queue=name, by=caller.name)
    return JsonResponse({"name": name, "paused": True})


@router.post(
    "/{name}/resume",
    summary="Resume a queue",
    responses={200: {"model": Paused}},
    openapi_extra=only(OPERATE),
)
async def resume_queue(name: str, gateway: TheServices, caller: TheCaller) -> Response:
    """Workers claim again, at their next poll."""
    caller.require_default_tenant()
    if await gateway.actions.call(queues.resume, name=_known(name)):
        log.info("queue.resumed", queue=name, by=caller.name)
    return JsonResponse({"name": name, "paused": False})


def _known(name: str) -> str:
    if name not in QUEUES:
        message = "There is no such queue."
        raise Problem(Code.NOT_FOUND, message, remedy=f"Use one of {', '.join(QUEUES)}.")
    return name


def _view(
    queue: str,
    *,
    waiting: dict[tuple[str, str], dict[str, Any]],
    known: dict[str, Any],
    workers: list[dict[str, Any]],
) -> dict[str, Any]:
    counts = {
        state: waiting.get((queue, state), {}).get("jobs", 0)
        for state in ("ready", "scheduled", "running")
    }
    names = ("colour", "version", "host", "pid", "started_at", "seen_at")
    return {
        "name": queue,
        "paused_at": known.get("paused_at"),
        "paused_by": known.get("paused_by"),
        **counts,
        "oldest_ready_s": waiting.get((queue, "ready"), {}).get("oldest_s"),
        "canary_age_s": known.get("canary_age_s"),
        "workers": [
            {name: row[name] for name in names}
            for row in workers
            if row["queue"] == queue and row["seen_s"] <= SEEN_WITHIN_S
        ],
    }
