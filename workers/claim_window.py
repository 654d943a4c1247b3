"""How many jobs to hold: as many as there are slots, and more only if jobs are quick."""

from __future__ import annotations

AHEAD_S = 0.1  # how much work to hold in advance
SMOOTHING = 0.05


class ClaimWindow:
    """Learns from run times how far ahead to claim; one event loop."""

    def __init__(self, *, concurrency: int, claim_max: int) -> None:
        self._concurrency = concurrency
        self._claim_max = claim_max
        self._run_s = AHEAD_S  # smoothed run time; pessimistic until proven quick

    def ran(self, seconds: float) -> None:
        """An attempt took `seconds`."""
        self._run_s += SMOOTHING * (seconds - self._run_s)

    def slow_down(self) -> None:
        """Claimed jobs waited too long: forget that jobs were quick."""
        self._run_s = max(self._run_s, AHEAD_S)

    def window(self) -> int:
        """Most jobs to hold at once, running and waiting."""
        quick = int(self._concurrency * AHEAD_S / max(self._run_s, 1e-6))
        return min(max(self._concurrency, quick), 4 * self._claim_max)

    def room(self, *, held: int, waiting: int) -> int:
        """How many jobs to claim now; while some are waiting, no claim is made for just a few."""
        window = self.window()
        free = window - held
        if free <= 0 or (waiting and free < min(self._claim_max, window // 2)):
            return 0
        return min(free, self._claim_max)
