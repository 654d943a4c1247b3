"""Which queue a job waits in: one small table of rules, first match wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tasks.kinds import QUEUES, Kind

LARGE_PAYLOAD_BYTES = 256 * 1024
URGENT_S = 120.0
WISHES = ("critical", "template", "bulk")
BULK_WORKFLOWS = ("bulk-", "campaign-")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may look at."""

    own: str  # the kind's queue
    wish: str | None
    is_urgent: bool
    is_bulk: bool
    is_large: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """If `applies`, the job goes where `queue` says."""

    why: str
    applies: Callable[[Facts], bool]
    queue: Callable[[Facts], str]


RULES = (
    Rule(
        "vectors and callbacks stay where they cannot starve mail",
        lambda facts: facts.own in {"vector", "callback"},
        lambda facts: facts.own,
    ),
    Rule(
        "the caller's preference, among the queues open to all",
        lambda facts: facts.wish in WISHES,
        lambda facts: facts.wish or "",
    ),
    Rule("a deadline that is near", lambda facts: facts.is_urgent, lambda _: "critical"),
    Rule("workflows marked as bulk", lambda facts: facts.is_bulk, lambda _: "bulk"),
    Rule("large payloads do not delay small ones", lambda facts: facts.is_large, lambda _: "bulk"),
    Rule("the kind's own queue", lambda _: True, lambda facts: facts.own),
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
    return _first_match(
        kind.queue,
        wish,
        left_s is not None and left_s <= URGENT_S,
        workflow_id is not None and workflow_id.startswith(BULK_WORKFLOWS),
        payload_bytes > LARGE_PAYLOAD_BYTES,
    )


@lru_cache(
    maxsize=512
)  # five facts with few values each: the rules are evaluated once per combination
def _first_match(own: str, wish: str | None, *flags: bool) -> str:
    facts = Facts(own, wish, *flags)
    queue = next(rule.queue(facts) for rule in RULES if rule.applies(facts))
    if queue not in QUEUES:
        message = f"There is no queue {queue!r}."
        raise ValueError(message)
    return queue
