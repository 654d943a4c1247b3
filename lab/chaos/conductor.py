"""Injects faults at seeded random moments, one or two at once, and heals them after a while.

Every kind that was planned has to be met: one that did not hurt anybody is played again, and a
run goes on beyond its time until each had its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from lab.chaos.history import Struck

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from lab.chaos.faults.fault import Fault, Scene
    from lab.chaos.journal import Journal

LANES = 2
LOAD = "load"  # the service of faults that only ask for something: a lane of their own
GAP_S = (0.4, 2.0)
LOOK_AGAIN_S = 0.1
AGAIN_AFTER = 3  # others, the moment may have come
TRIES = 3  # for a fault whose moment does not come


class Conductor:
    """Every kind once in a shuffled order, then any; two faults of one service never meet.

    Those that bound how long others wait come first, one by one; `settle` waits before each
    until nothing is left of the one before.
    """

    def __init__(
        self,
        scene: Scene,
        kinds: Sequence[type[Fault]],
        *,
        journal: Journal,
        rng: random.Random,
        settle: Callable[[], Awaitable[object]],
    ) -> None:
        self.struck: list[Struck] = []
        self.under_way: dict[str, Fault] = {}  # by service
        self.skipped: dict[str, str] = {}
        self._scene = scene
        self._journal = journal
        self._rng = rng
        self._settle = settle
        self._kinds = list(kinds)
        self._lines: dict[bool, deque[type[Fault]]] = {True: deque(), False: deque()}
        self._tries: Counter[str] = Counter()

    @property
    def not_met(self) -> list[str]:
        """The kinds that were planned and never hurt anybody."""
        met = {struck.kind for struck in self.struck if struck.is_met}
        return sorted(kind.kind for kind in self._kinds if kind.kind not in met)

    async def run(self, *, until: float, at_most: float) -> None:
        """Play until `until` (monotonic) and each kind had its turn; everything is healed then.

        `at_most`: not beyond that moment, whatever had its turn.
        """
        for fault in list(self._kinds):
            if why := fault(self._scene).missing():
                self.skipped[fault.kind] = why
                self._kinds.remove(fault)
        alone = [kind for kind in self._kinds if kind.is_alone]
        for kind in self._rng.sample(alone, len(alone)):
            while not self._had_its_turn(kind) and time.monotonic() < at_most:
                await self._settle()
                await self._play(kind(self._scene))
        async with asyncio.TaskGroup() as group:
            for is_load in (True, False):
                kinds = [k for k in self._kinds if (k.service == LOAD) is is_load]
                kinds = [k for k in kinds if not k.is_alone]
                lanes = 1 if is_load else LANES
                for _ in range(min(lanes, len({kind.service for kind in kinds}))):
                    group.create_task(self._lane(kinds, self._lines[is_load], until, at_most))

    def _had_its_turn(self, kind: type[Fault]) -> bool:
        return kind.kind not in self.not_met or self._tries[kind.kind] >= TRIES

    async def _lane(
        self,
        kinds: Sequence[type[Fault]],
        line: deque[type[Fault]],
        until: float,
        at_most: float,
    ) -> None:
        """Play `kinds`: those in `line` first; after `until` only those that are owed a turn."""
        while (now := time.monotonic()) < at_most:
            await asyncio.sleep(self._rng.uniform(*GAP_S))
            owed = [kind for kind in kinds if not self._had_its_turn(kind)]
            if now >= until and not owed:
                return
            if not line:
                now_played = {type(fault) for fault in self.under_way.values()}
                fresh = [kind for kind in owed if kind not in now_played]
                fresh = fresh or (list(kinds) if now < until else [])
                line.extend(self._rng.sample(fresh, len(fresh)))
            kind = self._next(line, owed if now >= until else kinds)
            if kind is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            await self._play(kind(self._scene))
            if not self._had_its_turn(kind) and kind not in line:
                line.insert(AGAIN_AFTER, kind)

    def _next(self, line: deque[type[Fault]], allowed: Sequence[type[Fault]]) -> type[Fault] | None:
        """The first in line whose service has no other trouble."""
        for kind in line:
            if kind.service not in self.under_way and kind in allowed:
                line.remove(kind)
                return kind
        return None

    async def _play(self, fault: Fault) -> None:
        self.under_way[fault.service] = fault
        began = time.time()
        self._journal.note("began", kind=fault.kind)
        self._tries[fault.kind] += 1
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
