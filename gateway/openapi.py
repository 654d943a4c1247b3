"""The OpenAPI document: what FastAPI knows, plus what it cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from gateway.job_request import JobRequest
from gateway.job_view import ProblemDocument
from tasks import kinds

if TYPE_CHECKING:
    from fastapi import FastAPI

ABOUT = """\
Submit a job and move on; Relais runs it, retries it, keeps track of it and calls back.

A `202` means that the job is committed to Postgres. Every refusal is a problem (RFC 9457) with a \
stable `code`. Credentials go into `Authorization: Bearer <key>` or `X-API-Key`."""
TAGS = [
    {"name": "jobs", "description": "Submit jobs and follow them."},
    {"name": "kinds", "description": "What a job can do."},
    {"name": "operators", "description": "Fix jobs, pause queues and lanes."},
    {"name": "mail", "description": "Messages, suppressed addresses, relays."},
    {"name": "templates", "description": "Stored templates and default values."},
    {"name": "schedules", "description": "Recurring jobs."},
    {"name": "keys", "description": "API keys."},
    {"name": "health", "description": "Health and metrics."},
]
_TITLES = {
    "400": "The request cannot be read",
    "401": "No valid credentials",
    "403": "The role may not do this",
    "404": "Not found",
    "408": "The body did not arrive in time",
    "409": "The state does not allow it",
    "413": "Too large",
    "415": "The content type is not supported",
    "422": "A value is not valid",
    "429": "Too many requests",
    "503": "The ledger does not respond",
}
_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}


def document(app: FastAPI) -> dict[str, Any]:
    """The document, built once."""
    if app.openapi_schema is None:
        app.openapi_schema = _make(app)
    return app.openapi_schema


def _make(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary="A durable job engine for people who automate with n8n",
        description=ABOUT,
        routes=app.routes,
        tags=TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    components = made.setdefault("components", {})
    _, definitions = models_json_schema(
        [(JobRequest, "validation"), (ProblemDocument, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    schemas = components.setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    schemas["JobRequest"]["properties"]["kind"]["enum"] = kind_names()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JWT."},
    }
    _link_jobs(made["paths"])
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _add_problems(operation, path=path, method=method)
    return made


def _link_jobs(paths: dict[str, Any]) -> None:
    """Add links from the id of an accepted job."""
    accepted = paths["/api/v1/jobs"]["post"]["responses"]["202"]
    accepted["links"] = {
        operation["summary"]: {
            "operationId": operation["operationId"],
            "parameters": {"job_id": "$response.body#/id"},
        }
        for path, operations in paths.items()
        if path.startswith("/api/v1/jobs/{job_id}")
        for operation in operations.values()
    }


def kind_names() -> list[str]:
    """What callers may ask for."""
    return sorted(kind.name for kind in kinds.load().values() if not kind.internal)


def _add_problems(operation: dict[str, Any], *, path: str, method: str) -> None:
    statuses = {"422"}
    if operation["security"]:
        statuses |= {"401", "403", "429", "503"}
    elif path == "/metrics":
        statuses |= {"401", "403", "429"}
    if "{" in path:
        statuses.add("404")
    if "requestBody" in operation:
        statuses |= {"400", "408", "413", "415"}
    if path.endswith(("/retry", "/cancel", "/resolve")):
        statuses.add("409")
    if method == "delete":
        statuses.add("404")
    responses = operation["responses"]
    responses.pop("422", None)
    for status in sorted(statuses):
        responses.setdefault(
            status,
            {
                "description": _TITLES[status],
                "content": {"application/problem+json": {"schema": _PROBLEM}},
            },
        )
