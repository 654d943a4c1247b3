"""Guards every route: credentials first, then the rate limit, then the body, then the work.

A route that does not say who may call it cannot be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request

from gateway import body
from gateway.errors import Code, Problem
from gateway.services import caller, services

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.responses import Response

Endpoint = TypeVar("Endpoint", bound="Callable[..., Coroutine[Any, Any, Response]]")
_DIRECT = "_relais_direct"


def direct(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint that takes the raw request and does everything itself."""
    setattr(endpoint, _DIRECT, True)
    return endpoint


class ParsedRequest(Request):
    """A request whose body the guard has already read, capped, measured and parsed."""

    parsed: Any = None

    async def json(self) -> Any:  # noqa: ANN401 - any JSON
        """The parsed body."""
        return self.parsed


class GuardedRoute(APIRoute):
    """A route that asks for credentials before it reads anything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI calls."""
        declared = (self.openapi_extra or {}).get("x-roles")
        if declared is None:
            message = f"{self.path} does not say who may call it."
            raise TypeError(message)
        roles = frozenset(declared)
        is_direct = getattr(self.endpoint, _DIRECT, False)
        inner = self.endpoint if is_direct else super().get_route_handler()
        has_body = self.body_field is not None and not is_direct
        path = self.path

        async def handle(request: Request) -> Response:
            _refuse_nul(request)
            if roles:
                await admit(request, roles=roles, path=path)
            if has_body:
                request = await _with_body(request)
            response: Response = await inner(request)
            return response

        return handle


async def admit(request: Request, *, roles: frozenset[str], path: str) -> None:
    """Let the caller in, as `request.state.caller`, or refuse with 401, 403 or 429."""
    gateway = services(request)
    found = await gateway.authentication.identify(request.scope["headers"])
    gateway.rate.spend(found)
    if found.role not in roles:
        raise Problem(
            Code.ROLE_MISSING,
            f"The role {found.role} may not call {request.method} {path}.",
            remedy=f"Use a key with one of these roles: {', '.join(sorted(roles))}.",
        )
    request.state.caller = found


def _refuse_nul(request: Request) -> None:
    if "\0" in request.scope["path"]:
        raise Problem(Code.NOT_FOUND, "There is nothing at this path.")
    if b"%00" in request.scope["query_string"]:
        raise Problem(
            Code.VALUE_INVALID, "The query contains a NUL character.", remedy="Remove it."
        )


async def _with_body(request: Request) -> ParsedRequest:
    body.require_json(request)
    gateway = services(request)
    settings = gateway.settings
    async with gateway.bodies.room(caller(request)) as room:
        content = await body.read(request, max_bytes=settings.body_max_bytes, room=room)
    parsed = ParsedRequest(request.scope, request.receive)
    parsed._body = content  # noqa: SLF001 - where Starlette keeps a body that was read
    parsed.parsed = body.parse(content, max_depth=settings.body_max_depth)
    return parsed
