"""Claimed jobs that wait for a slot: round-robin over the lanes, and no lane gets every slot.

A lane whose jobs hang (a silent relay, a slow endpoint) may run in three quarters of the slots
that others leave, never in all: whoever comes next finds one. This is the dynamic threshold that
switches share their buffers by (Choudhury and Hahne, 1998): a lane takes a slot only while it runs
less than three times what is free.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from ledger.shapes import ClaimedJob

    Fence = tuple[UUID, int]

FREE_TIMES = 3  # how many jobs a lane may run for each slot that it leaves free
SLOW_S = 1.0  # jobs that run longer are claimed only as far as they can run at once
SMOOTHING = 0.2
REMEMBERED_MAX = 4_096  # lanes


class Waiting:
    """What one worker has claimed and not started, by lane, and what is running of each."""

    def __init__(self, *, slots: int) -> None:
        self._slots = slots
        self._queues: dict[str, deque[tuple[ClaimedJob, float]]] = {}
        self._order: deque[str] = deque()  # lanes with something waiting, next one first
        self._running: dict[str, dict[Fence, float]] = {}  # lane -> attempt -> started at
        self._running_total = 0
        self._waiting_total = 0
        self._run_s: dict[str, float] = {}  # smoothed, by lane

    def __len__(self) -> int:
        return self._waiting_total

    def add(self, jobs: Iterable[ClaimedJob]) -> None:
        """Queue `jobs`, each behind those of its lane."""
        now = time.monotonic()
        for job in jobs:
            queue = self._queues.get(job.lane)
            if queue is None:
                queue = self._queues[job.lane] = deque()
                self._order.append(job.lane)
            queue.append((job, now))
            self._waiting_total += 1

    def start(self) -> ClaimedJob | None:
        """The next job that may run now; it counts as running until `end`."""
        for _ in range(len(self._order)):
            lane = self._order[0]
            self._order.rotate(-1)
            if self.room(lane) <= 0:
                continue
            queue = self._queues[lane]
            job, _ = queue.popleft()
            self._waiting_total -= 1
            if not queue:
                self._forget_queue(lane)
            self._running.setdefault(lane, {})[job.fence] = time.monotonic()
            self._running_total += 1
            return job
        return None

    def end(self, job: ClaimedJob) -> None:
        """`job`, once started, is no longer running."""
        running = self._running.get(job.lane, {})
        started = running.pop(job.fence, None)
        if started is None:
            return
        self._running_total -= 1
        if not running:
            self._running.pop(job.lane, None)
        if len(self._run_s) > REMEMBERED_MAX:
            self._run_s.clear()
        known_s = self._run_s.get(job.lane, SLOW_S)
        self._run_s[job.lane] = known_s + SMOOTHING * (time.monotonic() - started - known_s)

    def take_stale(self, *, before: float) -> list[ClaimedJob]:
        """Remove and return what has waited since `before` (monotonic)."""
        return self._remove(lambda at: at < before)

    def take_all(self) -> list[ClaimedJob]:
        """Remove and return everything that is waiting."""
        return self._remove(lambda _: True)

    def room(self, lane: str) -> int:
        """How many more jobs of `lane` may run now."""
        free = self._slots - self._running_total
        running = len(self._running.get(lane, ()))
        return -(-(FREE_TIMES * free - running) // (FREE_TIMES + 1))

    def claimable(self, lane: str) -> int | None:
        """How many more jobs of `lane` are worth claiming; None: any number, they are quick."""
        if not self._is_slow(lane):
            return None
        return max(0, self.room(lane) - len(self._queues.get(lane, ())))

    def _is_slow(self, lane: str) -> bool:
        if self._run_s.get(lane, SLOW_S) >= SLOW_S:
            return True  # or unknown: be careful until its first job has ended
        # The oldest running job is the first in the dictionary.
        first = next(iter(self._running.get(lane, {}).values()), None)
        return first is not None and time.monotonic() - first >= SLOW_S

    def _remove(self, is_meant: Callable[[float], bool]) -> list[ClaimedJob]:
        removed = []
        for lane, queue in list(self._queues.items()):
            while queue and is_meant(queue[0][1]):
                removed.append(queue.popleft()[0])
                self._waiting_total -= 1
            if not queue:
                self._forget_queue(lane)
        return removed

    def _forget_queue(self, lane: str) -> None:
        del self._queues[lane]
        self._order.remove(lane)
