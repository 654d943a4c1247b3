"""What a run found, as one JSON object."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops.chaos import recovery, timeline

if TYPE_CHECKING:
    from ops.chaos.checker import Verdict
    from ops.chaos.history import History

EXAMPLES_MAX = 20
SLOWEST_MAX = 5


@dataclass(frozen=True, slots=True)
class About:
    """What the run was, beside its histories."""

    seed: int
    minutes: float
    lag_max_s: float
    skipped: dict[str, str]


def document(verdict: Verdict, history: History, about: About) -> dict[str, Any]:
    """The figures, and the first few examples of what is wrong."""
    met = Counter(fault.kind for fault in history.faults if fault.is_met)
    rescues = recovery.rescues(history)
    plain = [rescue for rescue in rescues if not rescue.is_hindered]
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
        "faults_injected": sum(met.values()),
        "fault_kinds": len(met),
        "deliveries": len(history.deliveries),
        "recovery_p50_s": deaths.quantile(0.5),
        "recovery_p99_s": deaths.quantile(0.99),
        "recovery_max_s": deaths.quantile(1.0),
        "worker_death": deaths.as_json(),
        "worker_death_noticed": noticed.as_json(),
        "worker_death_slowest": [rescue.as_json() for rescue in slowest],
        "worker_death_without_postgres": hindered.as_json(),
        "postgres_back": recovery.after_postgres(history).as_json(),
        "redis_in_trouble": recovery.without_redis(history).as_json(),
        "states": verdict.states,
        "faults": dict(sorted(met.items())),
        "skipped": about.skipped,
        "timeline": timeline.of(history),
        "harness_lag_max_s": round(about.lag_max_s, 3),
        "examples": {
            name: found[:EXAMPLES_MAX]
            for name in (
                "lost",
                "unexpected",
                "duplicates_elsewhere",
                "illegal_histories",
                "unbalanced",
            )
            if (found := getattr(verdict, name))
        },
    }
