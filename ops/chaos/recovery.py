"""How long things took to get going again, from the histories of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.chaos.chains import GIVEN_BACK
from ops.chaos.faults import postgres

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ops.chaos.history import History, Struck

STOPS = frozenset(
    fault.kind for fault in postgres.ALL if issubclass(fault, postgres.OnPostgres) and fault.stops
)
SETTLES_S = 3.0  # after the end of another fault, until its after-effects are over


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, sorted."""

    seconds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Times:
        """From unsorted ones."""
        return cls(tuple(sorted(seconds)))

    def quantile(self, share: float) -> float | None:
        """The time that `share` of all did not exceed; None where there is none."""
        if not self.seconds:
            return None
        index = min(len(self.seconds) - 1, int(share * len(self.seconds)))
        return round(self.seconds[index], 3)

    def as_json(self) -> dict[str, float | int | None]:
        """Count and p50, p99, max."""
        return {
            "count": len(self.seconds),
            "p50_s": self.quantile(0.5),
            "p99_s": self.quantile(0.99),
            "max_s": self.quantile(1.0),
        }


def after_deaths(history: History) -> Times:
    """From a worker's death to its jobs running elsewhere.

    Where Postgres could not be written to in between, from when it could again.
    """
    deaths = [d for d in history.deaths if d.name.startswith("worker-")]
    stops = [fault for fault in history.faults if fault.kind in STOPS]
    seconds: list[float] = []
    for job in history.jobs.values():
        for index, (claim, end) in enumerate(zip(job.events, job.events[1:], strict=False)):
            if claim.to_state != "running" or end.to_state != "ready" or claim.worker is None:
                continue
            if (end.reason or "").startswith(GIVEN_BACK):
                continue
            pid = claim.worker.rpartition(":")[2]
            died = next((d.at for d in deaths if str(d.pid) == pid and claim.at <= d.at <= end.at), None)
            again = next((e.at for e in job.events[index + 2 :] if e.to_state == "running"), None)
            if died is not None and again is not None:
                seconds.append(again - _able_since(died, again, stops))
    return Times.of(seconds)


def after_postgres(history: History) -> Times:
    """From Postgres being there again to the first job finished."""
    finished = sorted(j.finished_at for j in history.jobs.values() if j.finished_at is not None)
    stops = [fault for fault in history.faults if fault.kind in STOPS]
    seconds = []
    for fault in stops:
        first = next((at for at in finished if at >= fault.ended), None)
        # Where it was gone again before anything could finish, the next one counts.
        if first is not None and not any(fault.ended < s.began < first for s in stops):
            seconds.append(first - fault.ended)
    return Times.of(seconds)


def without_redis(history: History) -> Times:
    """From accepted to finished, of plain jobs accepted while Redis was in trouble."""
    redis = [f for f in history.faults if f.service == "redis" and f.kind != "brpop_reply_swallowed"]
    others = [f for f in history.faults if f.service != "redis"]
    seconds = []
    for job in history.jobs.values():
        asked = history.attempted.get(job.key or "")
        if asked is None or asked.delay_s or asked.has_parent or job.finished_at is None:
            continue
        if job.state != "succeeded" or any(r.startswith("once451.") for r in asked.recipients):
            continue
        if not any(f.began <= job.created_at <= f.ended for f in redis):
            continue
        if any(_touches(f, job.created_at, job.finished_at) for f in others):
            continue
        seconds.append(job.finished_at - job.created_at)
    return Times.of(seconds)


def _touches(fault: Struck, began: float, ended: float) -> bool:
    return fault.began <= ended and fault.ended + SETTLES_S >= began


def _able_since(died: float, again: float, stops: Sequence[Struck]) -> float:
    able = died
    for fault in sorted(stops, key=lambda fault: fault.began):
        if fault.began <= able <= fault.ended or able <= fault.began <= again:
            able = max(able, min(fault.ended, again))
    return able
