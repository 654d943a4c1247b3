"""Backoff: exponential with full jitter, bounded, never negative; schedules as they are."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tasks.kinds import Backoff


@given(base_s=st.floats(0.01, 100), cap_s=st.floats(1, 1e6), tries=st.integers(1, 10_000))
def test_exponential_with_full_jitter(base_s: float, cap_s: float, tries: int) -> None:
    ceiling = min(cap_s, base_s * 2.0 ** min(tries - 1, 60))
    waits = [
        Backoff(base_s, cap_s).delay_s(tries=tries, jitter=random.Random(seed))
        for seed in range(50)
    ]
    assert all(0 <= wait <= ceiling for wait in waits)
    assert max(waits) - min(waits) > ceiling / 4, "full jitter spreads over the whole range"


@given(schedule=st.lists(st.floats(1, 1e5), min_size=1, max_size=12), tries=st.integers(1, 50))
def test_schedule_replaces_the_exponential(schedule: list[float], tries: int) -> None:
    wait = Backoff(schedule_s=tuple(schedule)).delay_s(tries=tries)
    step = schedule[min(tries, len(schedule)) - 1]
    assert 0.8 * step <= wait <= 1.2 * step
