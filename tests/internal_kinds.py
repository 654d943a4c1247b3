"""Runs a kind that Relais gives itself, as a worker would, on a ledger that may be in trouble."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from ledger import database as ledger_database
from tasks.context import Context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel

    from runtime.settings import Settings
    from tasks.outcomes import Outcome

Payload = TypeVar("Payload", bound="BaseModel")

READ_ONLY = "?options=-c%20default_transaction_read_only%3Don"
UNREACHABLE = "?port=1"  # nobody listens there


async def run(
    handler: Callable[[Payload, Context], Awaitable[Outcome]],
    payload: Payload,
    settings: Settings,
    *,
    kind: str,
    options: str = "",
) -> Outcome:
    """What `handler` returns; `options` are added to the URL of the database."""
    url = settings.require_database_url() + options
    engine = ledger_database.engine(
        settings.model_copy(update={"database_url": type(settings.database_url)(url)})
    )
    try:
        context = Context(
            job_id=uuid4(),
            attempt=1,
            kind=kind,
            queue="bulk",
            tenant="system",
            tries_left=0,
            settings=settings,
            database=engine,
        )
        return await handler(payload, context)
    finally:
        await engine.dispose()
