"""Which queue a job waits in: one small table of rules, first match wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.kinds import QUEUES, Kind

LARGE_PAYLOAD_BYTES = 256 * 1024
URGENT = timedelta(minutes=2)
WISHES = ("critical", "template", "bulk")
BULK_WORKFLOWS = ("bulk-", "campaign-")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may look at."""

    kind: Kind
    wish: str | None
    payload_bytes: int
    workflow_id: str
    deadline: datetime | None


@dataclass(frozen=True, slots=True)
class Rule:
    """If `applies`, the job goes to `queue` (or where the function says)."""

    why: str
    applies: Callable[[Facts], bool]
    queue: str | Callable[[Facts], str]


RULES = (
    Rule(
        "vectors and callbacks stay where they cannot starve mail",
        lambda facts: facts.kind.queue in {"vector", "callback"},
        lambda facts: facts.kind.queue,
    ),
    Rule(
        "the caller's wish, among the queues for everybody",
        lambda facts: facts.wish in WISHES,
        lambda facts: facts.wish or "",
    ),
    Rule(
        "a deadline that is near",
        lambda facts: facts.deadline is not None and facts.deadline - datetime.now(UTC) <= URGENT,
        "critical",
    ),
    Rule(
        "workflows that say they are bulk",
        lambda facts: facts.workflow_id.startswith(BULK_WORKFLOWS),
        "bulk",
    ),
    Rule(
        "large payloads do not hold up small ones",
        lambda facts: facts.payload_bytes > LARGE_PAYLOAD_BYTES,
        "bulk",
    ),
    Rule("the kind's own queue", lambda _: True, lambda facts: facts.kind.queue),
)


def route(
    *,
    kind: Kind,
    wish: str | None,
    payload_bytes: int,
    workflow_id: str | None,
    deadline: datetime | None,
) -> str:
    """The queue for a job; one of `tasks.kinds.QUEUES`."""
    facts = Facts(kind, wish, payload_bytes, workflow_id or "", deadline)
    rule = next(rule for rule in RULES if rule.applies(facts))
    queue = rule.queue if isinstance(rule.queue, str) else rule.queue(facts)
    if queue not in QUEUES:
        message = f"There is no queue {queue!r}."
        raise ValueError(message)
    return queue
