"""Every periodic job of Relais, in one table. Users' own schedules are in Postgres.

A line fires into the ledger, never into Redis: each of its moments becomes one job, however many
beats run. A moment is left out while the job of the one before is still open, though not for ever,
and after a time without a beat only the newest moment is fired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.kinds import QUEUES
from tasks.periodic import Cron, Every, Periodic

if TYPE_CHECKING:
    from runtime.settings import Settings


def beat_schedule(settings: Settings) -> tuple[Periodic, ...]:
    """The table, for these settings."""
    return (
        # What is past its time goes, in slices: on `bulk`, where it delays nobody's mail, in the
        # lane `system`, which nobody's pause stops.
        Periodic("retention", "relais.retention", Cron("*/10 * * * *"), queue="bulk"),
        # The books are kept; how deep and how old every queue is, into the log.
        Periodic("queue-health", "relais.queue_health", Every(60), queue="bulk"),
        # Through every queue, ahead of its backlog: a queue is alive if canaries come through.
        *(
            Periodic(
                f"canary-{queue}",
                "relais.canary",
                Every(settings.canary_s),
                queue=queue,
                payload={"queue": queue},
            )
            for queue in QUEUES
        ),
    )
