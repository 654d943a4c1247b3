"""Executor are shared among lanes: none gets all, and they take turns."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.workers.claimed import claimed_job
from workers.waiting import Waiting


def started(queue: Waiting) -> list[str]:
    lanes = []
    while (job := queue.start()) is not None:
        lanes.append(job.lane)
    return lanes


def test_lanes_take_turns() -> None:
    queue = Waiting(slots=100)
    queue.add(claimed_job(lane="a") for _ in range(3))
    queue.add(claimed_job(lane="b") for _ in range(2))
    assert started(queue) == ["a", "b", "a", "b", "a"]
    assert len(queue) == 0


@pytest.mark.parametrize(("slots", "first", "second", "third"), [(16, 12, 3, 1), (2, 2, 0, 0), (1, 1, 0, 0)])  # fmt: skip
def test_a_lane_that_hangs_leaves_slots_to_others(
    slots: int, first: int, second: int, third: int
) -> None:
    queue = Waiting(slots=slots)
    for lane in ("silent", "slow", "good"):
        queue.add(claimed_job(lane=lane) for _ in range(40))
        counts = Counter(started(queue))
        assert counts[lane] == {"silent": first, "slow": second, "good": third}[lane]


def test_a_slot_that_comes_free_is_used_again() -> None:
    queue = Waiting(slots=16)
    jobs = [claimed_job(lane="a") for _ in range(20)]
    queue.add(jobs)
    assert len(started(queue)) == 12
    queue.end(jobs[0])
    queue.end(jobs[0])  # told twice, counted once
    assert started(queue) == ["a"]


def test_only_lanes_that_proved_quick_are_claimed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    queue = Waiting(slots=16)
    assert queue.claimable("new") == 12
    first, second = claimed_job(lane="new"), claimed_job(lane="new")
    queue.add([first, second])
    assert queue.claimable("new") == 10
    queue.start()
    queue.end(first)
    assert queue.claimable("new") is None
    queue.start()
    now += 2.0  # it hangs
    assert queue.claimable("new") == 11


def test_what_waited_too_long_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    queue = Waiting(slots=1)
    old = [claimed_job(lane="a"), claimed_job(lane="b")]
    queue.add(old)
    now += 1.0
    young = claimed_job(lane="a")
    queue.add([young])
    assert {job.id for job in queue.take_stale(before=100.5)} == {job.id for job in old}
    assert [job.id for job in queue.take_all()] == [young.id]
    assert queue.start() is None
