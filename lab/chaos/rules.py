"""Rules about jobs beside each other: who may fail, what a cancel and a parent mean, who waits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lab.chaos.recovery import Times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.chaos.history import Attempted, History, Job

SAME_CLOCK_S = 0.02  # between two readings of it
FLOOD = "tenant_floods"
FLOODED_QUEUE = "template"
NEIGHBOUR_WAITS_S = 5.0  # p99 of who hands over jobs beside a flood, from accepted to running


def is_refused(asked: Attempted, history: History) -> bool:
    """Whether the relay said 5yz to one of its recipients."""
    return any(recipient in history.refused_addresses for recipient in asked.recipients)


def may_fail(job: Job, history: History) -> bool:
    """Whether there is a right cause for its failure, which is told with it."""
    reason = job.reason or ""
    asked = history.attempted.get(job.key or "")
    if asked is None or not reason:
        return False
    if reason.startswith("poison"):
        return asked.key in history.poison
    if asked.key in history.poison:
        return False
    is_own = asked.ends == "failed" and not asked.parents
    is_settled = reason.startswith("resolved by ")
    return is_own or is_settled or is_refused(asked, history) or follows_parent(job, history)


def follows_parent(job: Job, history: History) -> bool:
    """Whether it ended because a parent of its own had ended so."""
    asked = history.attempted.get(job.key or "")
    words = (job.reason or "").split(" ")
    if asked is None or words[:2] != ["parent", "job"] or words[2] not in asked.parents:
        return False
    parent = history.jobs.get(words[2])
    return parent is not None and any(event.to_state == job.state for event in parent.events)


def innocent_failed(history: History) -> list[str]:
    """Jobs that failed through no fault of their own, acknowledged or not, ours or a caller's."""
    found = [
        f"{job.id} ({job.kind}, {job.key}) failed: {job.reason}"
        for job in history.jobs.values()
        if job.state == "failed" and not may_fail(job, history)
    ]
    return found + [f"{sentence}" for sentence in history.failed_elsewhere]


def ran_after_cancel(history: History, by_key: Mapping[str, Job]) -> list[str]:
    """Jobs that ran again after their cancel was taken, or had an effect then."""
    found: list[str] = []
    begun = {(run.key, run.attempt): run.at for run in history.runs if run.what == "began"}
    for key, taken_at in history.cancel_taken.items():
        job = by_key.get(key)
        if job is None:
            continue
        late_s = [
            event.at - taken_at
            for event in job.events
            if event.to_state == "running" and event.at > taken_at + SAME_CLOCK_S
        ]
        if late_s:
            began = sum(k == key and at > taken_at + SAME_CLOCK_S for (k, _), at in begun.items())
            found.append(
                f"{key} was claimed {len(late_s)} times after its cancel was taken, first "
                f"{late_s[0]:.2f} s after; {began} runs began then"
            )
    return found


def ran_before_parents(history: History) -> list[str]:
    """Jobs that ran while one that they wait for had not succeeded."""
    found: list[str] = []
    for job in history.jobs.values():
        asked = history.attempted.get(job.key or "")
        parents = [history.jobs.get(parent) for parent in (asked.parents if asked else ())]
        for claim in (event for event in job.events if event.to_state == "running"):
            states = [(parent.id, _state_at(parent, claim.at)) for parent in parents if parent]
            bad = [f"{parent} was {state}" for parent, state in states if state != "succeeded"]
            if bad:
                found.append(f"{job.key} ran while its parent {bad[0]}")
                break
    return found


def late(history: History) -> list[str]:
    """Who waited for somebody else's trouble longer than is allowed."""
    found = [
        f"{probe.fault}: {probe.what} took "
        + (f"{probe.seconds:.1f} s" if math.isfinite(probe.seconds) else "no end")
        + f", {probe.bound_s:g} s are allowed"
        for probe in history.probes
        if probe.seconds > probe.bound_s
    ]
    p99_s = neighbour_waits(history).quantile(0.99)
    if p99_s is not None and p99_s > NEIGHBOUR_WAITS_S:
        found.append(
            f"{FLOOD}: jobs of another tenant waited {p99_s:g} s (p99), "
            f"{NEIGHBOUR_WAITS_S:g} s are allowed"
        )
    return found


def neighbour_waits(history: History) -> Times:
    """From accepted to running, of jobs handed over beside another tenant's flood."""
    floods = [fault for fault in history.faults if fault.kind == FLOOD and fault.is_met]
    seconds = []
    for job in history.jobs.values():
        asked = history.attempted.get(job.key or "")
        if asked is None or asked.tenant != "default" or asked.queue != FLOODED_QUEUE:
            continue
        if asked.delay_s or asked.parents:
            continue
        if any(fault.began <= job.created_at <= fault.ended for fault in floods):
            ran = next((e.at for e in job.events if e.to_state == "running"), math.inf)
            seconds.append(ran - job.created_at)
    return Times.of(seconds)


def _state_at(job: Job, moment: float) -> str | None:
    """Its state at that moment, a hair's breadth later by the clock."""
    before = [event for event in job.events if event.at <= moment + SAME_CLOCK_S]
    return before[-1].to_state if before else None
