"""Stored templates: save, read, compare and preview their versions, archive."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from gateway.callers import OPERATE, READ_ONE, Caller, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute
from gateway.responses import JsonResponse
from gateway.services import Services, TheCaller, TheServices
from gateway.template_request import NAME, PreviewRequest, TemplateContent, TemplateRequest
from gateway.template_view import (
    DiffView,
    PreviewView,
    SavedView,
    TemplatePage,
    VersionPage,
    VersionView,
    comparable,
    version_view,
)
from ledger import defaults, templates
from ledger.templates import Compiled, Content, Version
from runtime import logs
from runtime.errors import RelaisError
from tasks.email import composer
from tasks.email.payload import Email
from tasks.templates import plain_text, variables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.defaults import Default
    from tasks.templates.variables import Resolved

router = APIRouter(prefix="/api/v1/templates", tags=["templates"], route_class=GuardedRoute)
log = logs.logger("gateway")

Name = Annotated[str, Path(pattern=NAME)]
Number = Annotated[int, Path(ge=1, le=templates.VERSION_MAX)]
# Whose mail a preview is: its size counts headers as long as real ones.
SAMPLE: dict[str, Any] = {
    "from": "Relais <sender@example.org>",
    "to": ["Recipient <recipient@example.org>"],
}


@router.get(
    "",
    summary="List templates",
    responses={200: {"model": TemplatePage}},
    openapi_extra=only(READ_ONE),
)
async def list_templates(
    gateway: TheServices,
    caller: TheCaller,
    after: Annotated[str, Query(max_length=64, description="Behind this name.")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    *,
    archived: Annotated[bool, Query(description="Those that are archived as well.")] = False,
) -> Response:
    """By name, with the subject of the newest version."""
    found = await gateway.ledger.call(
        templates.list_all,
        tenant=caller.tenant,
        after=after,
        limit=limit + 1,
        archived=archived,
    )
    shown = found[:limit]
    last = shown[-1].name if len(found) > len(shown) else None
    return JsonResponse({"templates": [asdict(row) for row in shown], "next": last})


@router.post(
    "",
    summary="Create a template",
    status_code=201,
    responses={201: {"model": SavedView}},
    openapi_extra=only(OPERATE),
)
async def create_template(
    asked: TemplateRequest, gateway: TheServices, caller: TheCaller
) -> Response:
    """Its first version; the name of an archived template gets a further version, and is back."""
    if await gateway.ledger.call(templates.exists, tenant=caller.tenant, name=asked.name):
        message = f"name: there is a template {asked.name!r} already."
        remedy = f"PUT /api/v1/templates/{asked.name} makes a new version of it."
        raise Problem(Code.VALUE_INVALID, message, field="name", remedy=remedy)
    view = await _save(asked, name=asked.name, gateway=gateway, caller=caller)
    headers = {"location": f"/api/v1/templates/{asked.name}"}
    return JsonResponse(view, status_code=201, headers=headers)


@router.get(
    "/{name}",
    summary="Show a template",
    responses={200: {"model": VersionView}},
    openapi_extra=only(READ_ONE),
)
async def show_template(name: Name, gateway: TheServices, caller: TheCaller) -> Response:
    """Its newest version; archived ones are shown as well."""
    found = await gateway.ledger.call(templates.find, tenant=caller.tenant, name=name)
    return JsonResponse(version_view(found))


@router.put(
    "/{name}",
    summary="Save a new version",
    responses={200: {"model": SavedView}},
    openapi_extra=only(OPERATE),
)
async def save_template(
    name: Name, asked: TemplateContent, gateway: TheServices, caller: TheCaller
) -> Response:
    """The same content again makes no new version; mails that have begun keep to theirs."""
    if not await gateway.ledger.call(templates.exists, tenant=caller.tenant, name=name):
        raise Problem(
            Code.NOT_FOUND,
            f"There is no template {name!r}, or it is archived.",
            remedy="POST /api/v1/templates makes it.",
        )
    return JsonResponse(await _save(asked, name=name, gateway=gateway, caller=caller))


@router.delete(
    "/{name}",
    summary="Archive a template",
    status_code=204,
    responses={204: {"description": "Its name means nothing any more; its versions stay."}},
    openapi_extra=only(OPERATE),
)
async def archive_template(name: Name, gateway: TheServices, caller: TheCaller) -> Response:
    """Jobs that name it fail; those that name one of its versions, or have begun, do not."""
    if not await gateway.ledger.call(templates.archive, tenant=caller.tenant, name=name):
        raise Problem(Code.NOT_FOUND, f"There is no template {name!r}, or it is archived already.")
    log.info("template.archived", by=caller.name, template=name)
    return Response(status_code=204)


@router.get(
    "/{name}/versions",
    summary="List versions",
    responses={200: {"model": VersionPage}},
    openapi_extra=only(READ_ONE),
)
async def list_versions(
    name: Name,
    gateway: TheServices,
    caller: TheCaller,
    before: Annotated[
        int, Query(ge=1, le=templates.VERSION_MAX, description="Older than this one.")
    ] = templates.VERSION_MAX,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """The newest first."""

    async def work(connection: AsyncConnection) -> list[templates.VersionRow]:
        await templates.find(connection, tenant=caller.tenant, name=name)
        return await templates.list_versions(
            connection, tenant=caller.tenant, name=name, before=before, limit=limit + 1
        )

    found = await gateway.ledger.call(work)
    shown = found[:limit]
    last = shown[-1].version if len(found) > len(shown) else None
    rows = [{**asdict(row), "sha256": row.sha256.hex()} for row in shown]
    return JsonResponse({"versions": rows, "next": last})


@router.get(
    "/{name}/versions/{version}",
    summary="Show a version",
    responses={200: {"model": VersionView}},
    openapi_extra=only(READ_ONE),
)
async def show_version(
    name: Name, version: Number, gateway: TheServices, caller: TheCaller
) -> Response:
    """As it was saved; a version never changes."""
    found = await _find(gateway, caller, name=name, version=version)
    return JsonResponse(version_view(found))


@router.get(
    "/{name}/diff",
    summary="Compare two versions",
    responses={200: {"model": DiffView}},
    openapi_extra=only(READ_ONE),
)
async def compare_versions(
    name: Name,
    gateway: TheServices,
    caller: TheCaller,
    before: Annotated[int, Query(alias="from", ge=1, le=templates.VERSION_MAX)],
    after: Annotated[int, Query(alias="to", ge=1, le=templates.VERSION_MAX)],
) -> Response:
    """A unified diff of each part that differs."""
    sides = [await _find(gateway, caller, name=name, version=n) for n in (before, after)]
    arguments = {"before": comparable(sides[0]), "after": comparable(sides[1])}
    return JsonResponse({"parts": await gateway.rendering.call("diff", arguments)})


@router.post(
    "/{name}/preview",
    summary="Preview a template",
    responses={200: {"model": PreviewView}},
    openapi_extra=only(READ_ONE),
)
async def preview_template(
    name: Name, asked: PreviewRequest, gateway: TheServices, caller: TheCaller
) -> Response:
    """What would be sent with these variables; what is missing is listed. Nothing is sent."""

    async def work(connection: AsyncConnection) -> tuple[Version, list[Default]]:
        found = await templates.find(
            connection, tenant=caller.tenant, name=name, version=asked.version
        )
        return found, await defaults.look_up(
            connection,
            tenant=caller.tenant,
            template=name,
            variables=variables.names(found.variables, found.mentions),
        )

    version, beside = await gateway.ledger.call(work)
    view: dict[str, Any] = {
        **dict.fromkeys(PreviewView.model_fields),
        "template": version.reference,
        **dict.fromkeys(("missing", "unset", "defaults"), ()),
    }
    try:
        resolved = variables.resolve(
            asked.variables, schema=version.variables, mentions=version.mentions, defaults=beside
        )
        view |= {
            "missing": resolved.missing,
            "unset": resolved.unset,
            "defaults": sorted(resolved.defaulted),
        }
        view |= await _rendered(version, resolved, gateway=gateway)
    except RelaisError as error:
        if isinstance(error, Problem) and error.code is not Code.VALUE_INVALID:
            raise
        view["error"] = str(error)
    return JsonResponse(view)


async def _rendered(version: Version, resolved: Resolved, *, gateway: Services) -> dict[str, Any]:
    arguments = {"fields": version.parts, "variables": resolved.values}
    parts = await gateway.rendering.call("render", arguments)
    if version.is_text_derived:
        parts["text"] = plain_text.tidy(parts["text"])
    email = Email.model_validate({**SAMPLE, "template": version.reference}).with_content(parts)
    raw = composer.compose(email, message_id=f"<{'0' * 32}@example.org>", date=datetime.now(UTC))
    return {**parts, "raw_bytes": len(raw)}


async def _save(
    asked: TemplateContent, *, name: str, gateway: Services, caller: Caller
) -> dict[str, Any]:
    content = Content(
        subject=asked.subject,
        html=asked.html,
        mjml=asked.mjml,
        text=asked.text,
        inlines_css=asked.inline_css,
        variables=asked.variables.schema_of_object(),
    )
    parts = {
        "subject": content.subject,
        "html": content.html,
        "mjml": content.mjml,
        "text": content.text,
        "inline_css": content.inlines_css,
    }
    made = await gateway.rendering.call("compile", parts)
    compiled = Compiled(html=made["html"], text=made["text"], mentions=tuple(made["mentions"]))

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        saved = await templates.save(
            connection,
            tenant=caller.tenant,
            name=name,
            content=content,
            compiled=compiled,
            by=caller.name,
        )
        found = await templates.find(
            connection, tenant=caller.tenant, name=name, version=saved.version
        )
        return version_view(found) | {"is_new": saved.is_new}

    view = await gateway.actions.call(work)
    log.info("template.saved", by=caller.name, template=name, version=view["version"])
    return view


async def _find(gateway: Services, caller: Caller, *, name: str, version: int) -> Version:
    return await gateway.ledger.call(
        templates.find, tenant=caller.tenant, name=name, version=version
    )
