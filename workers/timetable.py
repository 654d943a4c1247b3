"""When each enabled schedule is to be fired next: a heap that is never rebuilt from scratch.

Only what has been fired or changed is planned again, so that a look costs the same for ten
schedules and for ten thousand.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.due import Due
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from ledger.due import Times

SPARE_MAX = 1_000  # entries that may be out of date before the heap is rebuilt


@dataclass(frozen=True, slots=True)
class _Planned:
    times: Times
    after: datetime  # handled up to here
    at: datetime | None  # None: never, as far as can be determined


class Timetable:
    """The enabled schedules in the order in which they come due."""

    def __init__(self) -> None:
        self._planned: dict[UUID, _Planned] = {}
        # An entry that differs from `_planned` is out of date, and dropped when it surfaces.
        self._heap: list[tuple[datetime, UUID]] = []

    @property
    def next_at(self) -> datetime | None:
        """When the first one has to be checked."""
        while self._heap:
            at, schedule_id = self._heap[0]
            planned = self._planned.get(schedule_id)
            if planned is not None and planned.at == at:
                return at
            heapq.heappop(self._heap)
        return None

    def update(self, enabled: Iterable[Times]) -> list[tuple[Times, str]]:
        """Replace the known schedules by `enabled`; returns those not plannable, with a reason."""
        known, self._planned = self._planned, {}
        refused = []
        for times in enabled:
            old = known.get(times.id)
            if old is not None and old.times.changed_at == times.changed_at:
                self._planned[times.id] = old
            else:
                try:
                    self.plan(times, after=times.fired_until)
                except LedgerError as error:  # a time zone that this machine does not know
                    self._planned[times.id] = _Planned(times, times.fired_until, None)
                    refused.append((times, error.sentence))
        if len(self._heap) > 2 * len(self._planned) + SPARE_MAX:  # mostly out of date
            self._heap = [(p.at, p.times.id) for p in self._planned.values() if p.at is not None]
            heapq.heapify(self._heap)
        return refused

    def due(self, now: datetime, *, limit: int) -> list[Due]:
        """Up to `limit` that are to be fired now, each at its newest nominal time.

        They stay due until `plan` or `postpone` is told what became of them.
        """
        found: dict[UUID, Due] = {}
        seen: list[tuple[datetime, UUID]] = []
        while len(found) < limit and (at := self.next_at) is not None and at <= now:
            entry = heapq.heappop(self._heap)
            if entry[1] in found:
                continue
            planned = self._planned[entry[1]]
            nominal_at = planned.times.latest_due(after=planned.after, now=now)
            if nominal_at is None:  # the clock was set back since it was postponed
                self.plan(planned.times, after=planned.after)
            else:
                found[entry[1]] = Due(planned.times, nominal_at)
                seen.append(entry)
        for entry in seen:
            heapq.heappush(self._heap, entry)
        return list(found.values())

    def plan(self, times: Times, *, after: datetime) -> None:
        """Everything up to `after` has been handled; the next nominal time is ahead."""
        self._put(_Planned(times, after, times.next_after(after)))

    def postpone(self, times: Times, *, until: datetime) -> None:
        """It was not handled; check it again then."""
        self._put(_Planned(times, self._planned[times.id].after, until))

    def _put(self, planned: _Planned) -> None:
        self._planned[planned.times.id] = planned
        if planned.at is not None:
            heapq.heappush(self._heap, (planned.at, planned.times.id))
