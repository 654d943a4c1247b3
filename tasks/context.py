"""What a handler gets besides its payload."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The job, its fence and the handler's surroundings; lives for one attempt."""

    job_id: UUID
    attempt: int  # the fence; grows with every claim
    kind: str
    queue: str
    tenant: str
    tries_left: int  # attempts that may still follow this one
    settings: Settings
    database: AsyncEngine  # a pool of the handlers' own: claims never wait for it
    workflow_id: str | None = None
    traceparent: str | None = None  # of the span this attempt runs in
    tags: tuple[str, ...] = ()
    deaths: int = 0
    clock_offset_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    # offset from the machine's monotonic clock to the database's; taken from the worker's claim
    isolate: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]] | None = field(
        default=None, repr=False
    )  # runs a registered pure function in a killable process: (name, arguments) -> result
    still_owned: Callable[[], bool] = field(default=lambda: True, repr=False)
    # whether the claim cannot have been taken over; call it right before anything irreversible

    def now(self) -> float:
        """Seconds since 1970 by the database's clock: the worker's own may be wrong."""
        return time.monotonic() + self.clock_offset_s
