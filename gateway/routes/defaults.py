"""Default values: what a template's variables are where a caller leaves them out."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.callers import DEFAULT_TENANT, OPERATE, READ_ONE, Caller, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.responses import JsonResponse
from gateway.services import TheCaller, TheServices
from gateway.template_request import NAME, DefaultRequest, Scope
from ledger import defaults
from ledger.defaults import Default
from runtime import logs

router = APIRouter(prefix="/api/v1/defaults", tags=["templates"], route_class=GuardedRoute)
log = logs.logger("gateway")

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
VariableName = Annotated[str, Path(pattern=VARIABLE)]
OfTemplate = Annotated[str | None, Query(pattern=NAME, description="Set for this template.")]


class DefaultView(BaseModel):
    """A default value, and how often mails needed it."""

    variable: str
    value: Any
    template: str | None = Field(description="Null: in every template.")
    scope: Scope
    used: int = Field(description="How many mails needed it; some seconds behind.")
    changed_at: datetime
    changed_by: str


class DefaultPage(BaseModel):
    """Defaults by variable; `next` goes into `after` to get the next page."""

    defaults: list[DefaultView]
    next: str | None


@router.get(
    "",
    summary="List default values",
    responses={200: {"model": DefaultPage}},
    openapi_extra=only(READ_ONE),
)
async def list_defaults(
    gateway: TheServices,
    caller: TheCaller,
    template: OfTemplate = None,
    after: Annotated[
        str, Query(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}:[0-9]{1,18}$", description="`next`.")
    ]
    | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Those of the caller's tenant and those of everybody."""
    variable, _, number = (after or ":0").partition(":")
    found = await gateway.ledger.call(
        defaults.list_all,
        tenant=caller.tenant,
        template=template,
        after=(variable, int(number)),
        limit=limit + 1,
    )
    shown = found[:limit]
    last = shown[-1] if len(found) > len(shown) else None
    return JsonResponse(
        {
            "defaults": [_view(default) for default in shown],
            "next": f"{last.variable}:{last.id}" if last else None,
        }
    )


@router.put(
    "/{variable}",
    summary="Set a default value",
    responses={200: {"model": DefaultView}},
    openapi_extra=only(OPERATE),
)
async def set_default(
    variable: VariableName, asked: DefaultRequest, gateway: TheServices, caller: TheCaller
) -> Response:
    """Workers use it within 30 s. Mails that have begun keep to what they began with."""
    tenant = _tenant(asked.scope, caller)
    made = await gateway.actions.call(
        defaults.put,
        tenant=tenant,
        template=asked.template or "",
        variable=variable,
        value=asked.value,
        by=caller.name,
    )
    log.info("default.set", by=caller.name, variable=variable, template=asked.template)
    return JsonResponse(_view(made))


@router.delete(
    "/{variable}",
    summary="Delete a default value",
    status_code=204,
    responses={204: {"description": "The next nearest default counts, if there is one."}},
    openapi_extra=only(OPERATE),
)
async def delete_default(
    variable: VariableName,
    gateway: TheServices,
    caller: TheCaller,
    template: OfTemplate = None,
    scope: Annotated[Scope, Query(description="Whose it is.")] = "tenant",
) -> Response:
    """The one that was set for just this template (or none) and scope."""
    tenant = _tenant(scope, caller)
    is_gone = await gateway.actions.call(
        defaults.remove, tenant=tenant, template=template or "", variable=variable
    )
    if not is_gone:
        raise Problem(Code.NOT_FOUND, "There is no such default.", remedy="Check its template.")
    log.info("default.deleted", by=caller.name, variable=variable, template=template)
    return Response(status_code=204)


def _tenant(scope: Scope, caller: Caller) -> str | None:
    if scope == "tenant":
        return caller.tenant
    if caller.tenant != DEFAULT_TENANT:
        raise Problem(
            Code.DEFAULT_TENANT_ONLY,
            "Values for everybody are set by the tenant default.",
            remedy="Leave 'scope' out to set one for your own tenant.",
        )
    return None


def _view(default: Default) -> dict[str, Any]:
    fields = asdict(default)
    fields["scope"] = "everybody" if default.tenant is None else "tenant"
    fields["template"] = default.template or None
    return {name: fields[name] for name in DefaultView.model_fields}
