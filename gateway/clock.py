"""The database's clock, extrapolated between readings: it decides what is due or late."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from ledger import ticks
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from gateway.connections import Connections

LOOK_EVERY_S = 10.0
LOOK_AGAIN_S = 1.0  # while Postgres is down


class Clock:
    """Continues from the last reading by this machine's monotonic clock, which is never set."""

    def __init__(self, ledger: Connections) -> None:
        self._ledger = ledger
        self._known: tuple[datetime, float] | None = None
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read the clock now, and regularly from now on."""
        self._looking = asyncio.create_task(self._look_regularly())

    async def close(self) -> None:
        """Stop reading it."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    def now(self) -> datetime:
        """The time in Postgres; this machine's until the first reading."""
        if self._known is None:
            return datetime.now(UTC)
        moment, heard_at = self._known
        return moment + timedelta(seconds=time.monotonic() - heard_at)

    async def look(self) -> bool:
        """Ask Postgres; False if it does not respond."""
        asked_at = time.monotonic()
        try:
            moment = await self._ledger.call(ticks.now)
        except (LedgerError, SQLAlchemyError):
            return False
        self._known = (moment, (asked_at + time.monotonic()) / 2)
        return True

    async def _look_regularly(self) -> None:
        while True:
            is_heard = await self.look()
            await asyncio.sleep(LOOK_EVERY_S if is_heard else LOOK_AGAIN_S)
