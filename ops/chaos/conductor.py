"""Injects faults at seeded random moments, one or two at once, and heals them after a while."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from ops.chaos.history import Struck

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from ops.chaos.faults.fault import Fault, Scene
    from ops.chaos.journal import Journal

LANES = 2
GAP_S = (0.4, 2.0)
LOOK_AGAIN_S = 0.1


class Conductor:
    """Every kind once in a shuffled order, then any; two faults of one service never meet."""

    def __init__(
        self, scene: Scene, kinds: Sequence[type[Fault]], *, journal: Journal, rng: random.Random
    ) -> None:
        self.struck: list[Struck] = []
        self.under_way: dict[str, Fault] = {}  # by service
        self.skipped: dict[str, str] = {}
        self._scene = scene
        self._journal = journal
        self._rng = rng
        self._kinds = list(kinds)
        self._line: deque[type[Fault]] = deque()
        self._again: set[str] = set()

    async def run(self, *, until: float) -> None:
        """Play until `until` (monotonic); everything is healed at the end."""
        for fault in list(self._kinds):
            if why := fault(self._scene).missing():
                self.skipped[fault.kind] = why
                self._kinds.remove(fault)
        if not self._kinds:
            return
        async with asyncio.TaskGroup() as group:
            for _ in range(min(LANES, len({fault.service for fault in self._kinds}))):
                group.create_task(self._lane(until))

    async def _lane(self, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(self._rng.uniform(*GAP_S))
            kind = self._next()
            if kind is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            await self._play(kind(self._scene))

    def _next(self) -> type[Fault] | None:
        """The first in line whose service has no other trouble."""
        if not self._line:
            self._line.extend(self._rng.sample(self._kinds, len(self._kinds)))
        for kind in self._line:
            if kind.service not in self.under_way:
                self._line.remove(kind)
                return kind
        return None

    async def _play(self, fault: Fault) -> None:
        self.under_way[fault.service] = fault
        began = time.time()
        self._journal.note("began", kind=fault.kind)
        try:
            try:
                await fault.inject()
                await fault.last()
            finally:
                await fault.heal()
        finally:
            self.under_way.pop(fault.service, None)
        struck = Struck(fault.kind, fault.service, began, time.time(), fault.is_met)
        self._journal.note("ended", kind=fault.kind, is_met=fault.is_met)
        self.struck.append(struck)
        if not fault.is_met and fault.kind not in self._again:
            self._again.add(fault.kind)
            self._line.append(type(fault))
