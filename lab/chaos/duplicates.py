"""What was delivered more than once, and whether that is inside the SMTP window.

A delivery that is not the first to its recipient is in the window only where the earlier one was
the dot of an attempt that heard no answer to it, and whose worker died or whose connection broke;
the witness's marks and the job's events tell. Anything else that came twice is elsewhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from lab.chaos import chains

if TYPE_CHECKING:
    from lab.chaos.history import Call, History, Job, Message

AT_MOST_ONCE = "once"
NEVER_TWICE = frozenset({AT_MOST_ONCE, "header"})  # the recorder keeps its word about the header


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
