"""Judges the histories of a run. Pure: the same history, the same verdict.

A delivery that is not the first to its recipient is in the SMTP window only where the earlier one
was the dot of an attempt that heard no answer to it, and whose worker died or whose connection
broke; the witness's marks and the job's events tell. Anything else that came twice is elsewhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops.chaos import chains

if TYPE_CHECKING:
    from ops.chaos.history import Attempted, Call, History, Job, Message

AT_MOST_ONCE = "once"
NEVER_TWICE = frozenset({AT_MOST_ONCE, "header"})  # the recorder keeps its word about the header
DOUBTFUL = frozenset({"sent", "unknown", "dot_sent"})  # what the books may say of a delivery
OWN_KINDS = frozenset({"http.callback"})
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
    states: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        wrong = (self.lost, self.unexpected, self.duplicates_elsewhere, self.illegal_histories)
        return not any(wrong) and not self.unbalanced


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


def mail_duplicates(history: History) -> tuple[list[str], list[str]]:
    """Deliveries beyond the first: elsewhere, and inside the SMTP window."""
    counts = Counter(delivery.recipient for delivery in history.deliveries)
    relays = {r: asked.relay for asked in history.attempted.values() for r in asked.recipients}
    messages = {message.recipient: message for message in history.messages}
    elsewhere: list[str] = []
    within: list[str] = []
    for recipient, count in counts.items():
        if count == 1:
            continue
        message = messages.get(recipient)
        excused = 0
        if message is not None and relays.get(recipient) not in NEVER_TWICE:
            answered = any(mark.state == "sent" for mark in message.marks)
            job = history.jobs.get(message.job_id)
            excused = len(unanswered_dots(message, job)) - (0 if answered else 1)
        extra = count - 1
        sentence = f"{recipient} got {count} (excused: {max(0, excused)})"
        within += [sentence] * min(extra, max(0, excused))
        elsewhere += [sentence] * (extra - min(extra, max(0, excused)))
    return elsewhere, within


def unanswered_dots(message: Message, job: Job | None) -> list[int]:
    """Attempts whose dot went out, and that then died or lost the connection without an answer."""
    found: list[int] = []
    tries = 0
    for attempt in sorted({mark.attempt for mark in message.marks}):
        marks = [mark for mark in message.marks if mark.attempt == attempt]
        dot = next((i for i, mark in enumerate(marks) if mark.tries > tries), None)
        tries = max(tries, *(mark.tries for mark in marks))
        if dot is None or marks[-1].state not in {"dot_sent", "unknown"}:
            continue
        was_noted = any(
            later.tries == earlier.tries
            for earlier, later in zip(marks[dot:], marks[dot + 1 :], strict=False)
        )
        if was_noted or (job is not None and chains.was_taken_back(job, attempt)):
            found.append(attempt)
    return found


def callback_duplicates(history: History) -> tuple[int, list[str]]:
    """Redeliveries whose cause was a lost or bad answer; and what came twice without one."""
    by_id: dict[str, list[Call]] = defaultdict(list)
    ids_of: dict[str, set[str]] = defaultdict(set)
    for call in history.calls:
        by_id[call.webhook_id].append(call)
        ids_of[call.name].add(call.webhook_id)
    ends = {job.key: chains.ends_of(job) for job in history.jobs.values()}
    found = [
        f"{name} ended {ends.get(name, 0)} times and was called back under {len(ids)} ids"
        for name, ids in ids_of.items()
        if len(ids) > ends.get(name, 0)
    ]
    redeliveries = 0
    for webhook_id, calls in by_id.items():
        job = history.jobs.get(webhook_id.removeprefix("msg_"))
        attempts = 0 if job is None else sum(e.to_state == "running" for e in job.events)
        if len(calls) > attempts:
            found.append(f"{webhook_id} arrived {len(calls)} times in {attempts} attempts")
            continue
        redeliveries += len(calls) - 1
    return redeliveries, found


def unbalanced(history: History) -> list[str]:
    """Where the books and the world differ."""
    found: list[str] = []
    delivered = Counter(delivery.recipient for delivery in history.deliveries)
    entered = {message.recipient: message for message in history.messages}
    found += [
        f"{message.recipient} is sent in the books and never arrived"
        for message in history.messages
        if message.state == "sent" and not delivered[message.recipient]
    ]
    for recipient in delivered:
        state = entered[recipient].state if recipient in entered else "missing"
        if state not in DOUBTFUL:
            found.append(f"{recipient} was delivered and is {state} in the books")
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
    refused = any(recipient in history.refused_addresses for recipient in asked.recipients)
    reason = job.reason or ""
    if (doubt := next((e for e in job.events if e.to_state == "unknown"), None)) is not None:
        is_right = refused or (asked.relay == AT_MOST_ONCE and _has_open_dot(history, job))
        if not is_right:
            return f"was unknown: {doubt.reason}"
    if job.state == "succeeded":
        if asked.kind == "template.render" and job.rendered != f"Bonjour {asked.key}":
            return f"rendered {job.rendered!r}"
        owed = [recipient for recipient in asked.recipients if recipient not in delivered]
        return f"is said to be sent, and {owed[0]} got nothing" if owed else None
    if job.state == "failed":
        is_right = refused or reason.startswith(("parent job ", "resolved by "))
        if asked.key in history.poison:
            is_right = reason.startswith("poison")
        return None if is_right else f"failed: {reason}"
    if job.state == "cancelled":
        is_right = asked.key in history.cancel_asked or reason.startswith("parent job ")
        return None if is_right else f"was cancelled: {reason}"
    return f"is still {job.state}: {reason}"


def _has_open_dot(history: History, job: Job) -> bool:
    return any(
        message.job_id == job.id and any(mark.tries > 0 for mark in message.marks)
        for message in history.messages
    )


def _began(job: Job) -> float | None:
    return next((event.at for event in job.events if event.to_state == "running"), None)
