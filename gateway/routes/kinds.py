"""GET /api/v1/kinds: which kinds there are, and what each needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from gateway.callers import READ_ONE, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.responses import JsonResponse
from gateway.services import TheServices

if TYPE_CHECKING:
    from tasks.kinds import Kind

router = APIRouter(prefix="/api/v1/kinds", tags=["kinds"], route_class=GuardedRoute)


class KindBrief(BaseModel):
    """A kind in the list."""

    name: str
    summary: str
    queue: str
    max_attempts: int
    timeout_s: float


class KindFull(KindBrief):
    """A kind and the JSON schema of its payload."""

    payload_schema: dict[str, Any]


class KindList(BaseModel):
    """Every kind that callers may ask for."""

    kinds: list[KindBrief]


@router.get(
    "",
    summary="List kinds",
    responses={200: {"model": KindList}},
    openapi_extra=only(READ_ONE),
)
async def list_kinds(gateway: TheServices) -> Response:
    """What the field `kind` of a job may say."""
    kinds = sorted(
        (kind for kind in gateway.kinds.values() if not kind.internal), key=lambda kind: kind.name
    )
    return JsonResponse({"kinds": [_brief(kind) for kind in kinds]})


@router.get(
    "/{name}",
    summary="Read a kind's schema",
    responses={200: {"model": KindFull}},
    openapi_extra=only(READ_ONE),
)
async def show_kind(name: str, gateway: TheServices) -> Response:
    """The JSON schema of the payload, with examples."""
    kind = gateway.kinds.get(name)
    if kind is None or kind.internal:
        raise Problem(
            Code.NOT_FOUND,
            "There is no kind with this name.",
            remedy="GET /api/v1/kinds lists them.",
        )
    return JsonResponse(_brief(kind) | {"payload_schema": kind.payload.model_json_schema()})


def _brief(kind: Kind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": kind.summary,
        "queue": kind.queue,
        "max_attempts": kind.max_attempts,
        "timeout_s": kind.timeout_s,
    }
