"""Mail as operators see it: messages, suppressed addresses, relays."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from gateway.callers import OPERATE, READ, READ_OWN, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.job_access import own_job
from gateway.responses import JsonResponse
from gateway.services import TheCaller, TheServices
from ledger import queries, relay_states, suppressions
from ledger.models.mail import MessageState
from runtime import logs
from tasks.email import addresses

router = APIRouter(prefix="/api/v1", tags=["mail"], route_class=GuardedRoute)
log = logs.logger("gateway")

Address = Annotated[str, StringConstraints(min_length=3, max_length=320)]


class MessageView(BaseModel):
    """One mail to one recipient."""

    id: UUID
    position: int
    recipient: str
    role: str
    message_id: str
    relay: str
    state: MessageState
    attempt: int
    tries: int
    reply_code: int | None
    enhanced_code: str | None
    reply: str | None
    reason: str | None
    created_at: datetime
    dot_sent_at: datetime | None
    sent_at: datetime | None
    changed_at: datetime


class MessageList(BaseModel):
    """The messages of one job, in the order of its recipients."""

    messages: list[MessageView]


class SuppressionView(BaseModel):
    """An address that gets no mail."""

    address: str
    reason: str
    created_at: datetime


class SuppressionPage(BaseModel):
    """Addresses in alphabetical order; `next` goes into `after` to get the next page."""

    suppressions: list[SuppressionView]
    next: str | None


class SuppressionRequest(BaseModel):
    """Addresses that must not get mail."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"addresses": ["ada@example.org"], "reason": "asked us to stop"}]
        },
    )

    addresses: Annotated[list[Address], Field(min_length=1, max_length=1000)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "by hand"


class Suppressed(BaseModel):
    """How many addresses are new on the list."""

    suppressed: int


class RelayView(BaseModel):
    """A relay that had trouble; those without any are not listed."""

    name: str
    stopped_at: datetime | None
    backoff_until: datetime | None
    backoff_step: int
    reason: str | None
    changed_at: datetime


class RelayList(BaseModel):
    """Relays of the caller's tenant that ever had trouble."""

    relays: list[RelayView]


class Resumed(BaseModel):
    """A relay after it was resumed."""

    name: str
    resumed: bool = Field(description="False: it was neither stopped nor backed off.")


@router.get(
    "/messages",
    summary="List a job's messages",
    responses={200: {"model": MessageList}},
    openapi_extra=only(READ_OWN),
)
async def list_messages(
    gateway: TheServices,
    caller: TheCaller,
    job_id: Annotated[UUID, Query(description="The job whose messages to list.")],
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """The result for each recipient; kept longer than the job itself.

    A producer sees those of the jobs that its own key submitted, while the job is kept.
    """

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        await own_job(connection, job_id=job_id, caller=caller)
        return await queries.messages(connection, tenant=caller.tenant, job_id=job_id, limit=limit)

    rows = await gateway.ledger.call(work)
    return JsonResponse({"messages": rows})


@router.get(
    "/suppressions",
    summary="List suppressed addresses",
    responses={200: {"model": SuppressionPage}},
    openapi_extra=only(READ),
)
async def list_suppressions(
    gateway: TheServices,
    caller: TheCaller,
    after: Annotated[str, Query(max_length=320, description="Only addresses after this one.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Addresses on this list get no mail, whatever a job says."""
    found = await gateway.ledger.call(
        suppressions.list_all, tenant=caller.tenant, after=after, limit=limit + 1
    )
    shown = found[:limit]
    last = shown[-1].address if len(found) > len(shown) else None
    return JsonResponse({"suppressions": [asdict(entry) for entry in shown], "next": last})


@router.post(
    "/suppressions",
    summary="Suppress addresses",
    responses={200: {"model": Suppressed}},
    openapi_extra=only(OPERATE),
)
async def suppress(asked: SuppressionRequest, gateway: TheServices, caller: TheCaller) -> Response:
    """Send no more mail to these addresses; this applies to waiting jobs too."""
    for index, address in enumerate(asked.addresses):
        _check_address(address, field=f"addresses.{index}")
    count = await gateway.ledger.call(
        suppressions.suppress,
        tenant=caller.tenant,
        addresses=asked.addresses,
        reason=asked.reason,
    )
    log.info("addresses.suppressed", by=caller.name, count=count)
    return JsonResponse({"suppressed": count})


@router.delete(
    "/suppressions/{address}",
    summary="Lift a suppression",
    status_code=204,
    responses={204: {"description": "The address may get mail again."}},
    openapi_extra=only(OPERATE),
)
async def lift(
    address: Annotated[str, Path(max_length=320)], gateway: TheServices, caller: TheCaller
) -> Response:
    """Allow mail to the address again."""
    if not await gateway.ledger.call(suppressions.lift, tenant=caller.tenant, address=address):
        raise Problem(Code.NOT_FOUND, "The address is not suppressed.")
    log.info("address.lifted", by=caller.name, address=logs.hashed(address))
    return Response(status_code=204)


@router.get(
    "/relays",
    summary="List relays that had trouble",
    responses={200: {"model": RelayList}},
    openapi_extra=only(READ),
)
async def list_relays(gateway: TheServices, caller: TheCaller) -> Response:
    """Relays that are or were stopped (login refused) or backed off (too busy)."""
    found = await gateway.ledger.call(relay_states.list_all, tenant=caller.tenant)
    return JsonResponse({"relays": [asdict(relay) for relay in found]})


@router.post(
    "/relays/{name}/resume",
    summary="Resume a relay",
    responses={200: {"model": Resumed}},
    openapi_extra=only(OPERATE),
)
async def resume_relay(
    name: Annotated[str, Path(max_length=100)], gateway: TheServices, caller: TheCaller
) -> Response:
    """Use the relay again at once, after its login or its limits have been fixed."""
    resumed = await gateway.ledger.call(relay_states.resume, tenant=caller.tenant, name=name)
    log.info("relay.resumed", by=caller.name, relay=name[:100], resumed=resumed)
    return JsonResponse({"name": name, "resumed": resumed})


def _check_address(address: str, *, field: str) -> None:
    try:
        addresses.wire_form(address)
    except ValueError:
        message = f"{field}: not an email address."
        raise Problem(Code.VALUE_INVALID, message, field=field, remedy="Correct it.") from None
