"""Judges the histories of a run. Pure: the same history, the same verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.chaos import chains, rules
from lab.chaos.duplicates import AT_MOST_ONCE, callback_duplicates, mail_duplicates

if TYPE_CHECKING:
    from lab.chaos.history import Attempted, History, Job

DOUBTFUL = frozenset({"sent", "unknown", "dot_sent"})  # what the ledger may say of a delivery
# What must be nought.
PROMISES = (
    "lost",
    "unexpected",
    "duplicates_elsewhere",
    "illegal_histories",
    "unbalanced",
    "innocent_failed",
    "late",
)
OWN_KINDS = frozenset({"http.callback"})
NO_TEXT = "\ufffd"  # what stands for a character that is none
EARLY_S = 0.02  # between two readings of the same clock


@dataclass(slots=True)
class Verdict:
    """What was found; each entry a sentence with the key or the job that it is about."""

    attempted: int = 0
    acknowledged: int = 0
    succeeded: int = 0
    recovered: int = 0  # never acknowledged, and done all the same
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    duplicates_elsewhere: list[str] = field(default_factory=list)
    duplicates_in_smtp_window: list[str] = field(default_factory=list)
    callback_redeliveries: int = 0
    illegal_histories: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)
    innocent_failed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)  # who waited too long for others' trouble
    states: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return not any(getattr(self, name) for name in PROMISES)


def judge(history: History) -> Verdict:
    """Everything that is to be said about a run."""
    verdict = Verdict(attempted=len(history.attempted), acknowledged=len(history.acknowledged))
    verdict.states = dict(Counter(job.state for job in history.jobs.values()))
    by_key = {job.key: job for job in history.jobs.values() if job.key is not None}
    _count(history, by_key, verdict)
    verdict.lost = lost(history)
    verdict.unexpected = unexpected(history, by_key)
    elsewhere, within = mail_duplicates(history)
    verdict.duplicates_in_smtp_window = within
    redeliveries, repeated = callback_duplicates(history)
    verdict.callback_redeliveries = redeliveries
    twice = [f"{key} was acknowledged with two ids" for key in history.acknowledged_twice]
    verdict.duplicates_elsewhere = [*twice, *elsewhere, *repeated]
    if history.stray_ticks:
        verdict.duplicates_elsewhere.append(f"{history.stray_ticks} jobs have no tick of their own")
    verdict.illegal_histories = [
        f"{job.id} {job.key or job.kind}: {why}"
        for job in history.jobs.values()
        if (why := chains.fault_in(job)) is not None
    ]
    verdict.unbalanced = unbalanced(history)
    verdict.innocent_failed = rules.innocent_failed(history)
    verdict.late = rules.late(history)
    return verdict


def lost(history: History) -> list[str]:
    """Acknowledged jobs that did not come to the end that they should."""
    delivered = {delivery.recipient for delivery in history.deliveries}
    called = {call.name for call in history.calls if 200 <= call.status < 300}
    callbacks = {
        job.accepted_by: job for job in history.jobs.values() if job.kind == "http.callback"
    }
    found: list[str] = []
    for key, job_id in history.acknowledged.items():
        job, asked = history.jobs.get(job_id), history.attempted[key]
        why = "is not in the ledger" if job is None else _missing(asked, job, history, delivered)
        if why is None and job is not None and asked.has_callback:
            callback = callbacks.get(f"job:{job_id}")
            if callback is None or callback.state != "succeeded":
                state = "missing" if callback is None else f"{callback.state}: {callback.reason}"
                why = f"its callback is {state}"
            elif key not in called:
                why = "its callback never arrived"
        if why is not None:
            found.append(f"{key} ({job_id}) {why}")
    return found


def unexpected(history: History, by_key: dict[str, Job]) -> list[str]:
    """Effects that nobody asked for, or sooner than asked for."""
    recipients = {r for asked in history.attempted.values() for r in asked.recipients}
    found = [f"a request was refused: {text}" for text in history.refused_requests]
    found += [
        f"{job.id} ({job.kind}, {job.key}) was never asked for"
        for job in history.jobs.values()
        if job.kind not in OWN_KINDS and job.key not in history.attempted
    ]
    found += [
        f"mail to {delivery.recipient}, who was never written to"
        for delivery in history.deliveries
        if delivery.recipient not in recipients
    ]
    for call in history.calls:
        asked = history.attempted.get(call.name)
        if asked is None or not asked.has_callback:
            found.append(f"a callback for {call.name}, which wanted none")
        if not call.is_signed:
            found.append(f"an unsigned callback for {call.name}")
    if history.inward:
        found.append(f"{history.inward} redirects inward were followed")
    delivered = {delivery.recipient for delivery in history.deliveries}
    found += history.findings
    found += rules.ran_after_cancel(history, by_key)
    found += rules.ran_before_parents(history)
    for key in history.cancelled:
        if any(recipient in delivered for recipient in history.attempted[key].recipients):
            found.append(f"{key} was cancelled and sent")
    for key, asked in history.attempted.items():
        job = by_key.get(key)
        if job is not None and asked.delay_s and (began := _began(job)) is not None:
            early_s = job.created_at + asked.delay_s - began
            if early_s > EARLY_S:
                found.append(f"{key} ran {early_s:.2f} s before its time")
    return found


def unbalanced(history: History) -> list[str]:
    """Where the ledger and the world differ."""
    found: list[str] = []
    delivered = Counter(delivery.recipient for delivery in history.deliveries)
    entered = {message.recipient: message for message in history.messages}
    found += [
        f"{message.recipient} is sent in the ledger and never arrived"
        for message in history.messages
        if message.state == "sent" and not delivered[message.recipient]
    ]
    for recipient in delivered:
        state = entered[recipient].state if recipient in entered else "missing"
        if state not in DOUBTFUL:
            found.append(f"{recipient} was delivered and is {state} in the ledger")
    callbacks = Counter(j.accepted_by for j in history.jobs.values() if j.kind == "http.callback")
    lines = Counter(message.job_id for message in history.messages)
    for job in history.jobs.values():
        wanted = chains.ends_of(job) if job.has_callback else 0
        if callbacks[f"job:{job.id}"] != wanted:
            found.append(f"{job.id} has {callbacks[f'job:{job.id}']} callbacks, not {wanted}")
        asked = history.attempted.get(job.key or "")
        if asked is None or job.state != "succeeded":
            continue
        if lines[job.id] != len(asked.recipients):
            found.append(f"{job.key} has {lines[job.id]} messages for {len(asked.recipients)}")
    return found


def _count(history: History, by_key: dict[str, Job], verdict: Verdict) -> None:
    for key in history.attempted:
        job = by_key.get(key)
        if job is not None and job.state == "succeeded":
            verdict.succeeded += 1
            verdict.recovered += key not in history.acknowledged


def _missing(asked: Attempted, job: Job, history: History, delivered: set[str]) -> str | None:
    """What `job` still owes; None: nothing."""
    refused = rules.is_refused(asked, history)
    reason = job.reason or ""
    if (doubt := next((e for e in job.events if e.to_state == "unknown"), None)) is not None:
        is_right = refused or (asked.relay == AT_MOST_ONCE and _has_open_dot(history, job))
        if not is_right:
            return f"was unknown: {doubt.reason}"
    if asked.ends not in (job.state, "succeeded"):
        return f"should have {asked.ends}, is {job.state}: {reason}"
    if job.state == "succeeded":
        rendered = (job.rendered or "").rstrip(NO_TEXT)
        if asked.kind == "template.render" and rendered != f"Bonjour {asked.key}":
            return f"rendered {job.rendered!r}"
        owed = [recipient for recipient in asked.recipients if recipient not in delivered]
        return f"is said to be sent, and {owed[0]} got nothing" if owed else None
    if job.state == "failed":
        return None if rules.may_fail(job, history) else f"failed: {reason}"
    if job.state == "cancelled":
        is_right = asked.key in history.cancel_asked or rules.follows_parent(job, history)
        return None if is_right else f"was cancelled: {reason}"
    return f"is still {job.state}: {reason}"


def _has_open_dot(history: History, job: Job) -> bool:
    return any(
        message.job_id == job.id and any(mark.tries > 0 for mark in message.marks)
        for message in history.messages
    )


def _began(job: Job) -> float | None:
    return next((event.at for event in job.events if event.to_state == "running"), None)
