"""API keys: create, list, revoke; admins only, within their own tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from gateway.callers import ADMINISTER, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.responses import JsonResponse
from gateway.services import TheCaller, TheServices
from ledger import api_keys
from ledger.api_keys import KeyRow, Role
from runtime import logs

router = APIRouter(prefix="/api/v1/keys", tags=["keys"], route_class=GuardedRoute)
log = logs.logger("gateway")


class KeyRequest(BaseModel):
    """A new key."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "n8n", "role": "producer", "expires_in_s": 31_536_000}]
        },
    )

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="What will use it."
    )
    role: Role
    expires_in_s: Annotated[float, Field(strict=True, gt=0, le=api_keys.LONGEST_LIFE_S)] | None = (
        Field(None, description="If omitted, it does not expire.")
    )
    rate_per_s: (
        Annotated[float, Field(strict=True, ge=api_keys.RATE_MIN_PER_S, le=api_keys.RATE_MAX_PER_S)]
        | None
    ) = Field(None, description="Requests per second; if omitted, the gateway's limit.")


class KeyMade(BaseModel):
    """The key itself, shown only once."""

    id: UUID
    prefix: str
    key: str = Field(description="Shown only now; the ledger keeps its SHA-256.")


class KeyView(BaseModel):
    """A key, without its secret."""

    id: UUID
    name: str
    prefix: str
    role: Role
    rate_per_s: float | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class KeyList(BaseModel):
    """Every key of the caller's tenant, newest first."""

    keys: list[KeyView]


@router.get(
    "",
    summary="List keys",
    responses={200: {"model": KeyList}},
    openapi_extra=only(ADMINISTER),
)
async def list_keys(gateway: TheServices, caller: TheCaller) -> Response:
    """Revoked and expired ones included."""
    found = await gateway.ledger.call(api_keys.list_all, tenant=caller.tenant)
    return JsonResponse({"keys": [_view(key) for key in found]})


@router.post(
    "",
    summary="Create a key",
    status_code=201,
    responses={201: {"model": KeyMade}},
    openapi_extra=only(ADMINISTER),
)
async def create_key(asked: KeyRequest, gateway: TheServices, caller: TheCaller) -> Response:
    """The key is in this response and nowhere else."""
    made = await gateway.ledger.call(
        api_keys.create,
        tenant=caller.tenant,
        name=asked.name,
        role=asked.role,
        expires_in_s=asked.expires_in_s,
        rate_per_s=asked.rate_per_s,
    )
    log.info("key.created", by=caller.name, prefix=made.prefix, role=asked.role)
    return JsonResponse({"id": made.id, "prefix": made.prefix, "key": made.key}, status_code=201)


@router.delete(
    "/{prefix}",
    summary="Revoke a key",
    status_code=204,
    responses={204: {"description": "Refused everywhere within two seconds."}},
    openapi_extra=only(ADMINISTER),
)
async def revoke_key(
    prefix: Annotated[str, Path(max_length=64)], gateway: TheServices, caller: TheCaller
) -> Response:
    """Revoke the key permanently."""
    if not await gateway.ledger.call(api_keys.revoke, tenant=caller.tenant, prefix=prefix):
        raise Problem(Code.NOT_FOUND, "There is no key with this prefix.")
    log.info("key.revoked", by=caller.name, prefix=prefix)
    return Response(status_code=204)


def _view(key: KeyRow) -> dict[str, Any]:
    return {name: getattr(key, name) for name in KeyView.model_fields}
