"""What the routes work with; created once when the gateway starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import Request

from gateway.callers import Caller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from doorbell.ringer import Ringer
    from gateway.authentication import Authentication
    from gateway.body_memory import BodyMemory
    from gateway.clock import Clock
    from gateway.connections import Connections
    from gateway.health import HealthProbe
    from gateway.intake import Intake
    from gateway.long_poll import LongPolls
    from gateway.rate import RateLimit
    from gateway.rendering import Rendering
    from runtime.settings import Settings
    from tasks.kinds import Kind


@dataclass(frozen=True, slots=True)
class Services:
    """The gateway's parts."""

    settings: Settings
    kinds: Mapping[str, Kind]
    ledger: Connections
    actions: Connections  # for changes of rows that another transaction may have locked
    clock: Clock
    authentication: Authentication
    rate: RateLimit
    intake: Intake
    ringer: Ringer
    long_polls: LongPolls
    health: HealthProbe
    bodies: BodyMemory
    rendering: Rendering


def services(request: Request) -> Services:
    """The services of the running gateway."""
    found = request.app.state.services
    assert isinstance(found, Services)  # noqa: S101 - set before the first request
    return found


def caller(request: Request) -> Caller:
    """The caller that the guard admitted."""
    found = request.state.caller
    assert isinstance(found, Caller)  # noqa: S101 - set by the guard
    return found


TheServices = Annotated[Services, Depends(services)]
TheCaller = Annotated[Caller, Depends(caller)]
