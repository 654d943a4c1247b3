"""Which queue a job waits in: one small table of rules, first match wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.kinds import QUEUES, Kind

LARGE_PAYLOAD_BYTES = 256 * 1024
URGENT_S = 120.0
WISHES = ("critical", "template", "bulk")
BULK_WORKFLOWS = ("bulk-", "campaign-")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may look at."""

    kind: Kind
    wish: str | None
    payload_bytes: int
    workflow_id: str
    left_s: float | None  # until the deadline


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
        lambda facts: facts.left_s is not None and facts.left_s <= URGENT_S,
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
    left_s: float | None,
) -> str:
    """The queue for a job; one of `tasks.kinds.QUEUES`.

    `left_s`: until its deadline, by the database's clock; None: it has none.
    """
    facts = Facts(kind, wish, payload_bytes, workflow_id or "", left_s)
    rule = next(rule for rule in RULES if rule.applies(facts))
    queue = rule.queue if isinstance(rule.queue, str) else rule.queue(facts)
    if queue not in QUEUES:
        message = f"There is no queue {queue!r}."
        raise ValueError(message)
    return queue
