"""How long things took to get going again, from the histories of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.chaos.chains import GIVEN_BACK
from lab.chaos.faults import postgres, processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.chaos.history import History, Struck

STOPS = frozenset(
    fault.kind for fault in postgres.ALL if issubclass(fault, postgres.OnPostgres) and fault.stops
)
ALL_WORKERS = processes.KilledTogether.kind
SETTLES_S = 5.0  # after its return, until everybody has found back to it


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


@dataclass(frozen=True, slots=True)
class Rescue:
    """A job whose worker died: when, when that was noticed, and when it ran elsewhere."""

    job: str
    died: float
    noticed: float
    again: float
    hindered_until: float  # Postgres was away until then; `died` where it was not
    beside: tuple[str, ...]  # faults that went on meanwhile

    @property
    def is_hindered(self) -> bool:
        """Whether Postgres was away meanwhile, or had just been."""
        return any(kind in STOPS for kind in self.beside)

    @property
    def leaves_nobody(self) -> bool:
        """Whether all workers died together: new ones must start before anybody can notice."""
        return ALL_WORKERS in self.beside

    @property
    def seconds(self) -> float:
        """From the death, or from the return of Postgres, to running again."""
        return self.again - self.hindered_until

    def as_json(self) -> dict[str, object]:
        """For the list of the slowest."""
        return {
            "job": self.job,
            "seconds": round(self.seconds, 3),
            "noticed_s": round(self.noticed - self.died, 3),
            "taken_s": round(self.again - self.noticed, 3),
            "beside": self.beside,
        }


def rescues(history: History) -> list[Rescue]:
    """Every job that a worker died under, each time."""
    deaths = {d.pid: d.at for d in history.deaths if d.name.startswith("worker-")}
    found: list[Rescue] = []
    for job in history.jobs.values():
        for index, (claim, end) in enumerate(zip(job.events, job.events[1:], strict=False)):
            if claim.to_state != "running" or end.to_state != "ready" or claim.worker is None:
                continue
            died = deaths.get(int(claim.worker.rpartition(":")[2]), 0.0)
            again = next((e.at for e in job.events[index + 2 :] if e.to_state == "running"), None)
            is_taken_back = not (end.reason or "").startswith(GIVEN_BACK)
            if not is_taken_back or again is None or not claim.at <= died <= end.at:
                continue
            near = [f for f in history.faults if f.began <= again and f.ended >= died - SETTLES_S]
            stops = [f for f in near if f.kind in STOPS]
            beside = tuple(fault.kind for fault in near)
            able = _able_since(died, again, stops)
            found.append(Rescue(job.key or job.kind, died, end.at, again, able, beside))
    return found


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
    """From accepted to finished, of renderings accepted while Redis was in trouble.

    Jobs that other faults touched are left out: more than one attempt, or Postgres, the relay or
    all workers of a queue in trouble as well (mail that waits for a relay holds slots that a
    rendering could have).
    """
    redis = [fault for fault in history.faults if fault.service == "redis"]
    others = [
        fault
        for fault in history.faults
        if fault.service in {"postgres", "smtp"} or fault.kind == ALL_WORKERS
    ]
    seconds = []
    for job in history.jobs.values():
        asked = history.attempted.get(job.key or "")
        if asked is None or job.kind != "template.render" or asked.delay_s or asked.parents:
            continue
        if job.state != "succeeded" or job.attempt != 1 or job.finished_at is None:
            continue
        created, finished = job.created_at, job.finished_at
        if not any(fault.began <= created <= fault.ended for fault in redis):
            continue
        if any(f.began <= finished and f.ended + SETTLES_S >= created for f in others):
            continue
        seconds.append(finished - created)
    return Times.of(seconds)


def _able_since(died: float, again: float, stops: Sequence[Struck]) -> float:
    able = died
    for fault in sorted(stops, key=lambda fault: fault.began):
        if fault.began <= able <= fault.ended or able <= fault.began <= again:
            able = max(able, min(fault.ended, again))
    return able
