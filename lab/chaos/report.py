"""What a run found, as one JSON object."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.chaos import recovery, rules, timeline
from lab.chaos.checker import PROMISES

if TYPE_CHECKING:
    from lab.chaos.checker import Verdict
    from lab.chaos.history import History

EXAMPLES_MAX = 20
SLOWEST_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the run was, beside its histories."""

    seed: int
    minutes: float
    lag_max_s: float
    skipped: dict[str, str]
    not_met: list[str]  # faults that were planned and hurt nobody


def document(verdict: Verdict, history: History, about: About) -> dict[str, Any]:
    """The figures, and the first few examples of what is wrong."""
    met = Counter(fault.kind for fault in history.faults if fault.is_met)
    rescues = recovery.rescues(history)
    unhindered = [rescue for rescue in rescues if not rescue.is_hindered]
    plain = [rescue for rescue in unhindered if not rescue.leaves_nobody]
    of_all = recovery.Times.of(rescue.seconds for rescue in unhindered if rescue.leaves_nobody)
    deaths = recovery.Times.of(rescue.seconds for rescue in plain)
    hindered = recovery.Times.of(rescue.seconds for rescue in rescues if rescue.is_hindered)
    noticed = recovery.Times.of(rescue.noticed - rescue.died for rescue in plain)
    slowest = sorted(rescues, key=lambda rescue: -rescue.seconds)[:SLOWEST_MAX]
    return {
        "seed": about.seed,
        "minutes": round(about.minutes, 2),
        "attempted": verdict.attempted,
        "acknowledged": verdict.acknowledged,
        "succeeded": verdict.succeeded,
        "recovered": verdict.recovered,
        "lost": len(verdict.lost),
        "unexpected": len(verdict.unexpected),
        "duplicates_elsewhere": len(verdict.duplicates_elsewhere),
        "duplicates_in_smtp_window": len(verdict.duplicates_in_smtp_window),
        "callback_redeliveries": verdict.callback_redeliveries,
        "illegal_histories": len(verdict.illegal_histories),
        "unbalanced": len(verdict.unbalanced),
        "innocent_failed": len(verdict.innocent_failed),
        "late": len(verdict.late),
        "kinds_not_met": about.not_met,
        "faults_injected": sum(met.values()),
        "fault_kinds": len(met),
        "deliveries": len(history.deliveries),
        "recovery_p50_s": deaths.quantile(0.5),
        "recovery_p99_s": deaths.quantile(0.99),
        "recovery_max_s": deaths.quantile(1.0),
        "worker_death": deaths.as_json(),
        "worker_death_noticed": noticed.as_json(),
        "worker_death_slowest": [rescue.as_json() for rescue in slowest],
        "worker_death_of_all": of_all.as_json(),
        "worker_death_without_postgres": hindered.as_json(),
        "postgres_back": recovery.after_postgres(history).as_json(),
        "redis_in_trouble": recovery.without_redis(history).as_json(),
        "neighbour_wait_p99_s": rules.neighbour_waits(history).quantile(0.99),
        "neighbour_wait": rules.neighbour_waits(history).as_json(),
        "bounds": _bounds(history),
        "states": verdict.states,
        "faults": dict(sorted(met.items())),
        "skipped": about.skipped,
        "timeline": timeline.of(history),
        "harness_lag_max_s": round(about.lag_max_s, 3),
        "examples": {
            name: found[:EXAMPLES_MAX] for name in PROMISES if (found := getattr(verdict, name))
        },
    }


def _bounds(history: History) -> dict[str, dict[str, float | None]]:
    """For each fault that bounds a wait: the longest, and what is allowed."""
    found: dict[str, dict[str, float | None]] = {}
    for probe in sorted(history.probes, key=lambda probe: probe.seconds):
        longest = round(probe.seconds, 3) if math.isfinite(probe.seconds) else None
        found[probe.fault] = {"longest_s": longest, "allowed_s": probe.bound_s}
    return dict(sorted(found.items()))
