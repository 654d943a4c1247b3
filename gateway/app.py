"""The application: its routes, its layers, and what it opens and closes."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from doorbell.ringer import Ringer
from gateway import exception_handlers, openapi
from gateway.authentication import Authentication
from gateway.body_memory import BodyMemory
from gateway.clock import Clock
from gateway.connections import ANSWER_WITHIN_S, Connections
from gateway.guard import GuardedRoute
from gateway.handover import GROUP_WAITS_MS
from gateway.health import HealthProbe
from gateway.intake import Intake
from gateway.long_poll import LongPolls
from gateway.middleware import Middleware
from gateway.rate import RateLimit
from gateway.rendering import Rendering
from gateway.routes import (
    actions,
    defaults,
    health,
    intake,
    jobs,
    keys,
    kinds,
    lanes,
    mail,
    pages,
    queues,
    schedules,
    templates,
)
from gateway.services import Services
from gateway.tokens import Tokens
from ledger import database
from ledger.errors import LedgerUnavailable
from runtime import logs
from tasks import kinds as registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from runtime.settings import Settings

log = logs.logger("gateway")

# How many connections each part of the gateway may use at once. Intake sets its own number and has
# its own pool: those sessions have a short lock timeout by default, so it need not be set each
# time.
READS = 4
ACTIONS = 2  # they may wait for a lock
LOOK_UPS = 2
HEALTH = 2  # and the clock
POOL_SIZE = 16  # of each pool: all of the above, plus abandoned ones that have not ended yet
# In the order of /docs; `/jobs/stats` and `/jobs/retry` before `/jobs/{job_id}`.
ROUTERS = (
    *(intake, jobs, actions, kinds, queues, lanes, mail, templates, defaults, schedules, keys),
    *(health, pages),
)


def create(settings: Settings) -> Middleware:
    """The application for these settings; it opens its connections when it starts.

    Raises SettingsError for token settings that are wrong.
    """
    tokens = Tokens(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = _open(settings, tokens)
        app.state.services = services
        try:
            await services.ledger.call(_nothing)  # an unfit database is refused right here
            await services.clock.look()
        except LedgerUnavailable:
            log.warning("gateway.without_ledger")  # 503 until it is up
        services.clock.start()
        # What exists now stays. Excluded from garbage collection, it no longer blocks the loop for
        # a tenth of a second whenever the oldest generation is collected.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            services.long_polls.release_all()
            await services.intake.close()
            services.ringer.close()
            await services.clock.close()
            await services.health.close()
            await services.ledger.close()

    app = FastAPI(
        title="Relais",
        version=settings.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for module in ROUTERS:
        app.router.routes.extend(module.router.routes)
    exception_handlers.install(app)
    setattr(app, "openapi", lambda: openapi.document(app))  # noqa: B010 - FastAPI's own hook
    return Middleware(app, straight=_straight(app))


def _straight(app: FastAPI) -> dict[tuple[str, str], GuardedRoute]:
    """The one route that is worth bypassing FastAPI for: POST /api/v1/jobs."""
    return {
        ("POST", route.path): route
        for route in app.router.routes
        if isinstance(route, GuardedRoute) and route.endpoint is intake.accept_job
    }


def _open(settings: Settings, tokens: Tokens) -> Services:
    kinds: dict[str, Any] = registry.load(settings.kinds)
    engine = database.engine(settings, pool_size=POOL_SIZE, name="relais gateway")
    ledger = Connections(engine, at_once=READS)
    ringer = Ringer(settings)
    looks = ledger.share(HEALTH)
    clock = Clock(looks)
    briefly = database.engine(
        settings, pool_size=POOL_SIZE, name="relais gateway", lock_timeout_ms=GROUP_WAITS_MS
    )
    intake = Intake(
        ledger,
        handing_over=Connections(briefly, at_once=1),
        ringer=ringer,
        kinds=kinds,
        settings=settings,
        clock=clock,
        answer_within_s=ANSWER_WITHIN_S,
    )
    return Services(
        settings=settings,
        kinds=kinds,
        ledger=ledger,
        actions=ledger.share(ACTIONS),
        clock=clock,
        authentication=Authentication(ledger.share(LOOK_UPS), tokens),
        rate=RateLimit(rate_per_s=settings.rate_limit_per_s, processes=settings.gateway_processes),
        intake=intake,
        ringer=ringer,
        long_polls=LongPolls(ledger),
        health=HealthProbe(looks, settings, intake=intake),
        bodies=BodyMemory(settings.bodies_max_bytes),
        rendering=Rendering(settings),
    )


async def _nothing(_: AsyncConnection) -> None:
    """A transaction that proves that the ledger is up."""
