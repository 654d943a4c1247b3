"""What happened when in a run: counts for stretches of equal length, and as a line of bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.chaos.history import History

BARS = "▁▂▃▄▅▆▇█"
STRETCHES = 60


def of(history: History) -> dict[str, float | list[int]]:
    """Jobs accepted and finished, and faults under way, for each of at most 60 stretches."""
    jobs = history.jobs.values()
    if not jobs:
        return {"every_s": 0.0, "accepted": [], "finished": [], "faults": []}
    began = min(job.created_at for job in jobs)
    ended = max(max(job.created_at, job.finished_at or 0.0) for job in jobs)
    every_s = max(1.0, (ended - began) / STRETCHES)
    count = int((ended - began) / every_s) + 1

    def counted(moments: Iterable[float]) -> list[int]:
        found = [0] * count
        for at in moments:
            found[int((at - began) / every_s)] += 1
        return found

    starts = [began + index * every_s for index in range(count)]
    return {
        "every_s": round(every_s, 2),
        "accepted": counted(job.created_at for job in jobs),
        "finished": counted(job.finished_at for job in jobs if job.finished_at is not None),
        "faults": [
            sum(f.began < start + every_s and f.ended > start for f in history.faults)
            for start in starts
        ],
    }


def bars(values: Sequence[int]) -> str:
    """One bar for each value, the highest for the greatest; a blank for nought."""
    top = max(values, default=0)
    return "".join(BARS[(value * len(BARS) - 1) // top] if value else " " for value in values)
