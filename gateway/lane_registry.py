"""Lanes that jobs use for the first time, registered before the jobs' own transaction.

A transaction that registers a lane holds up everybody else's jobs of that lane until it is over,
for as long as its gateway is frozen in the middle of it. One statement that commits itself is over
without its gateway. Where a lane is forgotten meanwhile, the trigger of the insert registers it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from ledger import lanes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.connections import Connections
    from ledger.lanes import Registered
    from ledger.shapes import NewJob

KNOWN_FOR_S = 60.0  # housekeeping forgets lanes in which nothing waits
KNOWN_MAX = 10_000


class LaneRegistry:
    """Remembers which lanes were registered recently."""

    def __init__(self, ledger: Connections) -> None:
        """`ledger` has connections in autocommit mode."""
        self._ledger = ledger
        self._known: dict[Registered, float] = {}  # since when, monotonic

    async def register(self, jobs: Sequence[NewJob]) -> None:
        """Register the lanes of `jobs`; LedgerUnavailable in an outage."""
        now = time.monotonic()
        found = {lanes.registered(job) for job in jobs}
        new = [one for one in found if self._known.get(one, -KNOWN_FOR_S) <= now - KNOWN_FOR_S]
        if not new:
            return
        # A lock, or a value that cannot be stored: the jobs will run into it themselves.
        with suppress(DBAPIError):
            await self._ledger.call(lanes.register, new)
            if len(self._known) > KNOWN_MAX:
                self._known.clear()
            self._known.update(dict.fromkeys(new, now))
