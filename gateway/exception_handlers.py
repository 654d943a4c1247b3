"""Every way in which a request can fail, turned into a problem; none of them is a bare 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from gateway import responses
from gateway.errors import Code, Problem
from ledger import outage
from ledger.errors import (
    IdempotencyConflict,
    InvalidKey,
    InvalidSchedule,
    LedgerError,
    LedgerUnavailable,
    NotFound,
    UnfitDatabase,
    WrongState,
)
from runtime import logs
from runtime.errors import words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = logs.logger("gateway")

RETRY_AFTER_S = 2
_PLACES = {"body", "query", "header", "cookie"}
_LEDGER_CODES: dict[type[LedgerError], Code] = {
    NotFound: Code.NOT_FOUND,
    WrongState: Code.WRONG_STATE,
    IdempotencyConflict: Code.IDEMPOTENCY_CONFLICT,
    InvalidKey: Code.VALUE_INVALID,
    InvalidSchedule: Code.VALUE_INVALID,
    UnfitDatabase: Code.LEDGER_UNFIT,
    LedgerUnavailable: Code.LEDGER_UNAVAILABLE,
}


def invalid(errors: Iterable[Mapping[str, Any]], *, under: Sequence[str] = ()) -> Problem:
    """A problem from pydantic's errors; the offending values themselves are not repeated."""
    entries = [
        {
            "field": ".".join([*under, *(str(part) for part in error["loc"])]) or "body",
            "code": error["type"],
            "detail": words_of(error),
        }
        for error in errors
    ]
    first = entries[0]
    return Problem(
        Code.VALUE_INVALID,
        f"{first['field']}: {first['detail']}.",
        field=first["field"],
        errors=entries,
        remedy="Correct the named fields; the schema is at /openapi.json and /api/v1/kinds.",
    )


def invalid_model(error: ValidationError, *, under: Sequence[str] = ()) -> Problem:
    """A problem from a model that did not validate."""
    return invalid(
        error.errors(include_url=False, include_context=False, include_input=False), under=under
    )


def from_ledger(error: LedgerError) -> Problem:
    """A problem from what the ledger refused."""
    code = next(
        (code for kind, code in _LEDGER_CODES.items() if isinstance(error, kind)),
        Code.LEDGER_UNAVAILABLE,
    )
    headers = {"Retry-After": str(RETRY_AFTER_S)} if code.startswith("ledger_") else None
    field = error.field if isinstance(error, InvalidSchedule) else None
    return Problem(code, error.sentence, remedy=error.remedy, field=field, headers=headers)


def unavailable() -> Problem:
    """Postgres is down; nothing was confirmed."""
    return Problem(
        Code.LEDGER_UNAVAILABLE,
        "The ledger does not respond; nothing was confirmed.",
        remedy="Send the request again in a few seconds, with the same Idempotency-Key.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def locked() -> Problem:
    """Another transaction held a lock for longer than the caller can be kept waiting."""
    return Problem(
        Code.LEDGER_UNAVAILABLE,
        "Another transaction holds a lock that this needs; nothing was confirmed.",
        remedy="Send the request again in a few seconds, with the same Idempotency-Key.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def from_database(error: SQLAlchemyError) -> Problem:
    """A value that Postgres cannot hold is the caller's; everything else is an outage."""
    if outage.is_own_fault(error):
        if outage.sqlstate(error).startswith("23"):  # a constraint that no check covers
            log.error("ledger.failed", exc_info=error)
        return Problem(
            Code.VALUE_INVALID,
            "A value cannot be stored.",
            remedy="Look for numbers out of range and invalid Unicode characters.",
        )
    if outage.sqlstate(error) == "55P03":
        return locked()
    log.error("ledger.failed", exc_info=error)
    return unavailable()


def problem_of(request: Request, error: Exception) -> Problem:
    """The problem to report for `error`; re-raises what is a bug of ours."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _from_fastapi(error)
        case HTTPException():
            return _from_starlette(request, error)
        case LedgerError():
            return from_ledger(error)
        case SQLAlchemyError():
            return from_database(error)
    raise error


def install(app: FastAPI) -> None:
    """Have `app` report every failure as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return responses.refuse(problem_of(request, error))

    for kind in (Problem, RequestValidationError, HTTPException, LedgerError, SQLAlchemyError):
        app.add_exception_handler(kind, answer)


def _from_fastapi(error: RequestValidationError) -> Problem:
    found = error.errors()
    if any(entry["loc"][:1] == ("path",) for entry in found):
        # No such name can exist.
        return Problem(Code.NOT_FOUND, "There is nothing at this path.", remedy="Check the id.")
    plain = [
        {**entry, "loc": entry["loc"][1:] if entry["loc"][0] in _PLACES else entry["loc"]}
        for entry in found
    ]
    return invalid(plain)


def _from_starlette(request: Request, error: HTTPException) -> Problem:
    if error.status_code == 404:
        return Problem(
            Code.PATH_UNKNOWN,
            f"There is no path {request.url.path[:200]}.",
            remedy="The paths are listed at /docs.",
        )
    if error.status_code == 405:
        return Problem(
            Code.METHOD_NOT_ALLOWED,
            f"{request.url.path[:200]} does not support {request.method}.",
            remedy="The Allow header lists the methods that it supports.",
            headers={"Allow": ", ".join(sorted(_methods(request)))},
        )
    return Problem(Code.MALFORMED_JSON, str(error.detail), headers=error.headers)


def _methods(request: Request) -> set[str]:
    """Every method of the path: those of its own routes, else of the patterns that it matches."""
    path = request.scope["path"]
    routes = [route for route in request.app.router.routes if isinstance(route, APIRoute)]
    own = [route for route in routes if route.path == path]
    found = own or [route for route in routes if route.path_regex.match(path)]
    return {method for route in found for method in route.methods or ()}
