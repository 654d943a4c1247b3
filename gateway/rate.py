"""Rate limits: a token bucket for each caller, in the memory of each process.

Of several processes each lets through its share, so that they never let through more together.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from gateway.errors import Code, Problem
from ledger.api_keys import RATE_MIN_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.callers import Caller

BUCKETS_MAX = 10_000


class RateLimit:
    """Allows each caller `rate_per_s` requests per second, with a burst of one second's worth.

    That is what a caller may do through all `processes`; through this one, its share of it.
    """

    def __init__(
        self,
        *,
        rate_per_s: float,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._processes = processes
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (tokens, at)

    def spend(self, caller: Caller) -> None:
        """Take one request from the caller's bucket; 429 if it is empty."""
        whole = max(caller.rate_per_s or self._rate_per_s, RATE_MIN_PER_S)
        rate = whole / self._processes
        burst = max(1.0, rate)
        now = self._clock()
        name = f"{caller.tenant}/{caller.name}"
        tokens, at = self._buckets.get(name, (burst, now))
        tokens = min(burst, tokens + (now - at) * rate)
        if tokens < 1.0:
            self._buckets[name] = (tokens, now)
            raise _refused(
                wait_s=(1.0 - tokens) / rate, rate=rate, burst=burst, processes=self._processes
            )
        self._buckets[name] = (tokens - 1.0, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)


def _refused(*, wait_s: float, rate: float, burst: float, processes: int) -> Problem:
    seconds = max(1, math.ceil(wait_s))
    window_s = max(1, math.ceil(burst / rate))
    return Problem(
        Code.RATE_LIMITED,
        f"This key may send {rate * processes:g} requests per second{_shares(processes)}.",
        remedy=f"Wait {seconds} s, or send many jobs in one batch.",
        headers={
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"key";q={int(burst)};w={window_s}',
            "RateLimit": f'"key";r=0;t={seconds}',
        },
    )


def _shares(processes: int) -> str:
    return f", divided among {processes} processes" if processes > 1 else ""
