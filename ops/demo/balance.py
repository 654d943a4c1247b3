"""Both sides of one run: what the ledger says, what the inbox has, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops.demo.client import Client
    from ops.demo.receiver import Callback
    from ops.demo.requests import Story
    from ops.demo.target import Target

FINISHED = ("succeeded", "failed", "cancelled", "unknown")
# The gateway tells messages job by job; the tally wants all messages of a run at once.
_SENT = """
SELECT count(*) FROM relais.messages AS m JOIN relais.jobs AS j ON j.id = m.job_id
WHERE j.tags <> '{}' AND j.tags @> ARRAY[%s] AND m.state = 'sent'
"""


@dataclass(frozen=True, slots=True)
class Balance:
    """One run's figures.

    `by_queue` is the ledger by queue and state, `inbox` what lies there for this run, and
    `callbacks` counts those that arrived with a right signature.
    """

    accepted: int
    by_queue: dict[str, dict[str, int]]
    messages_sent: int
    inbox: int
    duplicates: int
    refused: int
    deferred: int
    callbacks: int

    def count(self, state: str) -> int:
        """Jobs in a finished `state`, all queues together."""
        return sum(states.get(state, 0) for states in self.by_queue.values())

    @property
    def open(self) -> int:
        """Jobs that are neither succeeded, failed, cancelled nor unknown."""
        return sum(sum(states.values()) for states in self.by_queue.values()) - self.finished

    @property
    def finished(self) -> int:
        """Jobs that are over."""
        return sum(self.count(state) for state in FINISHED)

    def faults(self, story: Story) -> list[str]:
        """Every sentence here is a reason why the figures do not add up."""
        found = []
        if self.accepted != self.finished + self.open:
            found.append(
                f"{self.accepted} accepted, but the ledger has {self.finished + self.open}."
            )
        if self.open:
            found.append(f"{self.open} jobs are still open.")
        if self.messages_sent != self.inbox:
            found.append(f"{self.messages_sent} messages sent, but {self.inbox} in the inbox.")
        if self.duplicates:
            found.append(f"{self.duplicates} mails arrived more than once.")
        if self.count("failed") != story.refused:
            found.append(f"{self.count('failed')} failed; {story.refused} was expected.")
        if self.callbacks != 1:
            found.append(f"{self.callbacks} signed callbacks arrived instead of 1.")
        return found


def read(
    client: Client,
    story: Story,
    callbacks: Sequence[Callback],
    *,
    accepted: int,
    secret: str,
    target: Target,
) -> Balance:
    """The figures of one run as they stand now; `secret` is that of the receiver of callbacks."""
    inbox = client.inbox_counts(story.domain)
    with psycopg.connect(target.database_url) as connection:
        found = connection.execute(_SENT, (story.tag,)).fetchone()
    return Balance(
        accepted=accepted,
        by_queue=client.job_counts(story.tag),
        messages_sent=found[0] if found else 0,
        inbox=inbox["messages"],
        duplicates=inbox["duplicates"],
        refused=inbox["refused"],
        deferred=inbox["deferred"],
        callbacks=sum(one.is_signed(secret) for one in callbacks),
    )
