"""Which jobs a worker takes next: round-robin over the lanes, from where the last claim ended.

The ledger is read in two steps. A look names the lanes in which something is ready; a claim takes
its share from each. Both start where the last one ended (a floor per lane, kind and priority):
during another client's long transaction dead rows stay in the index, and a scan from the beginning
reads them all. What appears late, before a floor, is found by a full look; it takes a small,
bounded share of the time and delays no claim.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from ledger import lanes
from ledger.shapes import Wish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ledger.lanes import Group, Head
    from ledger.shapes import ClaimedJob

LATE = timedelta(seconds=5)  # how long a transaction that makes jobs ready may take to commit
FULL_LOOK_EVERY_S = 5.0
FULL_LOOK_SHARE = 0.02  # of the time, at most
AGEING_S = 60.0  # of waiting outweigh one step of priority: nothing starves
REMEMBERED_MAX = 4_096  # lanes; beyond that, what is known of quiet ones is forgotten and relearned


@dataclass(slots=True)
class Lane:
    """One lane as this worker knows it."""

    name: str
    weight: float = 1.0
    running_max: int | None = None
    served: float = 0.0  # claims so far, by weight
    heads: list[Head] = field(default_factory=list)  # the one to claim next comes first


class Claims:
    """Plans the claims of one worker; has no database, and only the clock that it is passed."""

    def __init__(self) -> None:
        self.floors: dict[Group, datetime] = {}
        self.workers = 1  # that claim from this queue, this one included
        self._lanes: dict[str, Lane] = {}
        self._active: list[Lane] = []
        self._full_look_at = 0.0

    def wants_full_look(self, *, now: float) -> bool:
        """Whether it is time to look from the beginning (`now`: monotonic)."""
        return now >= self._full_look_at

    def looked_at_all(self, heads: Iterable[Head], *, took_s: float, now: float) -> None:
        """After a full look: anything that appeared before a floor moves that floor back."""
        self._full_look_at = now + max(FULL_LOOK_EVERY_S, took_s / FULL_LOOK_SHARE)
        for head in heads:
            if head.group in self.floors:
                self.floors[head.group] = min(self.floors[head.group], head.ready_at)

    def looked(self, heads: Sequence[Head]) -> bool:
        """After a look from the floors: what is ready; whether anything is."""
        if len(self.floors) > REMEMBERED_MAX:
            self.floors.clear()
            self._lanes.clear()
        active: dict[str, Lane] = {}
        for head in heads:
            lane = active.get(head.lane)
            if lane is None:
                lane = self._lanes.setdefault(head.lane, Lane(head.lane))
                lane.heads = []
                lane.weight, lane.running_max = head.weight, head.running_max
                active[head.lane] = lane
            lane.heads.append(head)
            self.floors.setdefault(head.group, head.ready_at - LATE)
        for lane in active.values():
            lane.heads.sort(key=lambda h: h.waited_s + h.priority * AGEING_S, reverse=True)
        self._active = list(active.values())
        return bool(heads)

    def plan(
        self, *, room: int, held: Mapping[str, int], allowed: Callable[[str], int | None]
    ) -> list[Wish]:
        """What to ask for: up to `room` jobs, in shares that even out what each lane holds.

        `held`: jobs by lane; `allowed`: how many more a lane could run here, None: any number.
        """
        most = {lane.name: self._most(lane, held, allowed) for lane in self._active}
        quotas = self._quotas(room, held, most)
        asked = [lane for lane in self._active if quotas.get(lane.name)]
        asked.sort(key=lambda lane: (held.get(lane.name, 0), lane.served))
        return [
            Wish(
                lane=lane.name,
                kind=lane.heads[0].kind,
                priority=lane.heads[0].priority,
                quota=quotas[lane.name],
                floor=self.floors[lane.heads[0].group],
            )
            for lane in asked
        ]

    def claimed(self, wishes: Sequence[Wish], jobs: Sequence[ClaimedJob]) -> None:
        """After a claim: its floors move up to where it ended."""
        last: dict[Group, datetime] = {}
        for job in jobs:
            group = (job.lane, job.kind, job.priority)
            last[group] = max(last.get(group, job.ready_at), job.ready_at)
            lane = self._lanes.get(job.lane)
            if lane is not None:
                lane.served += 1 / lane.weight
        for wish in wishes:
            group = (wish.lane, wish.kind, wish.priority)
            # If nothing came, other workers have it: what they give back sorts after the floor.
            ended = last.get(group)
            if ended is not None:
                self.floors[group] = max(self.floors[group], ended - LATE)

    def _most(
        self, lane: Lane, held: Mapping[str, int], allowed: Callable[[str], int | None]
    ) -> int:
        most = allowed(lane.name)
        if lane.running_max is not None:
            own = max(1, lane.running_max // max(1, self.workers)) - held.get(lane.name, 0)
            most = own if most is None else min(most, own)
        return NO_BOUND if most is None else max(0, most)

    def _quotas(
        self, room: int, held: Mapping[str, int], most: Mapping[str, int]
    ) -> dict[str, int]:
        """Shares of `room` by lane: evened out among tenants, then among the lanes of each."""
        tenants: dict[str, list[Lane]] = {}
        for lane in self._active:
            if most[lane.name] > 0:
                tenants.setdefault(lanes.tenant_of(lane.name), []).append(lane)
        holds: Counter[str] = Counter()
        for name, count in held.items():
            holds[lanes.tenant_of(name)] += count
        shares = level(
            room,
            [
                Share(tenant, held=holds[tenant], most=sum(most[lane.name] for lane in of_tenant))
                for tenant, of_tenant in tenants.items()
            ],
        )
        quotas: dict[str, int] = {}
        for tenant, of_tenant in tenants.items():
            quotas |= level(
                shares[tenant],
                [
                    Share(
                        lane.name,
                        held=held.get(lane.name, 0),
                        most=most[lane.name],
                        weight=lane.weight,
                    )
                    for lane in sorted(of_tenant, key=lambda lane: lane.served)
                ],
            )
        return quotas


NO_BOUND = 1_000_000


@dataclass(slots=True)
class Share:
    """One recipient of a share: what it holds already, and the most it can take."""

    name: str
    held: int
    most: int
    weight: float = 1.0
    given: int = 0

    @property
    def level(self) -> float:
        """What it would hold, by weight."""
        return (self.held + self.given) / self.weight


def level(room: int, shares: Sequence[Share]) -> dict[str, int]:
    """Divide `room` so that what each holds, by weight, comes as close as possible.

    None gets more than its `most`; where one is left over, the first of those who hold least.
    """
    waiting = [share for share in shares if share.most > 0]
    while room > 0 and waiting:
        lowest = min(share.level for share in waiting)
        low = [share for share in waiting if share.level <= lowest]
        higher = [share.level for share in waiting if share.level > lowest]
        step = room / sum(share.weight for share in low)
        if higher:
            step = min(step, min(higher) - lowest)
        for share in low:
            more = min(room, share.most - share.given, max(1, int(step * share.weight)))
            share.given += more
            room -= more
        waiting = [share for share in waiting if share.given < share.most]
    return {share.name: share.given for share in shares}
