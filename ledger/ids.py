"""UUIDv7 ids (RFC 9562): ordered by time, so that inserts touch the end of every index."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_VERSION_AND_VARIANT = (0x7 << 76) | (0x2 << 62)
_RANDOM_BITS = (1 << 62) - 1
_COUNTER_MAX = 0xFFF


class _Clock:
    """Milliseconds and a counter within them; never goes back in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._counter = 0

    def tick(self) -> tuple[int, int]:
        """A moment later than the one before."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            if now > self._milliseconds:
                self._milliseconds, self._counter = now, 0
            elif self._counter < _COUNTER_MAX:
                self._counter += 1
            else:
                self._milliseconds, self._counter = self._milliseconds + 1, 0
            return self._milliseconds, self._counter


_clock = _Clock()


def new() -> UUID:
    """A fresh id; those of one process sort in the order in which they were made."""
    milliseconds, counter = _clock.tick()
    rest = int.from_bytes(os.urandom(8)) & _RANDOM_BITS
    return UUID(int=(milliseconds << 80) | _VERSION_AND_VARIANT | (counter << 64) | rest)
