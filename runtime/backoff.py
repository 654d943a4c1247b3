"""How long to wait before restarting a process that ended."""

from __future__ import annotations

WELL_S = 5.0  # a process that was healthy for this long can run
FIRST_S = 0.5
SERVED_MAX_S = 4.0
MAX_S = 30.0
YOUNG_MAX = 12  # early deaths in a row after which having been healthy once no longer counts


class Backoff:
    """Counts how often in a row a process ended too early.

    One that had been healthy for a while is started again at once, however often it is killed.
    What dies young waits ever longer, but not for long where it has served before: somebody may be
    killing it, and when he stops it is needed.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._has_served = False

    def healthy(self, *, for_s: float) -> None:
        """It responds, and has for this long."""
        self._has_served = True
        if for_s >= WELL_S:
            self.failures = 0

    def failed(self) -> None:
        """It ended, or could not be started."""
        self.failures += 1

    def pause_s(self, *, is_fatal: bool) -> float:
        """How long to wait now; `is_fatal`: it could not be started at all."""
        if self.failures <= 1 and not is_fatal:
            return 0.0
        is_known = self._has_served and not is_fatal and self.failures <= YOUNG_MAX
        doublings = min(self.failures - 1, 10)
        return min(FIRST_S * 2.0**doublings, SERVED_MAX_S if is_known else MAX_S)
