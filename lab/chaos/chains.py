"""Whether a job's events are a path through the state machine, with fences that only grow.

Snoozes in a row are one event: each after the first stands for a claim as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.chaos.history import FINISHED

if TYPE_CHECKING:
    from lab.chaos.history import Job

LEGAL: dict[str | None, frozenset[str]] = {
    None: frozenset({"blocked", "scheduled", "ready", "failed", "cancelled"}),
    "blocked": frozenset({"scheduled", "ready", "failed", "cancelled"}),
    "scheduled": frozenset({"ready", "cancelled"}),
    "ready": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"succeeded", "failed", "cancelled", "unknown", "scheduled", "ready"}),
    "succeeded": frozenset(),
    "failed": frozenset({"ready", "blocked"}),
    "cancelled": frozenset({"ready", "blocked"}),
    "unknown": frozenset({"ready", "blocked", "succeeded", "failed"}),
}
SNOOZE = ("running", "scheduled")
GIVEN_BACK = ("its worker was shutting down", "claimed, but no slot", "its claim was never")


def fault_in(job: Job) -> str | None:
    """The first thing that is wrong with the history of `job`; None: it is legal."""
    if not job.events:
        return "has no events"
    state: str | None = None
    attempt = 0
    for event in job.events:
        if event.from_state != state:
            return (
                f"event {event.seq} starts at {event.from_state}, the one before ended at {state}"
            )
        if event.to_state not in LEGAL[state]:
            return f"went from {state} to {event.to_state}"
        if event.repeats > 1 and (state, event.to_state) != SNOOZE:
            return f"event {event.seq} ({event.to_state}) repeats and is no snooze"
        claims = event.repeats - 1 + (event.to_state == "running")
        if event.attempt != attempt + claims:
            return (
                f"event {event.seq} ({event.to_state}) has attempt {event.attempt} after {attempt}"
            )
        state, attempt = event.to_state, event.attempt
    if (job.state, job.attempt) != (state, attempt):
        return f"is {job.state}, attempt {job.attempt}; its events end at {state}, {attempt}"
    return None


def ends_of(job: Job) -> int:
    """How often it ended: more than once where a person settled it or had it run again."""
    return sum(event.to_state in FINISHED for event in job.events)


def was_taken_back(job: Job, attempt: int) -> bool:
    """Whether that attempt ended because its process died or fell silent."""
    for claim, end in zip(job.events, job.events[1:], strict=False):
        if claim.to_state == "running" and claim.attempt == attempt:
            reason = end.reason or ""
            if end.to_state == "failed":
                return reason.startswith("poison")
            return end.to_state == "ready" and not reason.startswith(GIVEN_BACK)
    return False
