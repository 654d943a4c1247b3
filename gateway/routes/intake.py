"""POST /api/v1/jobs and /api/v1/jobs/batch: how jobs get in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway import body, exception_handlers
from gateway.batch import ARRAY_MAX_BYTES, Batch
from gateway.callers import ACCEPT, only
from gateway.errors import Code, Problem
from gateway.guard import GuardedRoute, direct
from gateway.intake import links, receipt
from gateway.job_request import EXAMPLES
from gateway.job_view import BatchReceipt, Receipt
from gateway.middleware import TRACE_ID, TRACEPARENT
from gateway.ndjson import MEDIA_TYPES
from gateway.preparation import Origin
from gateway.responses import JsonResponse
from gateway.services import caller, services
from ledger import queries
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from gateway.services import Services
    from ledger.shapes import Accepted

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=GuardedRoute)

IDEMPOTENCY_KEY_MAX = 255
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Two requests with one key create one job. Same as the field idempotency_key.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
}
_TRACE_PARAMETERS = [
    {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "description": "W3C Trace Context; the job continues this trace.",
        "schema": {"type": "string"},
        "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
    {
        "name": "X-Trace-ID",
        "in": "header",
        "required": False,
        "description": "Your own name for the trace, kept with the job and returned.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
    },
]
_JOB = {"$ref": "#/components/schemas/JobRequest"}


@router.post(
    "",
    summary="Submit a job",
    status_code=202,
    responses={
        202: {
            "model": Receipt,
            "description": "The job is committed. With `Idempotency-Replayed: true` it is the "
            "first job with this key.",
        }
    },
    openapi_extra=only(
        ACCEPT,
        parameters=[_KEY_PARAMETER, *_TRACE_PARAMETERS],
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": _JOB, "examples": EXAMPLES}},
        },
    ),
)
@direct
async def accept_job(request: Request) -> Response:
    """Responds when the job is durable, whether or not Redis or a worker is up."""
    gateway = services(request)
    body.require_json(request)
    settings = gateway.settings
    async with gateway.bodies.room(caller(request)) as room:
        content = await body.read(request, max_bytes=settings.body_max_bytes, room=room)
        asked = body.parse(content, max_depth=settings.body_max_depth)
        job = gateway.intake.prepare(
            asked, origin=_origin(request), key=_key(request), size=len(content)
        )
        accepted = await gateway.intake.accept(job)
    headers = {"location": f"/api/v1/jobs/{accepted.id}"}
    if accepted.is_new:
        return JsonResponse(receipt(job, accepted), status_code=202, headers=headers)
    headers["idempotency-replayed"] = "true"
    first = await _first(gateway, tenant=job.tenant, accepted=accepted)
    return JsonResponse(first, status_code=202, headers=headers)


@router.post(
    "/batch",
    summary="Submit many jobs",
    status_code=202,
    responses={
        202: {"model": BatchReceipt, "description": "The accepted jobs are committed."},
    },
    openapi_extra=only(
        ACCEPT,
        parameters=[
            {
                **_KEY_PARAMETER,
                "description": "Gives every job without a key of its own the key `KEY#index`, so "
                "that the whole batch can be sent again.",
            },
            *_TRACE_PARAMETERS,
        ],
        requestBody={
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "array", "items": _JOB, "minItems": 1},
                    "example": [EXAMPLES["critical_mail"]["value"], EXAMPLES["render"]["value"]],
                },
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "One job a line."}
                },
            },
        },
    ),
)
@direct
async def accept_batch(request: Request) -> Response:
    """A JSON array, or NDJSON that is accepted while it arrives.

    A bad job does not affect the others: `errors` names each by its index. Where the batch as a
    whole ends early, the problem lists what had been accepted by then.
    """
    gateway = services(request)
    settings = gateway.settings
    media_type = body.media_type(request)
    batch = Batch(gateway.intake, origin=_origin(request), settings=settings, key=_key(request))
    try:
        if media_type in MEDIA_TYPES:
            chunks = body.chunks(request, max_bytes=settings.batch_max_bytes)
            async with gateway.bodies.room(caller(request)) as room:
                await batch.take_lines(chunks, room=room)
        else:
            body.require_json(request)
            max_bytes = min(ARRAY_MAX_BYTES, settings.batch_max_bytes)
            async with gateway.bodies.room(caller(request)) as room:
                content = await body.read(request, max_bytes=max_bytes, room=room)
                await batch.take_array(content)
        await batch.wait_for_locks()
    except (Problem, LedgerError) as error:
        await batch.stop()
        problem = error if isinstance(error, Problem) else exception_handlers.from_ledger(error)
        if batch.jobs or batch.errors:
            problem.extra |= batch.document()
        raise problem from error
    document = batch.document()
    if not batch.jobs:
        raise _nothing(document)
    return JsonResponse(document, status_code=202)


def _nothing(document: dict[str, Any]) -> Problem:
    errors = document["errors"]
    if errors and all(error["code"] == Code.LEDGER_UNAVAILABLE for error in errors):
        problem = exception_handlers.locked()
        problem.extra |= document
        return problem
    detail = f"0: {errors[0]['detail']}" if errors else "The batch is empty."
    return Problem(
        Code.NOTHING_ACCEPTED,
        detail,
        remedy="Correct the jobs; errors lists each by its index.",
        extra=document,
    )


async def _first(gateway: Services, *, tenant: str, accepted: Accepted) -> dict[str, Any]:
    """The receipt of the earlier job with the same key."""
    row = await gateway.ledger.call(queries.job, tenant=tenant, job_id=accepted.id)
    if row is None:  # pruned a moment ago
        raise Problem(Code.NOT_FOUND, f"Job {accepted.id} has been pruned.")
    names = ("id", "state", "kind", "queue", "priority", "created_at", "run_at", "trace_id")
    return {name: row[name] for name in names} | {"links": links(accepted.id)}


def _origin(request: Request) -> Origin:
    return Origin(
        caller=caller(request),
        traceparent=request.scope[TRACEPARENT],
        trace_id=request.scope[TRACE_ID],
    )


def _key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise Problem(
            Code.REQUEST_MALFORMED,
            "Idempotency-Key was sent more than once.",
            field="Idempotency-Key",
            remedy="Send it once.",
        )
    key = given[0]
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX or not key.isascii() or not key.isprintable():
        raise Problem(
            Code.VALUE_INVALID,
            "Idempotency-Key is not valid.",
            field="Idempotency-Key",
            remedy=f"Use 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters.",
        )
    return key
