"""/health/live, /health/ready and /metrics."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.callers import ANYONE, READ, only
from gateway.guard import GuardedRoute, admit
from gateway.responses import JsonResponse
from gateway.services import TheServices
from runtime import exposition

router = APIRouter(tags=["health"], route_class=GuardedRoute)


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"]


class Ready(BaseModel):
    """The overall status and its parts."""

    status: Literal["ready", "degraded", "unready"] = Field(
        description="degraded: jobs are accepted, but something is missing; unready: they are not."
    )
    colour: str
    version: str
    parts: dict[str, Any]


@router.get(
    "/health/live",
    summary="Is the process alive?",
    responses={200: {"model": Live}},
    openapi_extra=only(ANYONE),
)
async def live() -> Response:
    """Checks nothing but the gateway process itself."""
    return JsonResponse({"status": "live"})


@router.get(
    "/health/ready",
    summary="Are jobs accepted and worked on?",
    responses={
        200: {"model": Ready, "description": "Jobs are accepted."},
        503: {"model": Ready, "description": "Jobs are not accepted, or `complete` is not met."},
    },
    openapi_extra=only(ANYONE),
)
async def ready(
    gateway: TheServices,
    complete: Annotated[  # noqa: FBT002 - a query parameter
        bool,
        Query(description="Also require a responsive worker for every queue, else 503."),
    ] = False,
) -> Response:
    """503 if Postgres is down, read-only or without schema, and while intake is stuck.

    Redis away or a queue deaf is `degraded`.
    A load balancer asks without `complete`: a gateway that accepts must not be taken away because
    a worker is missing. Before traffic is switched to a colour, ask with it.
    """
    reading = await gateway.health.reading()
    health = gateway.health.health(reading)
    is_up = health["status"] != "unready" and (not complete or gateway.health.is_complete(reading))
    headers = {} if is_up else {"Retry-After": "2"}
    return JsonResponse(health, status_code=200 if is_up else 503, headers=headers)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
    openapi_extra=only(ANYONE),
)
async def show_metrics(request: Request, gateway: TheServices) -> Response:
    """Open to this machine; from elsewhere, or through a proxy, it takes a key that may read.

    So it is under a name that is not this machine's own.
    """
    if not _is_local(request):
        await admit(request, roles=frozenset(READ), path="/metrics")
    reading = await gateway.health.reading()
    open_jobs = await gateway.health.open_jobs()
    content = exposition.render(gateway.health.gauges(reading, open_jobs))
    return Response(content, headers={"content-type": exposition.CONTENT_TYPE})


def _is_local(request: Request) -> bool:
    if request.client is None or any(
        name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip", "via")
    ):
        return False
    return ip_address(request.client.host).is_loopback and _is_own_name(request)


def _is_own_name(request: Request) -> bool:
    """Whether the host is not a foreign name that was pointed here (DNS rebinding)."""
    host = request.headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost"
    return True
