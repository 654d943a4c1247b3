"""From an outcome to the row: what each outcome means for the job's next state."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, assert_never

from ledger.models.jobs import State
from ledger.shapes import ClaimedJob, Finish
from tasks.outcomes import Cancelled, Failed, RetryLater, Snooze, Succeeded, Unknown
from workers.sealing import bounded_delay_s

if TYPE_CHECKING:
    from tasks.kinds import Backoff
    from tasks.outcomes import Outcome


def delay_s(backoff: Backoff, *, tries: int, jitter: random.Random | None = None) -> float:
    """Seconds until the next try after `tries` that counted; full jitter keeps herds apart."""
    rng = jitter or _RANDOM
    if backoff.schedule_s:
        step = backoff.schedule_s[min(tries, len(backoff.schedule_s)) - 1]
        return rng.uniform(step * 0.8, step * 1.2)
    ceiling = min(backoff.cap_s, backoff.base_s * 2.0 ** min(tries - 1, 60))
    return rng.uniform(0.0, ceiling)


def finish_of(
    job: ClaimedJob, outcome: Outcome, *, backoff: Backoff, traceparent: str | None = None
) -> Finish:
    """The write that `outcome` of this attempt asks for."""

    def finish(state: State, **fields: Any) -> Finish:  # noqa: ANN401 - as Finish says
        return Finish(job.id, job.attempt, state, traceparent=traceparent, **fields)

    match outcome:
        case Succeeded(result=result):
            return finish(State.SUCCEEDED, result=result)
        case RetryLater() if job.tries_left > 0:
            wait_s = outcome.delay_s
            if wait_s is None:  # a kind's backoff is anyone's, too
                wait_s = bounded_delay_s(delay_s(backoff, tries=job.counted)) or 0.0
            return finish(
                State.SCHEDULED,
                reason=outcome.reason,
                error=_error(outcome),
                delay_s=wait_s,
            )
        case RetryLater(reason=reason):
            reason = f"out of attempts ({job.max_attempts}): {reason}"
            return finish(State.FAILED, reason=reason, error=_error(outcome))
        case Snooze(delay_s=wait_s, reason=reason):
            return finish(
                State.SCHEDULED,
                reason=reason,
                delay_s=wait_s,
                is_counted=False,
            )
        case Failed(reason=reason, result=result):
            return finish(
                State.FAILED,
                reason=reason,
                error=_error(outcome),
                result=result,
            )
        case Cancelled(reason=reason):
            return finish(State.CANCELLED, reason=reason)
        case Unknown(reason=reason, result=result):
            return finish(State.UNKNOWN, reason=reason, result=result)
        case _ as never:
            assert_never(never)


def release_of(job: ClaimedJob, *, reason: str) -> Finish:
    """Give a claim back; it costs no attempt."""
    return Finish(job.id, job.attempt, State.READY, reason=reason)


def _error(outcome: RetryLater | Failed) -> dict[str, Any] | None:
    return outcome.error.as_json() if outcome.error else None


_RANDOM = random.SystemRandom()
